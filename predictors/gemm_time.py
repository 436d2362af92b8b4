"""Time of a matrix product on a GPU: a roofline corrected by small networks of its tiling.

Where a kernel stands against the roofline depends smoothly on its sizes, and in steps on how many
tiles they make: the last wave of tiles may leave most multiprocessors idle. Sizes and waves go
into two-layer perceptrons that predict the log of the ratio to the roofline, and whose mean is
taken: where the timed sizes lie far apart they fill the gaps differently (Lakshminarayanan et al.
2017). What the mean misses at the timed shapes is kept, shrunk for the noise of a single reading,
where these form a lattice, as those of the public tables do.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from sklearn.base import BaseEstimator, RegressorMixin

from predictors.conformal import UpperBound
from predictors.op_time import Array, OpForm, Params, number, numbers, register_form
from predictors.perceptrons import Perceptrons
from predictors.roofline_time import StreamTime

# Tile sizes (rows, columns) that vendor libraries use on tensor cores.
TILES = (
    (16, 64),
    (16, 128),
    (32, 64),
    (32, 128),
    (64, 64),
    (64, 128),
    (64, 256),
    (128, 64),
    (128, 128),
    (128, 256),
    (256, 64),
    (256, 128),
)
ROW_TILES = (64, 128, 256)
ROW_STEP = 16  # rows that the smallest tensor-core instruction takes
# Share kept of what the networks miss at a timed shape; a disturbed timing misses by far more than
# the limit (log). Between two software stacks 0.5 to 0.9 do equally well, on gaps nothing does.
KEPT, KEPT_LIMIT = 0.5, 0.15
LATTICE_SHARE = 0.5  # of its points that must be timed


@register_form("roofline_mlp")
class RooflineMLP(BaseEstimator, RegressorMixin, OpForm):  # type: ignore[misc]
    """Milliseconds of y[m, n] = x[m, k] W[k, n] for shapes (m, k, n).

    Outside the sizes of the fit the correction is that of the nearest size inside, the roofline
    that of the true shape, and the upper bound widens by its own width for every octave beyond.
    No prediction is below the fastest time ever measured.

    Args:
        cores: streaming multiprocessors.
        flops_per_s: peak arithmetic at this precision (2 FLOPs per MAC).
        bandwidth_bytes_per_s: peak memory rate.
        weight_bytes, activation_bytes: bytes of one weight; of one input.
        hidden: units of each of the two hidden layers.
        members: networks whose mean is taken.
        steps: of the training at most; see `Perceptrons`.
        seed: of the initial weights and of the order of rows.

    Attributes:
        floor_ms_: the fastest time seen.
        low_, high_: logs (base 2) of the smallest and largest m, k, n seen, shape (3,).
        networks_: the perceptrons.
        lattice_: the timed sizes m, k, n, three arrays; empty if they form no lattice.
        kept_: log corrections at the lattice's points, shape (len m, len k, len n).
        bound_: calibrated upper bound, after `calibrate`.
    """

    def __init__(
        self,
        cores: float,
        flops_per_s: float,
        bandwidth_bytes_per_s: float,
        weight_bytes: float = 2.0,
        activation_bytes: float = 2.0,
        hidden: int = 64,
        members: int = 4,
        steps: int = 12000,
        seed: int = 0,
    ) -> None:
        self.cores = cores
        self.flops_per_s = flops_per_s
        self.bandwidth_bytes_per_s = bandwidth_bytes_per_s
        self.weight_bytes = weight_bytes
        self.activation_bytes = activation_bytes
        self.hidden = hidden
        self.members = members
        self.steps = steps
        self.seed = seed

    def fit(self, X: Array, y: Array) -> RooflineMLP:
        """Fit by Huber loss, so that single disturbed timings do not count much."""
        self.floor_ms_ = float(y.min())
        self.low_, self.high_ = np.log2(X.min(axis=0)), np.log2(X.max(axis=0))
        inputs = self._inputs(X)
        target = np.log(y / self._roofline_ms(X))
        self.networks_ = Perceptrons(self.members, self.hidden, self.steps, self.seed)
        self.networks_.fit(inputs, target)
        self._keep(X, target - self.networks_.predict(inputs))
        return self

    def calibrate(self, predicted: Array, measured: Array, coverage: float) -> RooflineMLP:
        """Set the upper bound from predictions of shapes that their fit had not seen."""
        self.bound_ = UpperBound(coverage).fit(predicted, measured)
        return self

    def predict(self, X: Array) -> Array:
        log_ratio = self.networks_.predict(self._inputs(X)) + self._kept_at(X)
        return np.maximum(self._roofline_ms(X) * np.exp(log_ratio), self.floor_ms_)

    def upper_ratio(self, X: Array) -> Array:
        logs = np.log2(X)
        beyond = np.maximum(self.low_ - logs, 0.0) + np.maximum(logs - self.high_, 0.0)
        return self.bound_.widened(self.predict(X), beyond.sum(axis=1))

    def to_params(self) -> Params:
        return {
            "cores": float(self.cores),
            "flops_per_s": float(self.flops_per_s),
            "bandwidth_bytes_per_s": float(self.bandwidth_bytes_per_s),
            "weight_bytes": float(self.weight_bytes),
            "activation_bytes": float(self.activation_bytes),
            "floor_ms": self.floor_ms_,
            "low": self.low_.tolist(),
            "high": self.high_.tolist(),
            "kept": self.kept_.ravel().tolist(),
            **{
                f"lattice_{name}": sizes.tolist()
                for name, sizes in zip("mkn", self.lattice_, strict=True)
            },
            **self.networks_.to_params(),
            **self.bound_.to_params(),
        }

    @classmethod
    def from_params(cls, params: Params) -> RooflineMLP:
        form = cls(
            cores=number(params, "cores"),
            flops_per_s=number(params, "flops_per_s"),
            bandwidth_bytes_per_s=number(params, "bandwidth_bytes_per_s"),
            weight_bytes=number(params, "weight_bytes"),
            activation_bytes=number(params, "activation_bytes"),
        )
        form.floor_ms_ = number(params, "floor_ms")
        if not min(form.cores, form.flops_per_s, form.bandwidth_bytes_per_s, form.floor_ms_) > 0:
            raise ValueError("cores, peaks and floor must be positive")
        if not min(form.weight_bytes, form.activation_bytes) > 0:
            raise ValueError("a weight and an input must take some bytes")
        form.low_, form.high_ = numbers(params, "low"), numbers(params, "high")
        if form.low_.shape != (3,) or form.high_.shape != (3,):
            raise ValueError("low and high must hold one number for m, k and n")
        form.bound_ = UpperBound.from_params(params)
        form.networks_ = Perceptrons.from_params(params, form._inputs(np.ones((1, 3))).shape[1])
        form.lattice_ = [numbers(params, f"lattice_{name}") for name in "mkn"]
        if any(np.any(np.diff(sizes) <= 0) or np.any(sizes <= 0) for sizes in form.lattice_):
            raise ValueError("the sizes of the lattice must be positive and ascend")
        form.kept_ = numbers(params, "kept").reshape([len(sizes) for sizes in form.lattice_])
        return form

    def _keep(self, X: Array, missed: Array) -> None:
        """Note what the networks missed at the timed shapes, if these form a lattice."""
        sizes, index = zip(*(np.unique(c, return_inverse=True) for c in X.T), strict=True)
        shape = tuple(len(s) for s in sizes)
        self.lattice_ = [np.zeros(0)] * 3
        self.kept_ = np.zeros((0, 0, 0))
        if min(shape) < 2 or len(X) < LATTICE_SHARE * np.prod(shape):
            return
        total, count = np.zeros(shape), np.zeros(shape)
        np.add.at(total, index, np.clip(missed, -KEPT_LIMIT, KEPT_LIMIT))
        np.add.at(count, index, 1.0)
        if np.mean(count > 0) >= LATTICE_SHARE:
            self.lattice_ = list(sizes)
            self.kept_ = np.round(KEPT * total / np.maximum(count, 1.0), 4)

    def _kept_at(self, X: Array) -> Array:
        """The kept corrections, linear in the logs of the sizes between them, shape (n,)."""
        if not self.kept_.size:
            return np.zeros(len(X))
        axes = [np.log2(sizes) for sizes in self.lattice_]
        inside = np.clip(np.log2(X), [a[0] for a in axes], [a[-1] for a in axes])
        return np.asarray(RegularGridInterpolator(axes, self.kept_)(inside))

    def _roofline_ms(self, X: Array) -> Array:
        m, k, n = X.T
        seconds = np.maximum(
            2.0 * m * k * n / self.flops_per_s, self._moved(X) / self.bandwidth_bytes_per_s
        )
        return np.asarray(self.floor_ms_ + 1e3 * seconds)

    def _moved(self, X: Array) -> Array:
        """Bytes that are read and written, shape (n,)."""
        m, k, n = X.T
        return np.asarray(self.weight_bytes * k * n + self.activation_bytes * m * k + 2.0 * m * n)

    def _inputs(self, X: Array) -> Array:
        """Logs of sizes, products, roofline, bytes, waves, and rows padded to tiles, (n, 35)."""
        logs = np.clip(np.log2(X), self.low_, self.high_)
        inside = np.round(2.0**logs)
        # a product of 129 rows takes as long as one of 144
        m = np.log2(np.ceil(inside[:, 0] / ROW_STEP) * ROW_STEP)
        k, n = logs[:, 1], logs[:, 2]
        columns = [np.minimum(logs[:, 0], 5.0), m, k, n, m + k + n, m + n]
        columns += [np.log2(self._roofline_ms(inside)), np.log2(self._moved(inside))]
        for rows, width in TILES:
            waves = np.ceil(inside[:, 0] / rows) * np.ceil(inside[:, 2] / width) / self.cores
            idle = np.ceil(waves) / np.maximum(waves, 1 / 16)
            columns += [np.log2(waves), np.log2(idle)]
        columns += [np.log2(np.ceil(inside[:, 0] / rows) * rows) for rows in ROW_TILES]
        return np.column_stack(columns)


@register_form("quantized_gemm")
class QuantizedGemm(OpForm):
    """A matrix product whose activations are quantized first, by one fused kernel over (m, k).

    Args:
        product: the product of quantized inputs, of the class `product_form`.
        quantizing: the pass that quantizes them.
    """

    product_form: type[OpForm] = RooflineMLP

    def __init__(self, product: OpForm, quantizing: StreamTime) -> None:
        self.product = product
        self.quantizing = quantizing

    def predict(self, X: Array) -> Array:
        return self.product.predict(X) + self.quantizing.predict(X[:, :2])

    def upper_ratio(self, X: Array) -> Array:
        product, quantizing = self.product.predict(X), self.quantizing.predict(X[:, :2])
        bound = product * self.product.upper_ratio(X) + quantizing * self.quantizing.upper
        return np.asarray(bound / (product + quantizing))

    def to_params(self) -> Params:
        passed = {f"pass_{name}": value for name, value in self.quantizing.to_params().items()}
        return self.product.to_params() | passed

    @classmethod
    def from_params(cls, params: Params) -> QuantizedGemm:
        passed: Params = {name: params[f"pass_{name}"] for name in StreamTime.names()}
        return cls(cls.product_form.from_params(params), StreamTime.from_params(passed))
