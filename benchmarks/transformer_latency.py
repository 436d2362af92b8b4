"""Latency of encoder-decoder transformers from their sizes, where the machine drifted meanwhile.

A file that is given to train and to test is split by blocks of rows: every fifth block is judged
by a fit on the other four fifths, five times over, so that each row is judged once. Other test
files are judged by a fit on all train files. Rows stand in the order in which they were timed;
neither their position nor their neighbours' times are known to a prediction, which is made for
the state of the machine in which most rows lie. So the error of a drifted row is that of its
drift, and the upper bound allows for drift as often as it occurred in the fitted rows.

Beside the usual figures: `drifted`, the share of the fitted rows found to lie in a slow run,
`drifted_test`, that of the judged rows, `median_error_steady`, percent, of the judged rows
without those (null where none is left), and `median_error_levelled`, percent, once each run's own
level is taken out: what noise and sizes leave. One object a file stands under `files` where there
are several.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import judging
import numpy as np
from models.drift import DriftRegressor, run_levels
from models.translation import FEATURES, translation_work
from network_tables import read_networks
from numpy.typing import NDArray

from hw_profiles.errors import UsageError
from predictors import metrics
from predictors.conformal import UpperBound

Floats = NDArray[np.float64]

PARTS = ("latency_mean_encoder", "latency_mean_decoder")
FOLDS = 5
COVERAGE = 0.9


@dataclass
class Judged:
    """Predictions of rows in the order in which they were timed, and what was found there."""

    measured: Floats
    predicted: Floats
    upper: Floats
    drifted: NDArray[np.bool_]
    drifted_in_fit: list[float]


def main() -> int:
    parser = judging.arguments(__doc__)
    parser.add_argument("--block", type=int, default=100, help="rows of a block (default: 100)")
    return judging.run(judge, parser)


def judge(given: argparse.Namespace) -> dict[str, object]:
    """The figures of all test files together, and of each."""
    if given.block < 1:
        raise UsageError("--block needs at least one row.", "Leave it out for 100.")
    trained = {path.resolve() for path in given.train}
    parts = {}
    for path in given.test:
        work, times = read(path)
        if path.resolve() in trained:
            parts[path.stem] = by_blocks(work, times, given.block)
        else:
            files = [read(train) for train in given.train]
            fit_work, fit_times = (np.concatenate(part) for part in zip(*files, strict=True))
            parts[path.stem] = predicted(fit_work, fit_times, work, times, given.block)
    made = figures(list(parts.values()))
    if len(parts) > 1:
        made["files"] = {name: figures([part]) for name, part in parts.items()}
    return made


def read(path: Path) -> tuple[Floats, Floats]:
    """Columns of work (n, columns), and milliseconds of encoder and decoder together (n,)."""
    table = read_networks(path)
    sizes = np.column_stack([table.numbers(name, positive=True) for name in FEATURES])
    times = sum(table.numbers(name, positive=True) for name in PARTS)
    return translation_work(sizes), np.asarray(times)


def predicted(work: Floats, times: Floats, new: Floats, new_times: Floats, block: int) -> Judged:
    """Fit on some rows and judge others; errors on left-out blocks of the former set the bound."""
    model = DriftRegressor().fit(work, times)
    left_out = np.empty(len(times))
    for test in folds(len(times), block):
        left_out[test] = DriftRegressor().fit(work[~test], times[~test]).predict(work[test])
    bound = UpperBound(COVERAGE).fit(left_out, times)
    guess = model.predict(new)
    return Judged(
        new_times,
        guess,
        guess * bound.ratio(guess),
        model.find_drifted(new, new_times),
        [float(model.drifted_.mean())],
    )


def by_blocks(work: Floats, times: Floats, block: int) -> Judged:
    """Every row of a file, judged by a fit without its own block and every fifth beside it."""
    guess, upper = np.empty(len(times)), np.empty(len(times))
    drifted, in_fit = np.zeros(len(times), bool), []
    for fold, test in enumerate(folds(len(times), block)):
        print(f"split {fold + 1} of {FOLDS}", file=sys.stderr)
        part = predicted(work[~test], times[~test], work[test], times[test], block)
        guess[test], upper[test], drifted[test] = part.predicted, part.upper, part.drifted
        in_fit += part.drifted_in_fit
    return Judged(times, guess, upper, drifted, in_fit)


def folds(n: int, block: int) -> list[NDArray[np.bool_]]:
    """Every fifth block of rows, five times with another first one, (n,) each.

    Raises:
        UsageError: if there are fewer blocks than splits.
    """
    numbers = np.arange(n) // block
    if numbers[-1] < FOLDS - 1:
        raise UsageError(
            f"{n} rows do not make {FOLDS} blocks of {block}.", "Give a smaller --block."
        )
    return [numbers % FOLDS == fold for fold in range(FOLDS)]


def figures(parts: list[Judged]) -> dict[str, object]:
    """The usual figures, and those of drift."""
    measured, guess, upper = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("measured", "predicted", "upper")
    )
    drifted = np.concatenate([part.drifted for part in parts])
    levelled = [
        part.predicted * np.exp(run_levels(np.log(part.measured / part.predicted)))
        for part in parts
    ]
    in_fit = [share for part in parts for share in part.drifted_in_fit]
    made: dict[str, object] = dict(judging.figures(measured, guess, upper))
    made["drifted"] = round(float(np.mean(in_fit)), 4)
    made["drifted_test"] = round(float(drifted.mean()), 4)
    made["median_error_steady"] = (
        None
        if drifted.all()
        else round(metrics.median_error(measured[~drifted], guess[~drifted]), 3)
    )
    made["median_error_levelled"] = round(
        metrics.median_error(measured, np.concatenate(levelled)), 3
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
