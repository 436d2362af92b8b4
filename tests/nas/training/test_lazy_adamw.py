"""AdamW that leaves what was not used: as torch's where all is, and in a subnet's slices."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import search_spaces
from nas.training.lazy_adamw import LazyAdamW
from nas.training.learner import Learner
from nas.training.recipe import get_recipe
from search_spaces.elastic import Supernet
from search_spaces.space import Architecture, SearchSpace

BETAS = (0.9, 0.98)


def _weights(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((3, 4), (5,), (2, 1, 3))
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def _gradients(weights: list[nn.Parameter], seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        yield torch.randn(weight.shape, generator=generator)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 8), decay=st.sampled_from([0.0, 0.1]))
def test_is_adamw_where_everything_is_used(seed: int, steps: int, decay: float) -> None:
    ours = _weights(seed)
    torchs = copy.deepcopy(ours)
    lazy = LazyAdamW([{"params": ours, "weight_decay": decay}], 1e-2, BETAS)
    adamw = torch.optim.AdamW(torchs, 1e-2, BETAS, weight_decay=decay)
    for step in range(steps):
        for weights in (ours, torchs):
            for weight, gradient in zip(weights, _gradients(weights, seed + step), strict=True):
                weight.grad = gradient
        lazy.step()
        adamw.step()
    for own, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(
    used=st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=2, max_size=6),
    seed=st.integers(0, 2**31),
)
def test_each_weight_learns_from_the_updates_that_used_it(
    used: list[list[bool]], seed: int
) -> None:
    """As if each were alone under an AdamW that is asked for those updates only."""
    generator = torch.Generator().manual_seed(seed)
    together = nn.Parameter(torch.randn(12, generator=generator))
    apart = [nn.Parameter(w.detach().clone()) for w in together]
    lazy = LazyAdamW([{"params": [together], "weight_decay": 0.1}], 1e-2, BETAS)
    each = [torch.optim.AdamW([w], 1e-2, BETAS, weight_decay=0.1) for w in apart]
    for flags in used:
        gradient = torch.randn(12, generator=generator) * torch.tensor(flags)
        together.grad = gradient
        lazy.step()
        for weight, part, flag, optimizer in zip(apart, gradient, flags, each, strict=True):
            if flag:
                weight.grad = part.clone()
                optimizer.step()
    torch.testing.assert_close(together, torch.stack(list(apart)), rtol=1e-5, atol=1e-6)


def test_a_weight_without_a_gradient_stays() -> None:
    weights = _weights(0)
    before = [w.detach().clone() for w in weights]
    lazy = LazyAdamW([{"params": weights, "weight_decay": 0.1}], 1e-2, BETAS)
    weights[0].grad = torch.ones_like(weights[0])
    lazy.step()
    assert not weights[0].equal(before[0])
    assert all(w.equal(b) for w, b in zip(weights[1:], before[1:], strict=True))
    assert not any(lazy.state[w]["exp_avg"].any() for w in weights[1:])


@pytest.mark.parametrize("name", ["vit", "vit-resnas", "matlm"])
def test_a_subnet_learns_by_slices_as_its_plain_network_does(name: str) -> None:
    """And what lies beside the slices is not touched."""
    space = search_spaces.get(name)
    # Without decay: AdamW's shrinks taps of a plain network's filters that see padding only.
    recipe = get_recipe("sandwich", optimizer="lazy-adamw", weight_decay=0.0)
    # In 64 bits: gradients that are zero but for rounding, as of the keys' bias, stay below eps.
    learner = Learner(space.supernet(0).double().train(), {}, recipe)
    arch = space.choices.decode(space.choices.sample(1, np.random.default_rng(4))[0])
    plain = learner.network.activate(arch).extract(arch).train()
    alone = Learner(_Plain(space, plain), {}, replace(recipe, optimizer="adamw"))
    own = dict(learner.network.network.named_parameters())
    before = {n: p.detach().clone() for n, p in own.items()}
    used = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in own.items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        inputs = _inputs(space, generator)
        for each, whole in ((learner, False), (alone, True)):
            each.optimizer.zero_grad(set_to_none=True)
            each.network.activate(arch)(inputs).square().mean().backward()
            each.update(1e-3, whole=whole)
        used = {n: u if (g := own[n].grad) is None else u | (g != 0) for n, u in used.items()}
    trained = learner.network.activate(arch).extract(arch).state_dict()
    torch.testing.assert_close(trained, plain.state_dict(), rtol=1e-5, atol=1e-7)
    assert any(not own[n].equal(before[n]) for n in own)
    for parameter, weight in own.items():
        assert weight[~used[parameter]].equal(before[parameter][~used[parameter]]), parameter


class _Plain(Supernet):
    """A network of one architecture, to be trained alone."""

    def activate(self, arch: Architecture) -> _Plain:
        return self


def _inputs(space: SearchSpace, generator: torch.Generator) -> Tensor:
    if space.input_kind == "tokens":
        return torch.randint(space.n_classes, (4, *space.input_shape), generator=generator)
    return torch.randn(4, *space.input_shape, generator=generator, dtype=torch.float64)
