"""Elastic convolutions: channels by prefix, kernels by transformed centre crops."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.elastic.base import Elastic, within


class ElasticConv2d(Elastic, nn.Conv2d):
    """A convolution that runs on the first input and output channels.

    Args:
        in_channels: of the largest.
        out_channels: of the largest.
        kernel_size: of the largest.
        stride: fixed.
        padding: fixed; ignored where the kernel is elastic, which pads by half of itself.
        groups: 1, or `in_channels` for a depthwise convolution, whose groups follow the channels.
        bias: whether there is one.
        kernels: sizes that may be chosen, ascending, the last being `kernel_size`. A smaller one
            is the centre of the next larger, multiplied by a learned matrix (one a layer and
            size, shared by all channels, the identity at first): once-for-all, arXiv:1908.09791.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        kernels: Sequence[int] = (),
    ) -> None:
        if groups not in (1, in_channels) or (groups > 1 and out_channels != in_channels):
            raise ValueError("an elastic convolution is dense or depthwise")
        nn.Conv2d.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias
        )
        self.kernels = tuple(kernels) or (kernel_size,)
        if self.kernels[-1] != kernel_size or list(self.kernels) != sorted(self.kernels):
            raise ValueError("the last of ascending kernels is the largest")
        for small in self.kernels[:-1]:
            self.register_parameter(f"transform_{small}", nn.Parameter(torch.eye(small**2)))
        self.active_in = in_channels
        self.active_out = out_channels
        self.active_kernel = kernel_size

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved by itself."""
        return self.groups > 1

    def activate(self, in_channels: int, out_channels: int, kernel: int | None = None) -> None:
        """Run on this many channels; and with this kernel, where it is elastic."""
        self.active_in = within(in_channels, self.in_channels, "input channels")
        self.active_out = within(out_channels, self.out_channels, "channels")
        if self.depthwise and in_channels != out_channels:
            raise ValueError("a depthwise convolution has as many outputs as inputs")
        self.active_kernel = self.kernels[-1] if kernel is None else kernel
        if self.active_kernel not in self.kernels:
            raise ValueError(f"a kernel of {kernel} is none of {self.kernels}")

    def active_state(self) -> dict[str, Tensor]:
        """The active slices: weight (out, in or 1, kernel, kernel) and bias (out,)."""
        weight = self.weight[: self.active_out, : 1 if self.depthwise else self.active_in]
        for large, small in pairwise(self.kernels[::-1]):
            if large <= self.active_kernel:
                break
            margin = (large - small) // 2
            centre = weight[..., margin : margin + small, margin : margin + small]
            matrix = self.get_parameter(f"transform_{small}")
            weight = F.linear(centre.flatten(2), matrix).view_as(centre)
        state = {"weight": weight}
        if self.bias is not None:
            state["bias"] = self.bias[: self.active_out]
        return state

    def forward(self, x: Tensor) -> Tensor:
        """(batch, active in, height, width) -> (batch, active out, height', width')."""
        state = self.active_state()
        padding = self.active_kernel // 2 if len(self.kernels) > 1 else self.padding
        groups = self.active_out if self.depthwise else 1
        return F.conv2d(x, state["weight"], state.get("bias"), self.stride, padding, groups=groups)
