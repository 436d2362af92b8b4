"""Share of the hypervolume that each sampler reaches on problems whose answers are known.

    python benchmarks/search_tables.py --table nasbench_macro.csv --arch arch \\
        --objective mean_acc:max --objective flops:min --cost-known flops \\
        --reference mean_acc=80 --reference flops=1.05*max \\
        --evaluations 50,100,250 --seeds 10 --samplers guided,nsga2,random
    python benchmarks/search_tables.py --gpt2 small.npz --scale small \\
        --evaluations 50,100,250,2000 --limit guided=250 --samplers guided,nsga2

A table is a CSV file with one row a network; the column named by `--arch` holds a string with one
character a gene. The share is that of the whole table's hypervolume. `--gpt2` takes a perplexity
surrogate of GPT-2 subnets (see gpt2_surrogate.py); there the share is that of the best known
hypervolume: all trials of all the searches of the run and an NSGA-II of 60,000 evaluations of the
surrogate, together.

Prints one JSON object: sampler -> evaluations -> median share over the seeds; with `--quartiles`,
[lower quartile, median, upper quartile]. `--limit` leaves out what is beyond a sampler's own
number of evaluations. `--picture` draws the shares against evaluations as a PNG.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from gpt2_surrogate import SCALES, read_gpt2
from known_problems import Floats, Known, read_table

from nas.engine.samplers import require_sampler
from nas.errors import NasError, UsageError

POINTS_DRAWN = 60
"""Numbers of evaluations at which a picture has a point, at most."""


def arguments() -> argparse.ArgumentParser:
    """The script's own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    problem = parser.add_mutually_exclusive_group(required=True)
    problem.add_argument("--table", type=Path, metavar="CSV")
    problem.add_argument("--gpt2", type=Path, metavar="NPZ")
    parser.add_argument("--scale", choices=tuple(SCALES), default="small", help="of --gpt2")
    parser.add_argument("--arch", default="arch")
    parser.add_argument("--objective", action="append", default=[], metavar="NAME:max")
    parser.add_argument("--reference", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--cost-known", action="append", default=[], metavar="NAME")
    parser.add_argument("--evaluations", default="50,100,250")
    parser.add_argument("--limit", action="append", default=[], metavar="SAMPLER=EVALUATIONS")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--samplers", default="guided,nsga2,random")
    parser.add_argument("--quartiles", action="store_true")
    parser.add_argument("--picture", type=Path, metavar="PNG")
    return parser


def plan(given: argparse.Namespace) -> dict[str, list[int]]:
    """Sampler -> the numbers of evaluations to report, ascending.

    Raises:
        UsageError: if a sampler is unknown or a number is none.
    """
    samplers = given.samplers.split(",")
    for sampler in samplers:
        require_sampler(sampler)
    try:
        evaluations = sorted({int(n) for n in given.evaluations.split(",")})
        limits = {name: int(n) for name, n in (text.split("=") for text in given.limit)}
    except ValueError:
        raise UsageError(
            "evaluations are whole numbers.", "Write --evaluations 50,100 --limit guided=250."
        ) from None
    if set(limits) - set(samplers):
        raise UsageError("a limit is of a sampler that is not among --samplers.")
    if evaluations[0] < 1 or given.seeds < 1:
        raise UsageError("evaluations and seeds are 1 or more.")
    found = {s: [n for n in evaluations if n <= limits.get(s, n)] for s in samplers}
    if not all(found.values()):
        raise UsageError("a limit is below the first number of evaluations.")
    return found


def read_problem(given: argparse.Namespace) -> Known:
    """The problem that the arguments name.

    Raises:
        UsageError: if it makes no sense.
    """
    if given.gpt2 is not None:
        if given.objective or given.reference or given.cost_known:
            raise UsageError("--gpt2 has its own objectives and reference.", "Leave them out.")
        return read_gpt2(given.gpt2, given.scale)
    if not given.objective:
        raise UsageError("a table needs objectives.", "Write --objective NAME:max.")
    return read_table(given.table, given.arch, given.objective, given.reference, given.cost_known)


def run_all(known: Known, samplers: dict[str, list[int]], seeds: int) -> dict[str, list[Floats]]:
    """Objectives of the trials of each seed's search, (n, objectives) each."""
    points: dict[str, list[Floats]] = {}
    for sampler, evaluations in samplers.items():
        begun = time.perf_counter()
        points[sampler] = [known.search(sampler, evaluations[-1], seed) for seed in range(seeds)]
        seconds = (time.perf_counter() - begun) / seeds
        print(f"{sampler}: {seconds:.1f} s a seed", file=sys.stderr)
    return points


def shares(known: Known, whole: float, points: list[Floats], evaluations: list[int]) -> Floats:
    """Share of the hypervolume `whole` after each number of evaluations, (seeds, numbers)."""
    return np.array([[known.volume(p[:n]) / whole for n in evaluations] for p in points])


def draw(path: Path, curves: dict[str, tuple[list[int], Floats]]) -> None:
    """Medians and quartiles against evaluations: sampler -> numbers, shares (seeds, numbers)."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for sampler, (evaluations, share) in curves.items():
        low, median, high = np.quantile(share, [0.25, 0.5, 0.75], axis=0)
        (line,) = axes.plot(evaluations, median, label=sampler)
        axes.fill_between(evaluations, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    lowest = min(np.median(share, axis=0)[len(n) // 6] for n, share in curves.values())
    axes.set(xscale="log", xlabel="evaluations", ylabel="share of the hypervolume")
    axes.set_ylim(lowest - 0.02, 1.005)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> int:
    """Run as a script."""
    given = arguments().parse_args()
    try:
        samplers = plan(given)
        known = read_problem(given)
    except (NasError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    points = run_all(known, samplers, given.seeds)
    best = [known.best()]
    if not known.exact:
        best += [each for one in points.values() for each in one]
    whole = known.volume(np.concatenate(best))
    result: dict[str, dict[str, object]] = {}
    for sampler, evaluations in samplers.items():
        each = shares(known, whole, points[sampler], evaluations)
        result[sampler] = {
            str(n): [round(float(q), 5) for q in np.quantile(each[:, i], [0.25, 0.5, 0.75])]
            if given.quartiles
            else round(float(np.median(each[:, i])), 5)
            for i, n in enumerate(evaluations)
        }
    if given.picture is not None:
        curves = {}
        for sampler, evaluations in samplers.items():
            at = np.unique(np.geomspace(5, evaluations[-1], POINTS_DRAWN).astype(int)).tolist()
            curves[sampler] = at, shares(known, whole, points[sampler], at)
        draw(given.picture, curves)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
