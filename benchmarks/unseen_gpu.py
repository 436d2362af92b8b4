"""Time of bf16 matrix products on a GPU of which no row was seen, from its sheet and other GPUs.

    python benchmarks/unseen_gpu.py --train a100_gemm.csv.gz h200_sxm_gemm_bf16_fp8.csv.gz \\
        --test l40s_gemm_bf16_fp8.csv.gz --spec spec_*.yaml

A table's sheet is found by the words of both names (`a100_gemm` and `spec_a100_sxm`); where that
is not clear, say `TABLE=SHEET`. Tables of one device may be several, of other software stacks.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import judging
import numpy as np

from hw_profiles.errors import ProfileError
from hw_profiles.gpus import Gpu, read_gpu, sheet_of
from hw_profiles.tables import read_table
from predictors.op_time import Array
from predictors.unseen_gemm import UnseenGemm

STEPS = 300  # of a fit of the tile model


def judge(args: argparse.Namespace) -> dict[str, float]:
    """The figures of one device from the tables of the others."""
    started = time.perf_counter()
    train, test = _by_device(args.train, args.spec), _by_device(args.test, args.spec)
    if len(test) != 1:
        names = ", ".join(gpu.name for gpu in test)
        raise ProfileError(f"the tables under --test are of several GPUs: {names}.", "Judge one.")
    ((gpu, (shapes, times)),) = test.items()
    if gpu in train:
        raise ProfileError(
            f"{gpu.name} is in --train and in --test.", "It is to be a GPU of which no row is seen."
        )
    model = UnseenGemm(gpu, steps=STEPS).fit([(other, *table) for other, table in train.items()])
    print(f"{gpu.name} after {time.perf_counter() - started:.0f} s", file=sys.stderr)
    predicted = model.predict(shapes)
    return judging.figures(times, predicted, predicted * model.upper_ratio(shapes))


def _by_device(paths: list[Path], sheets: list[Path]) -> dict[Gpu, tuple[Array, Array]]:
    """Shapes (m, k, n) and milliseconds of the bf16 rows of every device in these tables."""
    parts: dict[Gpu, list[tuple[Array, Array]]] = {}
    for stated in paths:
        table, equals, sheet = str(stated).rpartition("=")
        named = bool(equals) and not stated.exists()
        path = Path(table) if named else stated
        gpu = read_gpu(Path(sheet) if named else sheet_of(path, sheets))
        rows = [
            r for r in read_table(path).rows if (r.op.kind, r.op.precision) == ("linear", "bf16")
        ]
        if not rows:
            raise ProfileError(f"{path} holds no bf16 GEMM row.", "It needs gemm_dtype bfloat16.")
        shapes = np.array([row.op.shape for row in rows], np.float64)
        times = np.array([row.latency_ms for row in rows], np.float64)
        parts.setdefault(gpu, []).append((shapes, times))
        print(f"{path.name}: {gpu.name}, {len(rows)} rows", file=sys.stderr)
    return {
        gpu: (np.concatenate([p[0] for p in pair]), np.concatenate([p[1] for p in pair]))
        for gpu, pair in parts.items()
    }


if __name__ == "__main__":
    sys.exit(judging.run(judge, judging.arguments(__doc__, spec=True, nargs="+")))
