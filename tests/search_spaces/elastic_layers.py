"""Random layers, and the plain layer of the numbers that an elastic one is cut to."""

from __future__ import annotations

import itertools
import math
from typing import TypeVar

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn

from search_spaces.elastic import (
    Elastic,
)

M = TypeVar("M", bound=nn.Module)
quick = settings(max_examples=40, deadline=None)


def randomised(module: M, seed: int = 0) -> M:
    """The module with every number random, the kernel transforms and statistics too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        for name, tensor in module.named_buffers():
            if "running" in name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module


def noise(*shape: int, seed: int = 9) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def loaded(plain: M, elastic: Elastic) -> M:
    """The plain layer with the slices of the elastic one."""
    plain.load_state_dict(elastic.active_state())
    return plain.train(elastic.training)


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A grid of one to three axes, and what is active of each."""
    full = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    return full, tuple(draw(st.integers(1, size)) for size in full)


def picked(grid: tuple[int, ...], active: tuple[int, ...]) -> list[int]:
    """Flat indices of the active entries, counted out one by one."""
    strides = [math.prod(grid[i + 1 :]) for i in range(len(grid))]
    places = itertools.product(*map(range, active))
    return [sum(p * s for p, s in zip(place, strides, strict=True)) for place in places]
