"""Small perceptrons whose mean is taken, and whose fitted state is a few plain numbers.

Where samples lie far apart, networks from different initial weights fill the gaps differently, and
their mean fills them better than each (Lakshminarayanan et al. 2017).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.special import expit

from predictors.op_time import Array, Params, numbers

BATCH = 192
LEARNING_RATE = 2e-2
PASSES = 600  # over the rows, at most: of a few hundred to 2,000 rows more taught nothing
DIGITS = 4  # significant digits kept of a fitted number


class Perceptrons:
    """Two-layer SiLU perceptrons from many inputs to one number.

    Args:
        members: networks whose mean is taken.
        hidden: units of each of the two hidden layers.
        steps: of the training; fewer for few rows, which are seen `PASSES` times.
        seed: of the initial weights and of the order of rows.

    Attributes:
        layers_: weights (members, in, out) and biases (members, out), inputs and output rescaled.
    """

    def __init__(self, members: int, hidden: int, steps: int = 12_000, seed: int = 0) -> None:
        self.members = members
        self.hidden = hidden
        self.steps = steps
        self.seed = seed

    def fit(self, inputs: Array, target: Array) -> Perceptrons:
        """Fit inputs (n, columns) to (n,) by Huber loss: single outliers do not count much."""
        mean, scale = inputs.mean(axis=0), inputs.std(axis=0)
        scale[scale < 1e-6] = 1.0  # a size that never varies says nothing
        centre, spread = float(np.median(target)), float(target.std() + 1e-9)
        (w1, b1), (w2, b2), (w3, b3) = self._train(
            (inputs - mean) / scale, (target - centre) / spread
        )
        # the rescaling is folded into the outer layers: fewer numbers to carry
        w1 = w1 / scale[:, None]
        self.layers_ = [
            (short(w1), short(b1 - mean @ w1)),
            (short(w2), short(b2)),
            (short(w3 * spread), short(b3 * spread + centre)),
        ]
        return self

    def predict(self, inputs: Array) -> Array:
        """Mean of the networks' outputs, shape (n,)."""
        values = inputs.astype(np.float32)  # half the time, and far finer than the error
        total = np.zeros(len(inputs))
        layers = [(w.astype(np.float32), b.astype(np.float32)) for w, b in self.layers_]
        for member in range(self.members):
            hidden = values
            for i, (weights, biases) in enumerate(layers):
                hidden = hidden @ weights[member] + biases[member]
                if i < len(layers) - 1:
                    hidden *= expit(hidden)
            total += hidden[:, 0]
        return total / self.members

    def to_params(self) -> Params:
        """The layers as plain numbers."""
        params: Params = {}
        for i, (weights, biases) in enumerate(self.layers_, start=1):
            params[f"weights_{i}"] = weights.ravel().tolist()
            params[f"biases_{i}"] = biases.ravel().tolist()
        return params

    @classmethod
    def from_params(cls, params: Params, n_inputs: int) -> Perceptrons:
        """Rebuild what `to_params` gave; its predictions are identical.

        Raises:
            KeyError, TypeError, ValueError: if the numbers are not those of such networks.
        """
        biases = [numbers(params, f"biases_{i}") for i in (1, 2, 3)]
        members = len(biases[-1])  # one output each
        if not members:
            raise ValueError("there must be at least one network")
        networks = cls(members, hidden=len(biases[0]) // members)
        widths = [n_inputs, networks.hidden, networks.hidden, 1]
        networks.layers_ = [
            (
                numbers(params, f"weights_{i}").reshape(members, a, b),
                biases[i - 1].reshape(members, b),
            )
            for i, (a, b) in enumerate(pairwise(widths), start=1)
        ]
        return networks

    def _train(self, inputs: Array, target: Array) -> list[tuple[Array, Array]]:
        """Weights (members, in, out) and biases (members, out) of the layers, side by side."""
        import torch
        from torch.nn import functional

        members = self.members
        generator = torch.Generator().manual_seed(self.seed)
        x = torch.as_tensor(inputs, dtype=torch.float32)
        y = torch.as_tensor(target, dtype=torch.float32)
        layers = []
        for a, b in pairwise([x.shape[1], self.hidden, self.hidden, 1]):
            weights = torch.empty(members, a, b).uniform_(-(a**-0.5), a**-0.5, generator=generator)
            biases = torch.empty(members, 1, b).uniform_(-(a**-0.5), a**-0.5, generator=generator)
            layers.append((weights.requires_grad_(), biases.requires_grad_()))
        optimizer = torch.optim.AdamW(
            [part for layer in layers for part in layer], lr=LEARNING_RATE, weight_decay=1e-3
        )
        batch = min(BATCH, len(x))
        per_pass = len(x) // batch
        steps = min(self.steps, PASSES * per_pass)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        for step in range(steps):
            if step % per_pass == 0:
                order = torch.stack(
                    [torch.randperm(len(x), generator=generator) for _ in range(members)]
                )
            start = step % per_pass * batch
            rows = order[:, start : start + batch]
            values = x[rows]
            for i, (weights, biases) in enumerate(layers):
                values = torch.baddbmm(biases, values, weights)
                if i < len(layers) - 1:
                    values = functional.silu(values)
            # near the absolute error: a few timings of the public tables are 20 times too slow
            loss = functional.huber_loss(values[..., 0], y[rows], delta=0.05) * (members / 0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return [
            (w.detach().numpy().astype(np.float64), b.detach().numpy()[:, 0].astype(np.float64))
            for w, b in layers
        ]


def short(values: Array) -> Array:
    """Rounded to few significant digits, so that what a profile carries is what was fitted."""
    return np.array([float(f"{v:.{DIGITS}g}") for v in values.ravel()]).reshape(values.shape)
