"""A tiny training: the default space on the clean digits, a few steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import search_spaces
from nas.data import Dataset, load_dataset
from nas.training import TrainedSupernet, train_supernet
from nas.training.recipes.sandwich import Sandwich
from search_spaces.space import SearchSpace


@pytest.fixture(scope="session")
def tiny() -> Sandwich:
    return Sandwich(epochs=2, examples_per_epoch=48, batch_size=16, random_subnets=1)


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    return search_spaces.get("vit", "digits")


@pytest.fixture(scope="session")
def data() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="session")
def kept(
    tiny: Sandwich, space: SearchSpace, data: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> TrainedSupernet:
    folder: Path = tmp_path_factory.mktemp("supernets")
    return train_supernet(space, data, tiny, 0, folder=folder)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
