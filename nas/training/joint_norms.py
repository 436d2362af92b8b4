"""Batch norms over the examples of all processes, as if one process had the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class JointNorms(TorchFunctionMode):
    """While this lasts, a batch norm in training normalises by all processes' examples.

    It catches `torch.nn.functional.batch_norm` as whichever module calls it; `SyncBatchNorm` does
    the same on GPUs alone, for modules of its own class. Each such norm reduces twice on the way
    forth (the mean, then the variance around it, which cancels nothing) and twice on the way back.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        caught = _joint_batch_norm if func is F.batch_norm else func
        return caught(*args, **(kwargs or {}))


class _Sum(torch.autograd.Function):
    """Sum over all processes; a summand's gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _joint_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm`, in training over the examples of all processes."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    others = [0, *range(2, input.ndim)]
    x = input.float()
    number = x.new_tensor([x.numel() / x.shape[1]])
    sums = _Sum.apply(torch.cat([x.sum(others), number]))  # type: ignore[no-untyped-call]
    n = sums[-1].detach()
    mean = sums[:-1] / n
    shape = [1, -1] + [1] * (x.ndim - 2)
    centred = x - mean.view(shape)
    variance = _Sum.apply((centred**2).sum(others)) / n  # type: ignore[no-untyped-call]
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            unbiased = variance * (n / (n - 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    scale = torch.rsqrt(variance + eps)
    if weight is not None:
        scale = scale * weight
    normal = centred * scale.view(shape)
    if bias is not None:
        normal = normal + bias.view(shape)
    joint: Tensor = normal.to(input.dtype)
    return joint
