"""A made-up world of GPUs in which op times follow a law that the tests know."""

import numpy as np
from models.fp32_tables import GpuSheet, OpRows

ISSUE = {"linear": 0.05, "bmm": 0.03, "stream": 0.015, "softmax": 0.03, "layer_norm": 0.03}
BANDWIDTH_SHARE, ROW_SHARE = 0.8, 0.5


def sheet(name, bandwidth, memory, flops=10e12, lanes=64, cores=80):
    return GpuSheet(name, cores, lanes, flops, bandwidth, memory)


def kernel_ms(kind, shapes, gpu, share):
    """True time of kernels that reach `share` of the arithmetic peak."""
    if kind in ("linear", "bmm"):
        b, m, k, n = shapes.T
        moving = 4 * b * (m * k + k * n + m * n) / gpu.bandwidth_bytes_per_s
        return 1e3 * np.maximum(2 * b * m * k * n / gpu.flops_per_s, moving) / share
    bytes_each, reached = (12, BANDWIDTH_SHARE) if kind == "stream" else (8, ROW_SHARE)
    return 1e3 * bytes_each * shapes.prod(axis=1) / gpu.bandwidth_bytes_per_s / reached


def tables(gpu, share, rows=400, seed=0):
    """Rows of every needed kind, each call with its time to issue."""
    rng = np.random.default_rng(seed)
    made = []
    for kind in ("linear", "bmm"):
        shapes = np.round(2 ** rng.uniform(5, 11, (rows, 4)))
        shapes[:, 0] = 1 if kind == "linear" else np.round(2 ** rng.uniform(0, 7, rows))
        made.append((kind, kind, shapes))
    wide = np.column_stack([rng.integers(4100, 16000, rows), rng.integers(515, 4096, rows)])
    made += [("add", "stream", wide), ("softmax", "softmax", wide), ("ln", "layer_norm", wide)]
    return [
        OpRows(
            gpu.name, kind, shapes * 1.0, ISSUE[ours] + kernel_ms(ours, shapes * 1.0, gpu, share)
        )
        for kind, ours, shapes in made
    ]
