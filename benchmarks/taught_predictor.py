"""How many evaluations a search takes whose predictor has seen nearly all the answers.

    python benchmarks/taught_predictor.py --table nb201.csv --objective acc12_cifar10_val:max \\
        --objective titanxp_1:min --cost-known titanxp_1 --reference acc12_cifar10_val=50 \\
        --reference 'titanxp_1=1.05*max' --goal 0.9983

A yardstick for predictors: each network of the table (20,000 at most) is predicted by extremely
randomised trees (Geurts et al. 2006) that learnt from nine tenths of the others, and evaluated in
the order of expected hypervolume gain, beginning with the dearest and the cheapest. Prints one JSON
object: the error of these predictions on the better half of the networks, and the evaluations
after which the share of the front's hypervolume is the goal; null if all of `--most` do not do.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from known_problems import Floats, Known, read_table
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import KFold, cross_val_predict

from nas.engine.candidates import ENUMERATE, Candidates
from nas.engine.guided import NODES
from nas.engine.pareto import gains
from nas.errors import NasError, UsageError
from search_spaces.choices import Genomes

TREES = 300


def networks(known: Known) -> Genomes:
    """Every network of the table, (n, genes).

    Raises:
        UsageError: if there are too many, or not one objective to predict and one that is known.
    """
    if len(known.problem.costly) != 1 or len(known.problem.known) != 1:
        raise UsageError("one objective is predicted, one is known.", "Name it by --cost-known.")
    genomes = Candidates(known.problem, 0).every_feasible
    if genomes is None:
        raise UsageError(f"the table has more than {ENUMERATE} networks.", "Take a smaller one.")
    return genomes


def columns(known: Known, genomes: Genomes) -> Floats:
    """One-hot genes, and how many genes have each step, (n, columns)."""
    choices = known.problem.choices
    counts = (genomes[:, :, None] == np.arange(choices.sizes.max())).sum(axis=1)
    return np.concatenate([choices.one_hot(genomes), counts], axis=1).astype(np.float64)


def evaluations(
    known: Known, genomes: Genomes, predicted: Floats, error: float, goal: float, most: int
) -> int | None:
    """After how many of the genomes (n, genes) the goal is reached by predictions (n,)."""
    problem = known.problem
    (costly,) = problem.costly
    at = [o.name for o in problem.objectives].index(costly.name)
    found = {**known.answer(genomes), **problem.costs(genomes)}
    truth = np.stack([found[o.name] for o in problem.objectives], axis=1)
    reference = problem.reference or {}
    worst = np.array([reference[o.name] for o in problem.objectives]) * problem.signs
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    believed = np.repeat((truth * problem.signs)[None], NODES, axis=0)
    believed[:, :, at] = predicted * problem.signs[at] + error * nodes[:, None]
    whole = known.volume(known.best())
    cost = np.delete(truth, at, axis=1)[:, 0]
    seen = [int(np.argmax(cost)), int(np.argmin(cost))]
    while len(seen) < min(most, len(genomes)):
        front = truth[seen] * problem.signs
        each = gains(front, believed.reshape(-1, truth.shape[1]), worst).reshape(NODES, -1)
        gain = weights @ each
        gain[seen] = -1.0
        seen.append(int(np.argmax(gain)))
        if known.volume(truth[seen]) >= goal * whole:
            return len(seen)
    return None


def main() -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, metavar="CSV")
    parser.add_argument("--arch", default="arch")
    parser.add_argument("--objective", action="append", required=True, metavar="NAME:max")
    parser.add_argument("--reference", action="append", required=True, metavar="NAME=VALUE")
    parser.add_argument("--cost-known", action="append", required=True, metavar="NAME")
    parser.add_argument("--goal", type=float, required=True, metavar="SHARE")
    parser.add_argument("--most", type=int, default=500)
    given = parser.parse_args()
    try:
        known = read_table(
            given.table, given.arch, given.objective, given.reference, given.cost_known
        )
        genomes = networks(known)
    except (NasError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    (costly,) = known.problem.costly
    true = known.answer(genomes)[costly.name]
    trees = ExtraTreesRegressor(TREES, min_samples_leaf=2, max_features=0.5, random_state=0)
    folds = KFold(10, shuffle=True, random_state=0)
    predicted = cross_val_predict(trees, columns(known, genomes), true, cv=folds)
    better = predicted * (1 if costly.maximise else -1)
    half = better >= np.median(better)
    spread = float(np.std((true - predicted)[half]))
    n = evaluations(known, genomes, predicted, spread, given.goal, given.most)
    print(json.dumps({"error": round(spread, 3), "evaluations": n}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
