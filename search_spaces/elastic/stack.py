"""Stacks of layers of which some run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from search_spaces.elastic.base import Elastic


class Stack(nn.Module):
    """Layers in a row, each under its index in the LARGEST network, so that names never shift.

    Args:
        layers: index in the largest network -> layer, in order.
    """

    def __init__(self, layers: Mapping[int, nn.Module]) -> None:
        super().__init__()
        for index, layer in layers.items():
            self.add_module(str(index), layer)

    def running(self) -> list[tuple[int, nn.Module]]:
        """Index in the largest network and layer of each that runs, in order."""
        return [(int(name), layer) for name, layer in self.named_children()]

    def forward(self, x: Tensor) -> Tensor:
        for _, layer in self.running():
            x = layer(x)
        return x


class ElasticStack(Elastic, Stack):
    """A stack of which some layers run: the first ones (depth), or any (skippable layers).

    Attributes:
        drop_path: stochastic depth in training (arXiv:1603.09382) for layers that keep the shape:
            the rate at which the LAST layer of the largest network is left out for an example.
            A layer's rate is its index's share of it, whichever others run.
    """

    def __init__(self, layers: Mapping[int, nn.Module]) -> None:
        Stack.__init__(self, layers)
        self.kept = tuple(layers)
        self.drop_path = 0.0

    def activate(self, *kept: int) -> None:
        """Run the layers of these indices."""
        if not kept or not set(kept) <= {int(name) for name, _ in self.named_children()}:
            raise ValueError(f"{kept} are not layers of this stack")
        self.kept = kept

    def running(self) -> list[tuple[int, nn.Module]]:
        return [(i, layer) for i, layer in super().running() if i in self.kept]

    def rate(self, index: int) -> float:
        """Drop-path rate of a layer by its index in the largest network."""
        return self.drop_path * index / max(len(list(self.children())) - 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in self.running():
            rate = self.rate(index) if self.training else 0.0
            if rate == 0.0:
                x = layer(x)
                continue
            keep = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= rate
            x = x + (layer(x) - x) * keep / (1 - rate)
        return x
