"""What the once-for-all networks are made of: convolutions with a batch norm, and their ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hw_profiles.op import Op
from search_spaces.elastic import Toolbox
from search_spaces.space import LayerOp

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
}
#: activation -> kind of op
_OP_KINDS = {"relu": "relu", "relu6": "relu", "hardswish": "hardswish"}
SQUEEZE = 4


def round_channels(width: float) -> int:
    """The nearest multiple of 8, at least 8, and at most a tenth below the width.

    >>> [round_channels(width) for width in (3, 16 * 1.2, 64 * 0.65, 11)]
    [8, 24, 40, 16]
    """
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


def hidden_channels(channels: int, expand: float) -> int:
    """Channels within a block that expands this many."""
    return round_channels(round(channels * expand))


def squeezed(channels: int) -> int:
    """Hidden units of squeeze-and-excitation on this many channels."""
    return round_channels(channels // SQUEEZE)


def strided(side: int, stride: int) -> int:
    """Side of an image after a convolution that pads by half its kernel."""
    return (side - 1) // stride + 1


class ConvNorm(nn.Module):
    """Convolution, batch norm, activation; the input is added at last where it is residual.

    Args:
        tools: plain or elastic.
        in_channels: of the input.
        out_channels: of the output.
        kernel: odd; padding keeps the size at stride 1.
        stride: of the convolution.
        activation: a key of `ACTIVATIONS`.
        eps: of the batch norm.
        kernels: sizes of a depthwise convolution of elastic kernel, or of one of its subnets;
            none for a dense convolution.
        residual: whether the input is added to the output.
    """

    def __init__(
        self,
        tools: Toolbox,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        activation: str = "",
        eps: float = 1e-5,
        kernels: Sequence[int] = (),
        residual: bool = False,
    ) -> None:
        super().__init__()
        groups = in_channels if kernels else 1
        self.conv = tools.conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups, False, kernels
        )
        self.norm = tools.batch_norm2d(out_channels, eps)
        self.activation = activation
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, height, width) -> (batch, out, height / stride, width / stride)."""
        y = ACTIVATIONS[self.activation](self.norm(self.conv(x)))
        return x + y if self.residual else y

    @staticmethod
    def slices(
        name: str, in_channels: int, out_channels: int, *kernel: int
    ) -> dict[str, tuple[Any, ...]]:
        """What activates such a layer; every batch norm must be told, to forget statistics."""
        return {
            f"{name}.conv": (in_channels, out_channels, *kernel),
            f"{name}.norm": (out_channels,),
        }

    @staticmethod
    def ops(
        batch: int,
        in_channels: int,
        side: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        activation: str = "",
        depthwise: bool = False,
        held: int = 0,
    ) -> list[LayerOp]:
        """Its ops; `held` activation elements wait meanwhile, the layer's own input not counted."""
        groups = in_channels if depthwise else 1
        shape = (
            batch, in_channels, side, side, out_channels, kernel, stride, kernel // 2, groups
        )  # fmt: skip
        conv = Op("conv2d", shape)
        live = held + conv.reads + conv.writes
        found = [LayerOp(conv, live=live, extra=2 * out_channels)]
        if activation:
            rows = conv.writes // out_channels
            acting = Op(_OP_KINDS[activation], (rows, out_channels))
            found.append(LayerOp(acting, live=held + 2 * conv.writes))
        return found


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate that sees their means (arXiv:1709.01507)."""

    def __init__(self, tools: Toolbox, channels: int) -> None:
        super().__init__()
        self.reduce = tools.linear(channels, squeezed(channels))
        self.expand = tools.linear(squeezed(channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same."""
        gate = F.hardsigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3))))))
        return x * gate[:, :, None, None]

    @staticmethod
    def slices(name: str, channels: int) -> dict[str, tuple[Any, ...]]:
        """What activates such a layer."""
        units = squeezed(channels)
        return {f"{name}.reduce": (channels, units), f"{name}.expand": (units, channels)}

    @staticmethod
    def ops(batch: int, channels: int, side: int, held: int) -> list[LayerOp]:
        """Its ops; both linears are in the group `se`."""
        units, x = squeezed(channels), batch * channels * side**2
        held += x
        return [
            mean_pool(batch, channels, side, held - x),
            linear("se", batch, channels, units, held),
            LayerOp(Op("relu", (batch, units)), live=held + 2 * batch * units),
            linear("se", batch, units, channels, held),
            LayerOp(Op("hardsigmoid", (batch, channels)), live=held + 2 * batch * channels),
            LayerOp(Op("mul", (batch * side**2, channels)), live=held + x + batch * channels),
        ]


def mean_pool(batch: int, channels: int, side: int, held: int = 0) -> LayerOp:
    """Means over whole images."""
    op = Op("pool", (batch, channels, side, side, side, side))
    return LayerOp(op, live=held + op.reads + op.writes)


def linear(
    group: str, rows: int, inputs: int, outputs: int, held: int = 0, bias: bool = True
) -> LayerOp:
    """A linear layer on pooled vectors."""
    live = held + rows * (inputs + outputs)
    return LayerOp(Op("linear", (rows, inputs, outputs)), group, live, outputs if bias else 0)


def initialise(module: nn.Module) -> None:
    """Normal filters by fan-out (He), uniform linears, as the reference begins."""
    if isinstance(module, nn.Conv2d):
        spread = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=(2 / spread) ** 0.5)
    elif isinstance(module, nn.Linear):
        bound = module.in_features**-0.5
        nn.init.uniform_(module.weight, -bound, bound)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
