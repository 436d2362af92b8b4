"""A recipe's first turn on a few examples, and what its losses ask of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from nas.data import Dataset, load_dataset
from nas.data.dataset import Part
from nas.training.recipe import Moment, Recipe, Stage
from nas.training.turn import Turn
from search_spaces.elastic import Supernet
from search_spaces.space import Architecture, SearchSpace

_DATA: dict[str, Dataset] = {}


def few(part: Part) -> Part:
    """The first examples; all would take longer to evaluate than to train on."""
    return Part(part.stored[:256], part.labels[:256], part.preprocessing, part.draws)


def few_examples(name: str) -> Dataset:
    if name not in _DATA:
        data = load_dataset(name)
        _DATA[name] = replace(data, train=few(data.train), validation=few(data.validation))
    return _DATA[name]


def moment_of(stage: str = "all", share: float = 0.0) -> Moment:
    return Moment(Stage(stage), 0, share)


def drawn(recipe: Recipe, space: SearchSpace, moment: Moment, n: int) -> list[list[Architecture]]:
    rng = np.random.default_rng(0)
    return [list(recipe.subnets(space, moment, rng)) for _ in range(n)]


def values_of(
    steps: list[list[Architecture]], ending: Callable[[str], bool]
) -> dict[str, set[int | float | str]]:
    found: dict[str, set[int | float | str]] = {}
    for arch in (arch for step in steps for arch in step):
        for name, value in arch.items():
            if ending(name):
                found.setdefault(name, set()).add(value)
    return found


def first_turn(
    recipe: Recipe, space: SearchSpace, data: Dataset, moment: Moment, n: int = 12
) -> tuple[Turn, Supernet]:
    """A step's turn on the data's first examples; nothing is trained yet."""
    network = space.supernet(1).train()
    inputs, labels = data.train.batch(torch.arange(n))
    subnets = recipe.subnets(space, moment, np.random.default_rng(1))
    helpers = recipe.helpers(network)
    return Turn(network, helpers, moment, subnets, inputs, labels, recipe.label_smoothing), network


def gradients_of(network: Supernet, losses: Iterator[tuple[Tensor, float]]) -> dict[str, Tensor]:
    """As the loop collects them."""
    network.zero_grad()
    for loss, weight in losses:
        torch.autograd.backward(loss * weight)
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def assert_same(ours: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert ours.keys() == wanted.keys()
    largest = max(float(g.abs().max()) for g in wanted.values())
    assert largest > 0
    for name, gradient in wanted.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-4, atol=1e-5 * largest), name
