"""Throughput of MnasNet-space networks on an A100 from their stages' choices.

Reads the layout of Accel-NASBench: `block{stage}_{e,k,l,se}` and `throughput_a100_mean`, in
images a second. Of a file that is given to train and to test, and whose column of a name that
ends in `split` marks a part as `train`, the fit takes that part and the judging the others; of
any other file, all rows. Rows without a throughput are left out.

The point figures are those of throughput. `coverage` and `bound_width` are those of the 90 %
upper bound of the time of an image: what a budget is judged on is the LOWEST throughput.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import judging
import numpy as np
from models.stage_time import StageTime
from network_tables import NetworkTable, read_networks
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from hw_profiles.errors import ProfileError
from predictors.conformal import UpperBound

Floats = NDArray[np.float64]

THROUGHPUT = "throughput_a100_mean"
CHOICES = ("e", "k", "l", "se")
FOLDS = 5
COVERAGE = 0.9


def main() -> int:
    return judging.run(judge, judging.arguments(__doc__))


def judge(given: argparse.Namespace) -> dict[str, float]:
    """The figures of all test rows together."""
    both = {path.resolve() for path in given.train} & {path.resolve() for path in given.test}
    networks, throughput = read(given.train, both, fitted=True)
    new, new_throughput = read(given.test, both, fitted=False)
    if new.shape[1] != networks.shape[1]:
        raise ProfileError(
            "the networks of the test files have another number of stages than those of the "
            "train files.",
            "Give files of one space.",
        )
    times = 1e6 / throughput
    guess = StageTime().fit(networks, times).predict(new)
    left_out = np.empty(len(times))
    for number, (rest, part) in enumerate(KFold(FOLDS, shuffle=True, random_state=0).split(times)):
        print(f"calibration {number + 1} of {FOLDS}", file=sys.stderr)
        left_out[part] = StageTime().fit(networks[rest], times[rest]).predict(networks[part])
    bound = UpperBound(COVERAGE).fit(left_out, times)
    made = judging.figures(new_throughput, 1e6 / guess, 1e6 / guess)
    of_time = judging.figures(1e6 / new_throughput, guess, guess * bound.ratio(guess))
    return made | {name: of_time[name] for name in ("coverage", "bound_width")}


def read(paths: list[Path], both: set[Path], fitted: bool) -> tuple[Floats, Floats]:
    """Choices (n, 4 * stages) and images a second (n,) of one part of some files.

    Args:
        both: files that are fitted on and judged: of these, only the rows of the part.
        fitted: the part: `train`, or whatever is not.

    Raises:
        ProfileError: if a file is malformed, the files differ in stages, or nothing is left.
    """
    networks, throughputs = [], []
    for path in paths:
        table = read_networks(path)
        kept = np.array([text != "" for text in table.texts(THROUGHPUT)])
        splits = [name for name in table.columns if name.endswith("split")]
        if path.resolve() in both and splits:
            in_train = np.array([text == "train" for text in table.texts(splits[0])])
            if in_train.any() and not in_train.all():
                kept &= in_train == fitted
        table = NetworkTable(
            path,
            {n: list(itertools.compress(column, kept)) for n, column in table.columns.items()},
        )
        if not len(table):
            raise ProfileError(f"{path} has no throughput of any network.", "Check the file.")
        stages = len([name for name in table.columns if name.endswith("_se")])
        names = [f"block{stage}_{choice}" for stage in range(stages) for choice in CHOICES]
        if not names:
            raise ProfileError(f"{path} has no column block0_se.", "It needs a network's stages.")
        networks.append(np.column_stack([table.numbers(name) for name in names]))
        throughputs.append(table.numbers(THROUGHPUT, positive=True))
    if len({part.shape[1] for part in networks}) > 1:
        raise ProfileError("the files differ in their number of stages.", "Give one space's.")
    return np.concatenate(networks), np.concatenate(throughputs)


if __name__ == "__main__":
    sys.exit(main())
