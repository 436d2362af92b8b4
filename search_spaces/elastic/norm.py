"""Elastic norms: affine sliced, and statistics of the active part alone."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.elastic.base import Elastic, within


class ElasticLayerNorm(Elastic, nn.LayerNorm):
    """Layer norm over the active width: affine sliced AND statistics over the slice alone."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        nn.LayerNorm.__init__(self, width, eps=eps)
        self.active_width = width

    def activate(self, width: int) -> None:
        """Normalise over this many features."""
        self.active_width = within(width, self.normalized_shape[0], "width")

    def active_state(self) -> dict[str, Tensor]:
        """The active slices."""
        return {"weight": self.weight[: self.active_width], "bias": self.bias[: self.active_width]}

    def forward(self, x: Tensor) -> Tensor:
        """(..., active width) -> the same."""
        state = self.active_state()
        return F.layer_norm(x, (self.active_width,), state["weight"], state["bias"], self.eps)


class ElasticRMSNorm(Elastic, nn.RMSNorm):
    """Root-mean-square norm over the active width (arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        nn.RMSNorm.__init__(self, width, eps=eps)
        self.active_width = width

    def activate(self, width: int) -> None:
        """Normalise over this many features."""
        self.active_width = within(width, self.normalized_shape[0], "width")

    def active_state(self) -> dict[str, Tensor]:
        """The active slice."""
        return {"weight": self.weight[: self.active_width]}

    def forward(self, x: Tensor) -> Tensor:
        """(..., active width) -> the same."""
        return F.rms_norm(x, (self.active_width,), self.active_state()["weight"], self.eps)


class ElasticBatchNorm2d(Elastic, nn.BatchNorm2d):
    """Batch norm over the first channels, with statistics of its own for the active subnet.

    The running buffers are shared by all subnets, so they are right for none of them. A subnet is
    evaluated on statistics that `Supernet.calibrate` collects for it; these live beside the
    buffers, never in them, and go when another subnet is activated.

    Args:
        width: of the largest.
        eps: added to variances.
        momentum: of the shared statistics.
        sets: of weights and biases, of which a subnet uses one, such as that of its resolution
            (RS-Net, arXiv:2007.09558); they stand one after another, (sets * width,).
    """

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1, sets: int = 1) -> None:
        nn.BatchNorm2d.__init__(self, width, eps=eps, momentum=momentum)
        if sets > 1:
            self.weight = nn.Parameter(self.weight.detach().repeat(sets))
            self.bias = nn.Parameter(self.bias.detach().repeat(sets))
        self.active_width, self.active_set = width, 0
        self.collecting = False
        self._sums: tuple[Tensor, Tensor, int] | None = None
        self._own: tuple[Tensor, Tensor] | None = None

    def activate(self, width: int, which: int = 0) -> None:
        """Normalise this many channels, by the shared statistics until calibrated.

        Args:
            width: channels.
            which: of the sets of weights and biases.
        """
        self.active_width = within(width, self.num_features, "channels")
        self.active_set = within(which + 1, len(self.weight) // self.num_features, "set") - 1
        self._own = None

    def _affine(self) -> tuple[Tensor, Tensor]:
        """Active weight and bias, (active width,) each."""
        start = self.active_set * self.num_features
        end = start + self.active_width
        return self.weight[start:end], self.bias[start:end]

    def collect(self) -> None:
        """Begin to collect: normalise by each batch, and remember its statistics."""
        self.collecting, self._sums = True, None

    def settle(self) -> None:
        """Use what was collected: means over examples of batch mean and of biased variance."""
        self.collecting = False
        if self._sums is not None:
            mean, variance, n = self._sums
            self._own = (mean / n, variance / n)
            self._sums = None

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance in evaluation, (active width,) each."""
        if self._own is not None:
            return self._own
        assert self.running_mean is not None
        assert self.running_var is not None
        return self.running_mean[: self.active_width], self.running_var[: self.active_width]

    def active_state(self) -> dict[str, Tensor]:
        """The active slices, and the subnet's own statistics where it has any."""
        mean, variance = self.statistics
        assert self.num_batches_tracked is not None
        weight, bias = self._affine()
        return {
            "weight": weight,
            "bias": bias,
            "running_mean": mean,
            "running_var": variance,
            "num_batches_tracked": self.num_batches_tracked,
        }

    def forward(self, x: Tensor) -> Tensor:
        """(batch, active width, height, width) -> the same."""
        weight, bias = self._affine()
        if self.collecting:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            n = len(x)
            before = self._sums or (0 * mean, 0 * variance, 0)
            self._sums = (before[0] + n * mean, before[1] + n * variance, before[2] + n)
            return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, self.eps)
        if self.training:
            assert self.running_mean is not None
            assert self.running_var is not None
            mean = self.running_mean[: self.active_width]
            variance = self.running_var[: self.active_width]
            momentum = self.momentum or 0.0
            return F.batch_norm(x, mean, variance, weight, bias, True, momentum, self.eps)
        mean, variance = self.statistics
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, self.eps)
