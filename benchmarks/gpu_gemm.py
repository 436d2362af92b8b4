"""Errors of a GPU's matrix products on another software stack or on other shapes.

    python benchmarks/gpu_gemm.py --train trtllm.csv --test vllm.csv --spec spec_a100_sxm.yaml

Every precision of the test tables is predicted by a fit on the train tables' rows of it, and all
rows go into the one object that is printed; `--precision NAME` keeps that one alone.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

import judging
import numpy as np
from fit_a100 import COVERAGE, DEVICES, arrays, folds_of, new_gemm

from hw_profiles.errors import ProfileError
from hw_profiles.profile import Device
from hw_profiles.tables import GEMM_PRECISIONS, TableRow, read_sheet, read_table
from predictors.gemm_time import RooflineMLP, other_stack

# multiprocessors of GPUs that no profile is fitted for here, by the word in the sheet's name
CORES = {key: cores for key, (_, _, cores) in DEVICES.items()} | {"h100": 132, "l4": 58, "a30": 56}
FEWEST = 200  # train rows of a precision, and of a stack that is to judge others


def judge(given: argparse.Namespace) -> dict[str, float]:
    """The figures over all test rows."""
    device = _device(given.spec)
    train, test = _rows(given.train, given.precision), _rows(given.test, given.precision)
    parts = []
    for precision in sorted({row.op.precision for row in test}):
        rows = [row for row in train if row.op.precision == precision]
        if len(rows) < FEWEST:
            raise ProfileError(
                f"the train tables hold {len(rows)} rows of {precision}; a fit needs {FEWEST}.",
                "Add a table that has them, or choose another by --precision.",
            )
        form = fit(precision, rows, device)
        shapes, times = arrays([row for row in test if row.op.precision == precision])
        predicted = form.predict(shapes)
        parts.append((times, predicted, predicted * form.upper_ratio(shapes)))
    return judging.figures(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def fit(precision: str, rows: list[TableRow], device: Device) -> RooflineMLP:
    """Fit on all rows, with a bound for another stack and other shapes.

    The bound is set on a quarter of the shapes by fits that lacked them: of several stacks each is
    predicted from every other one; of a single one the times are moved as other stacks' differ.
    """
    started = time.perf_counter()
    shapes, times = arrays(rows)
    form = new_gemm(precision, device).fit(shapes, times)
    fitted = time.perf_counter() - started
    pairs = _stack_pairs(np.array([row.stack for row in rows]))
    out = folds_of(shapes) == 0
    predicted, measured = [], []
    for known, judged in pairs or [(np.full(len(rows), True),) * 2]:
        guess = new_gemm(precision, device).fit(shapes[known & ~out], times[known & ~out])
        predicted.append(guess.predict(shapes[judged & out]))
        measured.append(times[judged & out] if pairs else other_stack(times[judged & out]))
    form.calibrate(np.concatenate(predicted), np.concatenate(measured), COVERAGE)
    print(
        f"{precision}: {len(rows)} rows fitted in {fitted:.0f} s, bound by "
        f"{len(pairs) or 1} more fits in {time.perf_counter() - started - fitted:.0f} s",
        file=sys.stderr,
    )
    return form


def _stack_pairs(stacks: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Masks of every stack of enough rows and of all others; none if there is but one."""
    names, counts = np.unique(stacks, return_counts=True)
    large = names[counts >= FEWEST]
    if len(large) < 2:
        return []
    return [(stacks == name, np.isin(stacks, large) & (stacks != name)) for name in large]


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


def _device(sheet: Path) -> Device:
    """The GPU of that sheet; its multiprocessors, which no sheet states, by the sheet's name."""
    words = re.split(r"[^a-z0-9]+", sheet.stem.lower())
    known = [word for word in words if word in CORES]
    if not known:
        raise ProfileError(
            f"{sheet} is named after no GPU whose multiprocessors are known here.",
            f"Known: {', '.join(sorted(CORES))}; a sheet is named like spec_a100_sxm.yaml.",
        )
    return read_sheet(sheet, known[0].upper(), CORES[known[0]])


if __name__ == "__main__":
    arguments = judging.arguments(__doc__ or "", spec=True)
    arguments.add_argument("--precision", metavar="NAME", help="such as bfloat16 or int4_wo")
    sys.exit(judging.run(judge, arguments))
