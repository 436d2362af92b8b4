"""AdamW that leaves alone every weight that an update did not use.

An update of a few subnets gives no gradient to the weights outside all of them. AdamW still fades
their moments and moves them on by what is left of these; here weights, moments and the correction
of their bias stay as they were, so that a subnet which is trained by slices of the supernet learns
as its plain network does. (TensorFlow's LazyAdam and torch's SparseAdam do so by rows.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class LazyAdamW(torch.optim.Optimizer):
    """AdamW (arXiv:1711.05101) for the weights whose gradient is not zero.

    Moments are kept in one row a group, for many small operators cost more than one large one; each
    weight's are views of it. `seen` and `seen_square` are what the moments' weights sum to after as
    many updates as a weight had: 1 - beta ** updates, the correction of their bias.

    Args:
        groups: of weights, each with its `weight_decay`; in one floating type, on one device.
        lr: rate of learning.
        betas: how much of the first and second moment an update leaves.
        eps: added to the root of the second moment.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0}
        super().__init__(groups, defaults)
        self._rows: list[dict[str, Tensor]] = []
        for group in self.param_groups:
            weights = group["params"]
            sizes = [w.numel() for w in weights]
            names = ("exp_avg", "exp_avg_sq", "seen", "seen_square")
            like = weights[0] if weights else torch.zeros(())
            rows = {name: like.new_zeros(sum(sizes)) for name in names}
            self._rows.append(rows)
            for name, row in rows.items():
                for weight, part in zip(weights, row.split(sizes), strict=True):
                    self.state[weight][name] = part.view_as(weight)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update by the gradients as they are; a weight without one counts as unused."""
        for group, rows in zip(self.param_groups, self._rows, strict=True):
            weights = group["params"]
            if all(weight.grad is None for weight in weights):
                continue
            gradient = torch.cat([_gradient(weight).flatten() for weight in weights])
            first, second = group["betas"]
            unused = gradient == 0
            used = (~unused).to(gradient.dtype)
            rows["exp_avg"].lerp_(gradient, used * (1 - first))
            rows["exp_avg_sq"].lerp_(gradient.square_(), used * (1 - second))
            rows["seen"].lerp_(used, used * (1 - first))
            rows["seen_square"].lerp_(used, used * (1 - second))
            # What was never used is divided by zero here and not moved below.
            scale = rows["exp_avg_sq"].div(rows["seen_square"]).sqrt_().add_(group["eps"])
            change = rows["exp_avg"].div(scale.mul_(rows["seen"]))
            if group["weight_decay"]:
                before = torch.cat([weight.flatten() for weight in weights])
                change.add_(before, alpha=group["weight_decay"])
            change.masked_fill_(unused, 0.0)
            parts = change.split([weight.numel() for weight in weights])
            moved = [part.view_as(w) for w, part in zip(weights, parts, strict=True)]
            torch._foreach_add_(weights, moved, alpha=-group["lr"])


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad
