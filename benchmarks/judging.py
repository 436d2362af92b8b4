"""What the predictor benchmarks share: their arguments and the figures that they print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from numpy.typing import ArrayLike

from hw_profiles.errors import NasError
from predictors import metrics


def arguments(doc: str, spec: bool = False, nargs: str | None = None) -> argparse.ArgumentParser:
    """A parser of `--train PATH...`, `--test PATH...` and, on request, `--spec`.

    Args:
        doc: the script's own docstring; its first line is the help's.
        spec: whether a sheet is needed.
        nargs: of `--spec`, as argparse has it; one path by default.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--train", type=Path, nargs="+", required=True, metavar="PATH")
    parser.add_argument("--test", type=Path, nargs="+", required=True, metavar="PATH")
    if spec:
        parser.add_argument("--spec", type=Path, nargs=nargs, required=True, metavar="PATH")
    return parser


def figures(measured: ArrayLike, predicted: ArrayLike, upper: ArrayLike) -> dict[str, float]:
    """The figures of predictions and of their 90 % upper bounds, (n,) each, one row a timing.

    Errors and the bound's width in percent, coverage as a share.
    """
    return {
        "mape": round(metrics.mape(measured, predicted), 3),
        "median_error": round(metrics.median_error(measured, predicted), 3),
        "within_5": round(metrics.within(measured, predicted, 5), 2),
        "within_10": round(metrics.within(measured, predicted, 10), 2),
        "kendall_tau": round(metrics.kendall_tau(measured, predicted), 4),
        "spearman": round(metrics.spearman(measured, predicted), 4),
        "coverage": round(metrics.coverage(measured, upper), 4),
        "bound_width": round(metrics.bound_width(predicted, upper), 3),
        "rows": len(measured),  # type: ignore[arg-type]
    }


def run(judge: Callable[[argparse.Namespace], object], parser: argparse.ArgumentParser) -> int:
    """Print what `judge` returns as one JSON object; the exit code, 2 where a file is at fault."""
    try:
        print(json.dumps(judge(parser.parse_args())))
    except (NasError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0
