"""Errors of a GPU's matrix products on another software stack or on other shapes.

    python benchmarks/gpu_gemm.py --train trtllm.csv --test vllm.csv --spec spec_a100_sxm.yaml

Every precision of the test tables is predicted by a fit on the train tables' rows of it, and all
rows go into the one object that is printed; `--precision NAME` keeps that one alone, `--rows N`
fits so many train rows of each, drawn at random.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import judging
import numpy as np

from hw_profiles.errors import ProfileError
from hw_profiles.gpus import read_device
from hw_profiles.profile import Device
from hw_profiles.tables import GEMM_PRECISIONS, TableRow, read_table
from predictors.gemm_fits import FEWEST, arrays, folds_of, new_gemm
from predictors.op_time import Array
from predictors.sheet_models import COVERAGE

# Standard deviation of the log-ratio of two software stacks at one shape: 0.045 between
# TensorRT-LLM 1.0.0 and vLLM 0.14.0 on the A100, 0.089 between vLLM 0.22.0 and 0.24.0 on the H200
# (most of that one of them slower throughout where arithmetic binds).
STACK_SPREAD = 0.05


def main() -> int:
    """Run the benchmark."""
    parser = judging.arguments(__doc__ or "", spec=True)
    parser.add_argument("--precision", metavar="NAME", help="such as bfloat16 or int4_wo")
    parser.add_argument("--rows", type=int, metavar="N", help=f"at least {FEWEST}")
    return judging.run(judge, parser)


def judge(given: argparse.Namespace) -> dict[str, float]:
    """The figures over all test rows."""
    device = read_device(given.spec)
    train, test = _rows(given.train, given.precision), _rows(given.test, given.precision)
    parts = []
    for precision in sorted({row.op.precision for row in test}):
        rows = [row for row in train if row.op.precision == precision]
        if given.rows is not None and given.rows < len(rows):
            chosen = np.random.default_rng(0).permutation(len(rows))[: given.rows]
            rows = [rows[i] for i in chosen]
        if len(rows) < FEWEST:
            raise ProfileError(
                f"the train tables hold {len(rows)} rows of {precision}; a fit needs {FEWEST}.",
                "Add a table that has them, or choose another by --precision.",
            )
        judged = [row for row in test if row.op.precision == precision]
        parts += predict(precision, rows, judged, device)
    return judging.figures(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def predict(
    precision: str, rows: list[TableRow], judged: list[TableRow], device: Device
) -> list[tuple[Array, Array, Array]]:
    """Measured, predicted and upper times of rows whose stack was trained on, and of others.

    The bound is set on a quarter of the train shapes by a fit that lacked them; for a stack that
    was not trained on their times are moved by as much as stacks differ.
    """
    started = time.perf_counter()
    shapes, times = arrays(rows)
    form = new_gemm(precision, device).fit(shapes, times)
    fitted = time.perf_counter() - started
    out = folds_of(shapes) == 0
    kept_out = new_gemm(precision, device).fit(shapes[~out], times[~out]).predict(shapes[out])
    print(f"{precision}: {len(rows)} rows fitted in {fitted:.0f} s", file=sys.stderr)
    known = {row.stack for row in rows}
    parts = []
    for seen in (True, False):
        part = [row for row in judged if (row.stack in known) == seen]
        if part:
            form.calibrate(kept_out, times[out] if seen else other_stack(times[out]), COVERAGE)
            part_shapes, measured = arrays(part)
            predicted = form.predict(part_shapes)
            parts.append((measured, predicted, predicted * form.upper_ratio(part_shapes)))
    return parts


def other_stack(measured: Array, seed: int = 0) -> Array:
    """Times as another software stack might have given them, shape (n,).

    A bound that is calibrated on one stack holds less often on another; calibrated on these times
    it allows for what stacks differ by, `STACK_SPREAD`.
    """
    normal = np.random.default_rng(seed).standard_normal(len(measured))
    return np.asarray(measured * np.exp(STACK_SPREAD * normal))


def _rows(paths: list[Path], precision: str | None) -> list[TableRow]:
    """The matrix products in these tables, of that precision if one is named."""
    wanted = None if precision is None else GEMM_PRECISIONS.get(precision, precision)
    rows = [
        row
        for path in paths
        for row in read_table(path).rows
        if row.op.kind == "linear" and wanted in (None, row.op.precision)
    ]
    if not rows:
        said = "matrix product" if precision is None else f"row of {precision}"
        raise ProfileError(
            f"{', '.join(map(str, paths))} hold no {said}.",
            f"Known precisions: {', '.join(GEMM_PRECISIONS)}.",
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
