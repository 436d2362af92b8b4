"""Time of a tensor-core matrix product on any GPU, from its sheet: one kernel choice after another.

A library has a kernel for each tile size and may split the inner dimension over several blocks.
For every such choice the model adds up what bounds it: waves of tiles over the multiprocessors,
arithmetic, traffic of the second-level cache and of memory, latency of the inner loop, launches.
The fastest choice is taken, softly. Its two dozen factors are shared by all GPUs: what is special
to a GPU comes from its sheet alone, so a fit on some devices speaks of another.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hw_profiles.gpus import Gpu
from predictors.op_time import Array

# Tiles (rows, columns) of vendor libraries, and blocks over which the inner dimension is split.
TILES = ((16, 64), (32, 64), (64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128))
SPLITS = (1, 2, 4, 8, 16, 32)
CHOICES = np.array([(*tile, split) for tile in TILES for split in SPLITS], np.float64)
SOFTNESS = 30.0  # of the choice: kernels within 3 % of the fastest count alike
STEP = 64  # of the inner loop
# Half of a latency is in cycles, half in time: memory and the front end keep their own clocks.
LATENCY_CLOCK_HZ = 1.8e9
# Blocks of small tiles that share a multiprocessor, beyond one, for each that 128 x 128 would hold.
SHARED_BLOCKS = 1.5
# FLOPs per cycle and multiprocessor of the A100. What feeds a wider matrix unit and drains it grows
# with this power of its width, and so does what it computes for the energy of a byte brought to it.
# The power is a choice between 0.5, 0.75 and 1 by leaving out the A100, H200 and L40S in turn.
MATRIX_UNIT, GROWTH = 2048.0, 0.75
PRIOR_WEIGHT = 0.002  # of a squared step from the prior, beside a mean error of the log
# What the factors are before any timing: cycles, bytes per cycle and multiprocessor, or shares.
# `tile_i` is the logit of the share of the peak that a tile sustains.
PRIOR: dict[str, float] = {
    "launch": math.log(4000),
    "split": math.log(3000),
    "wave": math.log(1500),
    "prologue": math.log(500),
    "step": math.log(80),
    "memory_latency": math.log(300),
    "vector": math.log(500),
    "vector_step": math.log(1),
    "cache_rate": math.log(40),
    "resident_rate": math.log(30),
    "store_rate": math.log(30),
    "split_rate": math.log(20),
    "memory_share": math.log(0.85),
    "copies": math.log(6),
    "cache_sharpness": math.log(4),
    "overlap": math.log(3),
    "power": math.log(2.5),
    **{
        f"tile_{i}": math.log(share / (1 - share))
        for i, share in enumerate((0.15, 0.3, 0.5, 0.7, 0.7, 0.8, 0.92, 0.92))
    },
}


class TileModel:
    """Milliseconds of y[m, n] = x[m, k] W[k, n] in bf16 on any GPU.

    Args:
        steps: of the optimizer.
        rows: timings of each device that are used, drawn at random.
        seed: of that draw.

    Attributes:
        factors_: the fitted factors, named as `PRIOR` (logs; logits for tiles).
    """

    def __init__(self, steps: int = 300, rows: int = 2000, seed: int = 0) -> None:
        self.steps = steps
        self.rows = rows
        self.seed = seed

    def fit(
        self, tables: list[tuple[Gpu, Array, Array]], weights: list[float] | None = None
    ) -> TileModel:
        """Fit the factors to timings of several devices, robustly, on the log of the time.

        Args:
            tables: for each device shapes (m, k, n), (rows, 3), and milliseconds, (rows,).
            weights: what each device counts; the same by default.
        """
        import torch

        rng = np.random.default_rng(self.seed)
        drawn = []
        for gpu, shapes, times in tables:
            rows = rng.permutation(len(times))[: self.rows]
            drawn.append((gpu, torch.as_tensor(shapes[rows]), torch.as_tensor(np.log(times[rows]))))
        counts = np.ones(len(tables)) if weights is None else np.asarray(weights, np.float64)
        counts = counts / counts.sum()
        prior = torch.tensor(list(PRIOR.values()), dtype=torch.float64)
        values = prior.clone().requires_grad_()
        optimizer = torch.optim.Adam([values], lr=0.03)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.06, total_steps=self.steps)
        for _ in range(self.steps):
            loss = PRIOR_WEIGHT * ((values - prior) ** 2).sum()
            factors = dict(zip(PRIOR, values, strict=True))
            for count, (gpu, shapes_t, logs) in zip(counts, drawn, strict=True):
                error = torch.log(_milliseconds(shapes_t, gpu, factors)) - logs
                # near the absolute error: single disturbed timings do not count much
                huber = torch.nn.functional.huber_loss(error, torch.zeros_like(error), delta=0.1)
                loss = loss + float(count) * huber / 0.1
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        # few digits, so that a profile carries exactly what was fitted
        self.factors_ = dict(zip(PRIOR, np.round(values.detach().numpy(), 4).tolist(), strict=True))
        return self

    def predict(self, X: Array, gpu: Gpu) -> Array:
        """Milliseconds, shape (n,), of shapes (m, k, n) on that device."""
        import torch

        factors = {name: torch.tensor(v, dtype=torch.float64) for name, v in self.factors_.items()}
        parts = np.array_split(np.asarray(X, np.float64), max(1, len(X) // 4096))
        with torch.no_grad():
            times = [_milliseconds(torch.as_tensor(p), gpu, factors).numpy() for p in parts]
        return np.concatenate(times)


def _milliseconds(shapes: Any, gpu: Gpu, factors: dict[str, Any]) -> Any:
    """The model itself, on tensors: shapes (n, 3), times (n,). Inside, everything is in cycles."""
    import torch

    m, k, n = (shapes[:, i : i + 1] for i in range(3))
    tile_m, tile_n, split = torch.as_tensor(CHOICES).T
    f = {name: torch.exp(v) for name, v in factors.items() if not name.startswith("tile_")}
    shares = torch.sigmoid(torch.stack([factors[f"tile_{i}"] for i in range(len(TILES))]))
    share = shares.repeat_interleave(len(SPLITS))
    cores, clock = float(gpu.cores), gpu.clock_hz
    peak = gpu.flops_per_s / cores / clock  # of one multiprocessor in a cycle
    unit = (peak / MATRIX_UNIT) ** GROWTH
    latency = 0.5 + 0.5 * clock / LATENCY_CLOCK_HZ
    overlap = 1.0 + f["overlap"]

    def together(a: Any, b: Any) -> Any:
        """Two things that overlap: the longer one, and a little of the other."""
        return (a**overlap + b**overlap) ** (1 / overlap)

    inner = torch.ceil(k / split / 32) * 32
    waves = torch.ceil(m / tile_m) * torch.ceil(n / tile_n) * split / cores
    work = together(
        2 * tile_m * tile_n * inner / (peak * share),
        2 * (tile_m + tile_n) * inner / (f["cache_rate"] * unit),
    )
    store = 2 * tile_m * tile_n / (f["store_rate"] * unit)
    loop = (f["prologue"] + inner / STEP * f["step"]) * latency + store
    # blocks of small tiles share a multiprocessor and wait for memory together
    shared = 1 + SHARED_BLOCKS * torch.clamp(128 * 128 / (tile_m * tile_n), max=4.0)
    busy = together(
        torch.ceil(waves) * (work + f["wave"] * latency + store), torch.ceil(waves / shared) * loop
    )
    adding = f["split"] * latency + 4 * m * n * split / (cores * f["split_rate"])
    busy = busy + torch.where(split > 1, adding, torch.zeros_like(adding))

    # Weights come from memory unless they, in as many copies as are timed in turn, stay in cache.
    moved = 2 * (m * k + k * n + m * n)
    held = 2 * (f["copies"] * k * n + m * k + m * n)
    resident = torch.sigmoid(f["cache_sharpness"] * (math.log(gpu.l2_bytes) - torch.log(held)))
    rate = gpu.bandwidth_bytes_per_s / clock * f["memory_share"]
    moving = (
        moved * (1 - resident) / rate
        + moved * resident / (cores * f["resident_rate"] * unit)
        + f["memory_latency"] * latency
    )

    # At the power limit the clock goes down with the cube root of what is asked.
    asked = gpu.flops_per_s * gpu.stated_clock_hz**2 / 1e30 / gpu.power_w / unit
    use = 2 * m * k * n / (cores * peak) / together(busy, moving)
    over = torch.log(asked * use / f["power"]) / 3
    busy = busy * torch.exp(torch.nn.functional.softplus(10 * over) / 10)

    vector = together((f["vector"] + k * f["vector_step"]) * latency, moving)
    vector = torch.where(m > 1, 1e6 * vector, vector)  # of one row alone
    logs = torch.log(torch.cat([together(busy, moving), vector], dim=1))
    best = (torch.softmax(-SOFTNESS * logs, dim=1) * logs).sum(dim=1)
    return (f["launch"] * latency + torch.exp(best)) / clock * 1e3
