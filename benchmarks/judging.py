"""What the predictor benchmarks share: their arguments and the figures that they print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

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
        "within_5": round(within(measured, predicted, 5), 2),
        "within_10": round(within(measured, predicted, 10), 2),
        "kendall_tau": round(metrics.kendall_tau(measured, predicted), 4),
        "spearman": round(spearman(measured, predicted), 4),
        "coverage": round(metrics.coverage(measured, upper), 4),
        "bound_width": round(bound_width(predicted, upper), 3),
        "rows": len(measured),  # type: ignore[arg-type]
    }


def within(measured: ArrayLike, predicted: ArrayLike, percent: float) -> float:
    """Percent of the predictions whose error is at most `percent`."""
    # the slack keeps an error of exactly the limit inside, whatever the last bit says
    return float(
        100.0 * np.mean(metrics.percent_errors(measured, predicted) <= percent * (1 + 1e-9))
    )


def spearman(measured: ArrayLike, predicted: ArrayLike) -> float:
    """Spearman's rank correlation; 0 where either side is constant."""
    if np.ptp(np.asarray(measured)) == 0 or np.ptp(np.asarray(predicted)) == 0:
        return 0.0
    return float(round(stats.spearmanr(measured, predicted).statistic, 12))


def bound_width(predicted: ArrayLike, upper: ArrayLike) -> float:
    """Mean distance of the upper bound above the prediction, percent of the prediction."""
    guess = np.asarray(predicted, np.float64)
    return float(100.0 * np.mean(np.asarray(upper, np.float64) / guess - 1.0))


def run(judge: Callable[[argparse.Namespace], object], parser: argparse.ArgumentParser) -> int:
    """Print what `judge` returns as one JSON object; the exit code, 2 where a file is at fault."""
    try:
        print(json.dumps(judge(parser.parse_args())))
    except (NasError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0
