"""A tiny training: the default space on the clean digits, a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest

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
