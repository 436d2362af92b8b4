"""The elastic toolbox: layers that hold the largest weights and run on a slice of them.

Weight sharing is by prefix (weight entanglement, AutoFormer, arXiv:2107.00651; nested units,
MatFormer, arXiv:2310.07707). A slice is a view: nothing is copied or masked until `extract`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from search_spaces.space import Architecture, SearchSpace

Arithmetic = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _within(active: int, full: int, what: str) -> int:
    if not 1 <= active <= full:
        raise ValueError(f"{what} of {active} is outside 1..{full}")
    return active


class ElasticLinear(nn.Linear):
    """A linear layer that runs on the first input and output features.

    Args:
        in_features: of the largest.
        out_features: of the largest.
        parts: equal parts of the output that are sliced alike: 3 for fused (q, k, v), whose rows
            stand as (part, feature), weight and bias in the same layout.

    Attributes:
        arithmetic: how input, weight and bias make the output; a plain linear map unless set.
    """

    def __init__(self, in_features: int, out_features: int, parts: int = 1) -> None:
        super().__init__(in_features, out_features)
        self.parts = parts
        self.active_in = in_features
        self.active_out = out_features
        self.arithmetic: Arithmetic = F.linear

    def activate(self, in_features: int, out_features: int) -> None:
        """Run on this many input and output features (the output over all parts)."""
        self.active_in = _within(in_features, self.in_features, "input width")
        self.active_out = _within(out_features, self.out_features, "output width")

    def active_state(self) -> dict[str, Tensor]:
        """The active slices: weight (out, in) and bias (out,)."""
        weight: Tensor = self.weight[:, : self.active_in]
        bias: Tensor = self.bias
        if self.parts > 1 and self.active_out < self.out_features:
            per_part = self.active_out // self.parts
            shape = (self.parts, self.out_features // self.parts)
            weight = weight.view(*shape, -1)[:, :per_part].flatten(0, 1)
            bias = bias.view(shape)[:, :per_part].flatten()
        return {"weight": weight[: self.active_out], "bias": bias[: self.active_out]}

    def forward(self, x: Tensor) -> Tensor:
        """(..., active in) -> (..., active out)."""
        state = self.active_state()
        return self.arithmetic(x, state["weight"], state["bias"])


class ElasticConv2d(nn.Conv2d):
    """A convolution that gives the first output channels."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)
        self.active_out = out_channels

    def activate(self, out_channels: int) -> None:
        """Give this many channels."""
        self.active_out = _within(out_channels, self.out_channels, "channels")

    def active_state(self) -> dict[str, Tensor]:
        """The active slices."""
        state = {"weight": self.weight[: self.active_out]}
        if self.bias is not None:
            state["bias"] = self.bias[: self.active_out]
        return state

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, height, width) -> (batch, active out, height', width')."""
        state = self.active_state()
        return F.conv2d(x, state["weight"], state.get("bias"), self.stride)


class ElasticLayerNorm(nn.LayerNorm):
    """Layer norm over the active width: affine sliced AND statistics over the slice alone."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps=eps)
        self.active_width = width

    def activate(self, width: int) -> None:
        """Normalise over this many features."""
        self.active_width = _within(width, self.normalized_shape[0], "width")

    def active_state(self) -> dict[str, Tensor]:
        """The active slices."""
        return {"weight": self.weight[: self.active_width], "bias": self.bias[: self.active_width]}

    def forward(self, x: Tensor) -> Tensor:
        """(..., active width) -> the same."""
        state = self.active_state()
        return F.layer_norm(x, (self.active_width,), state["weight"], state["bias"], self.eps)


class Tokens(nn.Module):
    """Class token and learned absolute positions: (batch, patches, width) -> one token more.

    Args:
        n_patches: tokens of an image.
        width: of a token.
        position_std: of the initial positions. On small images little else tells patches apart.
    """

    def __init__(self, n_patches: int, width: int, position_std: float) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, n_patches + 1, width))
        nn.init.normal_(self.cls, std=0.02)
        nn.init.normal_(self.position, std=position_std)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.position


class ElasticTokens(Tokens):
    """Class token and positions whose first features are used."""

    def __init__(self, n_patches: int, width: int, position_std: float) -> None:
        super().__init__(n_patches, width, position_std)
        self.active_width = width

    def activate(self, width: int) -> None:
        """Use this many features."""
        self.active_width = _within(width, self.cls.shape[-1], "width")

    def active_state(self) -> dict[str, Tensor]:
        """The active slices."""
        return {
            "cls": self.cls[..., : self.active_width],
            "position": self.position[..., : self.active_width],
        }

    def forward(self, x: Tensor) -> Tensor:
        state = self.active_state()
        return torch.cat([state["cls"].expand(x.shape[0], -1, -1), x], dim=1) + state["position"]


class ElasticSequential(nn.Sequential):
    """A stack of layers of which the first run."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.active_depth = len(layers)

    def activate(self, depth: int) -> None:
        """Run the first `depth` layers."""
        self.active_depth = _within(depth, len(self), "depth")

    def active_state(self) -> dict[str, Tensor]:
        """A stack owns no weights."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(self)[: self.active_depth]:
            x = layer(x)
        return x


ELASTIC = (ElasticLinear, ElasticConv2d, ElasticLayerNorm, ElasticTokens, ElasticSequential)


class Supernet(nn.Module):
    """A weight-sharing network that holds every architecture of a space.

    Args:
        space: whose `slices` say what an architecture activates.
        network: the largest network, made of elastic layers under the module names of the plain
            one: a slice of a parameter here is the parameter of the same name there.
    """

    def __init__(self, space: SearchSpace, network: nn.Module) -> None:
        super().__init__()
        self.space = space
        self.network = network
        self.active: Architecture = space.largest()

    def forward(self, x: Tensor) -> Tensor:
        """The active architecture's output."""
        out: Tensor = self.network(x)
        return out

    def activate(self, arch: Architecture) -> Supernet:
        """Run as this architecture from now on; nothing is copied.

        Raises:
            UsageError: if it is no architecture of the space.
        """
        self.space.choices.encode(arch)
        for name, widths in self.space.slices(arch).items():
            module = self.network.get_submodule(name)
            if not isinstance(module, ELASTIC):
                raise TypeError(f"{name} is no elastic layer")
            module.activate(*widths)
        self.active = dict(arch)
        return self

    def linears(self, names: tuple[str, ...]) -> list[ElasticLinear]:
        """The elastic linear layers of these module names."""
        found = [self.network.get_submodule(name) for name in names]
        return [module for module in found if isinstance(module, ElasticLinear)]

    def extract(self, arch: Architecture) -> nn.Module:
        """A plain network with contiguous copies of the weights, in this one's mode and type."""
        before = self.active
        plain = self.space.build(arch)
        wanted = plain.state_dict()
        self.activate(arch)
        state = {
            f"{name}.{key}": value.detach().clone(memory_format=torch.contiguous_format)
            for name, module in self.network.named_modules()
            if isinstance(module, ELASTIC)
            for key, value in module.active_state().items()
            if f"{name}.{key}" in wanted  # layers beyond the depth own slices too
        }
        self.activate(before)
        some = next(self.parameters())
        plain.to(device=some.device, dtype=some.dtype).load_state_dict(state)
        return plain.train(self.training)
