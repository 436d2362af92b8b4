"""What a training changes beside the weights: their average, and what decays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import search_spaces
from nas.training.learner import Learner
from nas.training.recipe import get_recipe
from search_spaces.space import Architecture, SearchSpace


def _learner(space: SearchSpace, **fields: Any) -> Learner:
    return Learner(space.supernet(0).train(), {}, get_recipe("multi-architecture", **fields))


def _update(learner: Learner, arch: Architecture, seed: int, rate: float = 0.05) -> None:
    """One update on random images."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, *learner.network.space.input_shape, generator=generator)
    learner.optimizer.zero_grad(set_to_none=True)
    learner.network.activate(arch)(images).square().mean().backward()
    learner.update(rate, whole=arch == learner.network.space.largest())


def _sample(space: SearchSpace, seed: int) -> Architecture:
    return space.choices.decode(space.choices.sample(1, np.random.default_rng(seed))[0])


def _floats(learner: Learner) -> dict[str, Tensor]:
    state = learner.network.state_dict()
    return {name: tensor.clone() for name, tensor in state.items() if tensor.is_floating_point()}


@pytest.mark.parametrize("name", ["vit-resnas", "ofa"])
def test_the_average_follows_weights_and_statistics(name: str) -> None:
    space = search_spaces.get(name)
    learner = _learner(space, ema=0.7)
    expected = _floats(learner)
    for n in range(1, 21):
        _update(learner, _sample(space, n), seed=n)
        decay = min(0.7, (1 + n) / (10 + n))
        now = _floats(learner)
        expected = {k: decay * v + (1 - decay) * now[k] for k, v in expected.items()}
    last = _floats(learner)
    with learner.averaged():
        torch.testing.assert_close(_floats(learner), expected)
    torch.testing.assert_close(_floats(learner), last, rtol=0, atol=0)
    learner.finish()
    torch.testing.assert_close(_floats(learner), expected)
    statistics = [key for key in expected if key.endswith("running_mean")]
    assert statistics
    assert any((expected[key] - last[key]).abs().max() > 1e-3 for key in statistics)


def test_an_average_of_sorted_weights_is_sorted_with_them() -> None:
    """The largest network of the average is the same function before and after."""
    space = search_spaces.get("ofa")
    learner = _learner(space, ema=0.9)
    for n in range(6):
        _update(learner, _sample(space, n), seed=n)
    images = torch.randn(4, *space.input_shape)

    def output() -> Tensor:
        with torch.no_grad(), learner.averaged():
            found: Tensor = learner.network.activate(space.largest()).eval()(images)
        return found

    before, weights = output(), _floats(learner)
    assert learner.sort()
    torch.testing.assert_close(output(), before, atol=1e-4, rtol=1e-4)
    assert any(not tensor.equal(weights[key]) for key, tensor in _floats(learner).items())


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("optimizer", "share"), [("adamw", 1.0), ("lazy-adamw", 1.0), ("sgd", 1.9)]
)
def test_what_was_not_trained_does_not_decay(optimizer: str, share: float, whole: bool) -> None:
    """All else decays by the rate; by Nesterov's momentum of 0.9 beside it where it is coupled."""
    space, rate = search_spaces.get("vit"), 1e-3
    ended = []
    for decay in (0.0, 0.5):
        learner = _learner(space, optimizer=optimizer, weight_decay=decay)
        weight = learner.network.network.get_submodule("layers.0.mlp.fc1").weight
        before = weight.detach().clone()
        _update(learner, space.largest() if whole else space.smallest(), seed=0, rate=rate)
        ended.append(weight.detach().clone())
    expected = -rate * share * 0.5 * before
    if not whole:
        expected[4:] = 0.0  # beside the smallest's four units of eight features
        expected[:, 8:] = 0.0
        assert ended[1][4:].equal(before[4:])
    torch.testing.assert_close(ended[1] - ended[0], expected, atol=1e-7, rtol=1e-2)
