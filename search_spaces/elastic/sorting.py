"""Putting the most important units first, without changing what the largest network computes.

A unit's importance is the sum of the absolute weights into and out of it (ViT-ResNAS, Liao et al.
2021, sorts by it as it trains).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from search_spaces.elastic.attention import Attention


@torch.no_grad()
def sort_units(before: Sequence[nn.Linear], after: nn.Linear, places: Tensor | None = None) -> None:
    """Permute hidden units between layers, in place.

    Args:
        before: whose outputs they are; several where a gate multiplies them.
        after: whose inputs they are.
        places: of the most important unit, of the next and so on, (units,); in their order unless
            given.
    """
    importance = after.weight.abs().sum(0)
    for layer in before:
        importance = importance + layer.weight.abs().sum(1)
        if layer.bias is not None:
            importance = importance + layer.bias.abs()
    order = importance.argsort(descending=True, stable=True)
    if places is not None:
        order = torch.empty_like(order).index_copy_(0, places.to(order.device), order)
    for layer in before:
        layer.weight.copy_(layer.weight[order])
        if layer.bias is not None:
            layer.bias.copy_(layer.bias[order])
    after.weight.copy_(after.weight[:, order])


@torch.no_grad()
def sort_heads(attention: Attention) -> None:
    """Permute whole heads, in place: their queries, keys, values and columns of the projection."""
    qkv, proj = attention.qkv, attention.proj
    grid = (-1, attention.head_width)
    weight, bias = qkv.weight.unflatten(0, (3, *grid)), qkv.bias.unflatten(0, (3, *grid))
    out = proj.weight.unflatten(1, grid)
    importance = weight.abs().sum((0, 2, 3)) + bias.abs().sum((0, 2)) + out.abs().sum((0, 2))
    order = importance.argsort(descending=True, stable=True)
    qkv.weight.copy_(weight[:, order].flatten(0, 2))
    qkv.bias.copy_(bias[:, order].flatten())
    proj.weight.copy_(out[:, order].flatten(1))
