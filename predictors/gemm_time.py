"""Time of a matrix product on a GPU: a roofline corrected by a small network of its tiling.

Where a kernel stands against the roofline depends smoothly on its sizes, and in steps on how many
tiles they make: the last wave of tiles may leave most multiprocessors idle. Sizes and waves go
into a two-layer perceptron that predicts the log of the ratio to the roofline.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.special import expit
from sklearn.base import BaseEstimator, RegressorMixin

from predictors.conformal import UpperBound
from predictors.op_time import Array, OpForm, Params, number, numbers, register_form
from predictors.roofline_time import StreamTime

# Tile sizes (rows, columns) that vendor libraries use on tensor cores.
TILES = (
    (16, 128),
    (32, 64),
    (64, 64),
    (64, 128),
    (128, 64),
    (128, 128),
    (256, 128),
    (128, 256),
)
ROW_TILES = (64, 128, 256)
BATCH = 512
DIGITS = 4  # significant digits kept of a fitted number


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
        epochs: passes over the rows, at 9,000 rows; fewer in proportion for more rows.
        seed: of the initial weights and of the order of rows.

    Attributes:
        floor_ms_: the fastest time seen.
        low_, high_: logs (base 2) of the smallest and largest m, k, n seen, shape (3,).
        layers_: weights and biases of the network, inputs and output rescaled.
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
        epochs: int = 300,
        seed: int = 0,
    ) -> None:
        self.cores = cores
        self.flops_per_s = flops_per_s
        self.bandwidth_bytes_per_s = bandwidth_bytes_per_s
        self.weight_bytes = weight_bytes
        self.activation_bytes = activation_bytes
        self.hidden = hidden
        self.epochs = epochs
        self.seed = seed

    def fit(self, X: Array, y: Array) -> RooflineMLP:
        """Fit by Huber loss, so that single disturbed timings do not count much."""
        self.floor_ms_ = float(y.min())
        self.low_, self.high_ = np.log2(X.min(axis=0)), np.log2(X.max(axis=0))
        inputs = self._inputs(X)
        target = np.log(y / self._roofline_ms(X))
        mean, scale = inputs.mean(axis=0), inputs.std(axis=0) + 1e-9
        centre, spread = float(np.median(target)), float(target.std() + 1e-9)
        epochs = max(20, round(self.epochs * min(1.0, 9000 / len(X))))
        (w1, b1), (w2, b2), (w3, b3) = _train_mlp(
            (inputs - mean) / scale, (target - centre) / spread, self.hidden, epochs, self.seed
        )
        # the rescaling is folded into the outer layers: fewer numbers to carry
        w1 = w1 / scale[:, None]
        self.layers_ = [
            (_short(w1), _short(b1 - mean @ w1)),
            (_short(w2), _short(b2)),
            (_short(w3 * spread), _short(b3 * spread + centre)),
        ]
        return self

    def calibrate(self, predicted: Array, measured: Array, coverage: float) -> RooflineMLP:
        """Set the upper bound from predictions of shapes that their fit had not seen."""
        self.bound_ = UpperBound(coverage).fit(predicted, measured)
        return self

    def predict(self, X: Array) -> Array:
        values = self._inputs(X).astype(np.float32)  # half the time, and far finer than the error
        for i, (weights, biases) in enumerate(self.layers_):
            values = values @ weights.astype(np.float32) + biases.astype(np.float32)
            if i < len(self.layers_) - 1:
                values *= expit(values)
        ratio = np.exp(values[:, 0].astype(np.float64))
        return np.maximum(self._roofline_ms(X) * ratio, self.floor_ms_)

    def upper_ratio(self, X: Array) -> Array:
        logs = np.log2(X)
        beyond = np.maximum(self.low_ - logs, 0.0) + np.maximum(logs - self.high_, 0.0)
        width = np.log(self.bound_.ratio(self.predict(X)))
        return np.asarray(np.exp(width * (1.0 + beyond.sum(axis=1))))

    def to_params(self) -> Params:
        params: Params = {
            "cores": float(self.cores),
            "flops_per_s": float(self.flops_per_s),
            "bandwidth_bytes_per_s": float(self.bandwidth_bytes_per_s),
            "weight_bytes": float(self.weight_bytes),
            "activation_bytes": float(self.activation_bytes),
            "floor_ms": self.floor_ms_,
            "low": self.low_.tolist(),
            "high": self.high_.tolist(),
            **self.bound_.to_params(),
        }
        for i, (weights, biases) in enumerate(self.layers_, start=1):
            params[f"weights_{i}"] = weights.ravel().tolist()
            params[f"biases_{i}"] = biases.tolist()
        return params

    @classmethod
    def from_params(cls, params: Params) -> RooflineMLP:
        biases = [numbers(params, f"biases_{i}") for i in (1, 2, 3)]
        form = cls(
            cores=number(params, "cores"),
            flops_per_s=number(params, "flops_per_s"),
            bandwidth_bytes_per_s=number(params, "bandwidth_bytes_per_s"),
            weight_bytes=number(params, "weight_bytes"),
            activation_bytes=number(params, "activation_bytes"),
            hidden=len(biases[0]),
        )
        form.floor_ms_ = number(params, "floor_ms")
        form.low_, form.high_ = numbers(params, "low"), numbers(params, "high")
        if form.low_.shape != (3,) or form.high_.shape != (3,):
            raise ValueError("low and high must hold one number for m, k and n")
        form.bound_ = UpperBound.from_params(params)
        widths = [form._inputs(np.ones((1, 3))).shape[1], *map(len, biases)]
        form.layers_ = [
            (numbers(params, f"weights_{i + 1}").reshape(widths[i], widths[i + 1]), biases[i])
            for i in range(3)
        ]
        if widths[-1] != 1:
            raise ValueError("the network must have one output")
        return form

    def _roofline_ms(self, X: Array) -> Array:
        m, k, n = X.T
        moved = self.weight_bytes * k * n + self.activation_bytes * m * k + 2.0 * m * n
        seconds = np.maximum(2.0 * m * k * n / self.flops_per_s, moved / self.bandwidth_bytes_per_s)
        return np.asarray(self.floor_ms_ + 1e3 * seconds)

    def _inputs(self, X: Array) -> Array:
        """Logs of sizes, products, roofline, waves, and what padding to tiles adds, (n, 24)."""
        logs = np.clip(np.log2(X), self.low_, self.high_)
        m, k, n = logs.T
        inside = np.round(2.0**logs)
        columns = [m, k, n, m + k + n, m + n, np.log2(self._roofline_ms(inside))]
        for rows, width in TILES:
            waves = np.ceil(inside[:, 0] / rows) * np.ceil(inside[:, 2] / width) / self.cores
            idle = np.ceil(waves) / np.maximum(waves, 1 / 16)
            columns += [np.log2(waves), np.log2(idle)]
        columns += [
            np.minimum(np.log2(np.ceil(inside[:, 0] / rows) * rows) - m, 4.0) for rows in ROW_TILES
        ]
        return np.column_stack(columns)


@register_form("quantized_gemm")
class QuantizedGemm(OpForm):
    """A matrix product whose activations are quantized first, by one fused kernel over (m, k).

    Args:
        product: the fitted product of quantized inputs.
        quantizing: the pass that quantizes them.
    """

    def __init__(self, product: RooflineMLP, quantizing: StreamTime) -> None:
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
        passed: Params = {name: params[f"pass_{name}"] for name in StreamTime.names}
        return cls(RooflineMLP.from_params(params), StreamTime.from_params(passed))


def _short(values: Array) -> Array:
    """Rounded to few significant digits, so that what a profile carries is what was fitted."""
    return np.array([float(f"{v:.{DIGITS}g}") for v in values.ravel()]).reshape(values.shape)


def _train_mlp(
    inputs: Array, target: Array, hidden: int, epochs: int, seed: int
) -> list[tuple[Array, Array]]:
    """Weights (in, out) and biases of the three layers of a SiLU perceptron."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)
    x = torch.as_tensor(inputs, dtype=torch.float32)
    y = torch.as_tensor(target, dtype=torch.float32)
    sizes = [x.shape[1], hidden, hidden, 1]
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    for layer in layers:
        bound = layer.in_features**-0.5
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    model = nn.Sequential(layers[0], nn.SiLU(), layers[1], nn.SiLU(), layers[2])
    batch = min(BATCH, len(x))
    steps = len(x) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=epochs * steps)
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for rows in order[: steps * batch].reshape(steps, batch):
            # near the absolute error: a few timings of the public tables are 20 times too slow
            loss = nn.functional.huber_loss(model(x[rows])[:, 0], y[rows], delta=0.05) / 0.05
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return [
        (
            layer.weight.detach().numpy().T.astype(np.float64),
            layer.bias.detach().numpy().astype(np.float64),
        )
        for layer in layers
    ]
