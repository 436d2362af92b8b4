"""Elastic linear layers and embeddings."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.elastic.base import Arithmetic, Elastic, within

Sizes = int | tuple[int, ...]


class ElasticLinear(Elastic, nn.Linear):
    """A linear layer that runs on the first input and output features.

    Args:
        in_features: of the largest.
        out_features: of the largest.
        bias: whether there is one.
        in_grid: the input features as a grid of which each axis is cut by itself, such as
            (heads, head width); a plain row unless given.
        out_grid: the output features likewise, such as (3, heads, head width) for fused q, k, v.
            Weight and bias have the same layout.

    Attributes:
        arithmetic: how input, weight and bias make the output; a plain linear map unless set.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        in_grid: tuple[int, ...] | None = None,
        out_grid: tuple[int, ...] | None = None,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias=bias)
        self.in_grid = in_grid or (in_features,)
        self.out_grid = out_grid or (out_features,)
        if (math.prod(self.in_grid), math.prod(self.out_grid)) != (in_features, out_features):
            raise ValueError("a grid of features does not have the layer's size")
        self.active_in = self.in_grid
        self.active_out = self.out_grid
        self.arithmetic: Arithmetic = F.linear

    def activate(self, in_features: Sizes, out_features: Sizes) -> None:
        """Run on this many input and output features, given as the grids are."""
        self.active_in = _cut(in_features, self.in_grid, "input width")
        self.active_out = _cut(out_features, self.out_grid, "output width")

    def active_state(self) -> dict[str, Tensor]:
        """The active slices: weight (out, in) and bias (out,)."""
        weight: Tensor = self.weight
        if self.active_in != self.in_grid:
            weight = _prefix(weight, self.in_grid, self.active_in, dim=1)
        if self.active_out != self.out_grid:
            weight = _prefix(weight, self.out_grid, self.active_out, dim=0)
        state = {"weight": weight}
        if self.bias is not None:
            state["bias"] = _prefix(self.bias, self.out_grid, self.active_out, dim=0)
        return state

    def forward(self, x: Tensor) -> Tensor:
        """(..., active in) -> (..., active out)."""
        state = self.active_state()
        return self.arithmetic(x, state["weight"], state.get("bias"))


def _cut(sizes: Sizes, grid: tuple[int, ...], what: str) -> tuple[int, ...]:
    axes = sizes if isinstance(sizes, tuple) else (sizes,)
    if len(axes) != len(grid):
        raise ValueError(f"{what} {axes} does not have the axes of {grid}")
    return tuple(within(size, full, what) for size, full in zip(axes, grid, strict=True))


def _prefix(tensor: Tensor, grid: tuple[int, ...], active: tuple[int, ...], dim: int) -> Tensor:
    """The first entries along every axis of a grid that one dimension is made of."""
    if len(grid) == 1:
        return tensor.narrow(dim, 0, active[0])
    apart: Tensor = tensor.unflatten(dim, grid)
    for axis, size in enumerate(active):
        apart = apart.narrow(dim + axis, 0, size)
    return apart.flatten(dim, dim + len(grid) - 1)


class ElasticEmbedding(Elastic, nn.Embedding):
    """A table of which the first features are used; every entry stays."""

    def __init__(self, entries: int, width: int) -> None:
        nn.Embedding.__init__(self, entries, width)
        self.active_width = width

    def activate(self, width: int) -> None:
        """Use this many features."""
        self.active_width = within(width, self.embedding_dim, "width")

    def active_state(self) -> dict[str, Tensor]:
        """The active slice: weight (entries, width)."""
        return {"weight": self.weight[:, : self.active_width]}

    def forward(self, indices: Tensor) -> Tensor:
        """int64 (...) -> (..., active width)."""
        return F.embedding(indices, self.active_state()["weight"])
