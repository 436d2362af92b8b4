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
        drop_path: index in the largest network -> rate at which the layer is left out for an
            example in training (stochastic depth, arXiv:1603.09382), whichever others run. A
            layer that changes the shape of its input is never left out.
    """

    def __init__(self, layers: Mapping[int, nn.Module]) -> None:
        Stack.__init__(self, layers)
        self.kept = tuple(layers)
        self.drop_path = dict.fromkeys(layers, 0.0)

    def activate(self, *kept: int) -> None:
        """Run the layers of these indices."""
        if not kept or not set(kept) <= {int(name) for name, _ in self.named_children()}:
            raise ValueError(f"{kept} are not layers of this stack")
        self.kept = kept

    def running(self) -> list[tuple[int, nn.Module]]:
        return [(i, layer) for i, layer in super().running() if i in self.kept]

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in self.running():
            rate = self.drop_path[index] if self.training else 0.0
            y = layer(x)
            if rate > 0 and y.shape == x.shape:
                keep = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= rate
                y = x + (y - x) * keep / (1 - rate)
            x = y
        return x


def set_drop_path(network: nn.Module, last: float) -> None:
    """Rates that rise evenly from the first layer of all stacks, 0, to the last one.

    Args:
        network: whose stacks; their layers count in their order in the largest network.
        last: rate of the last layer.
    """
    stacks = [module for module in network.modules() if isinstance(module, ElasticStack)]
    places = [(stack, index) for stack in stacks for index in stack.drop_path]
    for at, (stack, index) in enumerate(places):
        stack.drop_path[index] = last * at / max(len(places) - 1, 1)
