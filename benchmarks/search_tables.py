"""Share of the hypervolume that each sampler reaches on problems whose answers are known.

    python benchmarks/search_tables.py --table nasbench_macro.csv --arch arch \\
        --objective mean_acc:max --objective flops:min --cost-known flops \\
        --reference mean_acc=80 --reference flops=1.05*max \\
        --evaluations 50,100,250 --seeds 10 --samplers guided,nsga2,random
    python benchmarks/search_tables.py --gpt2 small.npz --scale small \\
        --evaluations 50,100,250,2000 --limit guided=250 --samplers guided,nsga2
    python benchmarks/search_tables.py --supernet vit --target a100 \\
        --evaluations 50,100,1000 --limit guided=100 --samplers guided,nsga2

A table is a CSV file with one row a network; the column named by `--arch` holds a string with one
character a gene. The share is that of the whole table's hypervolume. `--gpt2` takes a perplexity
surrogate of GPT-2 subnets (see gpt2_surrogate.py); there the share is that of the best known
hypervolume: all trials of all the searches of the run and an NSGA-II of 60,000 evaluations of the
surrogate, together. `--supernet` takes a space of this project, whose default supernet is really
evaluated (see supernet_problem.py); there the best known is that of all the run's trials.

Prints one JSON object: sampler -> evaluations -> median share over the seeds; with `--quartiles`,
[lower quartile, median, upper quartile]. `--limit` leaves out what is beyond a sampler's own
number of evaluations. `--goal nsga2=1000` adds, under `reached`, the evaluations after which a
quarter, half and three quarters of the seeds have the median share of that sampler after that
many; null where they never have. `--picture` draws the shares against evaluations as a PNG.
`--keep DIR` keeps each search there and takes those that are there: a run that was cut short goes
on, and two with `--seeds 0-4` and `--seeds 5-9` fill the folder for one with `--seeds 10`.
Among `--samplers` may be those of other packages, see peers.py.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from bisect import bisect_left
from functools import partial
from pathlib import Path

import numpy as np
from gpt2_surrogate import SCALES, read_gpt2
from kept_searches import KeptSearches
from known_problems import Floats, Known, read_table
from peers import get_peer
from search_picture import draw, drawn_at
from supernet_problem import read_supernet

from nas.engine.samplers import require_sampler
from nas.errors import NasError, UsageError
from nas.export.subnet import digest

QUARTILES = [0.25, 0.5, 0.75]


def arguments() -> argparse.ArgumentParser:
    """The script's own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    problem = parser.add_mutually_exclusive_group(required=True)
    problem.add_argument("--table", type=Path, metavar="CSV")
    problem.add_argument("--gpt2", type=Path, metavar="NPZ")
    problem.add_argument("--supernet", metavar="SPACE")
    parser.add_argument("--scale", choices=tuple(SCALES), default="small", help="of --gpt2")
    parser.add_argument("--target", default="a100", help="of --supernet")
    parser.add_argument("--arch", default="arch")
    parser.add_argument("--objective", action="append", default=[], metavar="NAME:max")
    parser.add_argument("--reference", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--cost-known", action="append", default=[], metavar="NAME")
    parser.add_argument("--evaluations", default="50,100,250")
    parser.add_argument("--limit", action="append", default=[], metavar="SAMPLER=EVALUATIONS")
    parser.add_argument("--seeds", default="10", metavar="NUMBER|FIRST-LAST")
    parser.add_argument("--samplers", default="guided,nsga2,random")
    parser.add_argument("--goal", metavar="SAMPLER=EVALUATIONS")
    parser.add_argument("--quartiles", action="store_true")
    parser.add_argument("--picture", type=Path, metavar="PNG")
    parser.add_argument("--keep", type=Path, metavar="DIR")
    return parser


def plan(given: argparse.Namespace) -> dict[str, list[int]]:
    """Sampler -> the numbers of evaluations to report, ascending.

    Raises:
        UsageError: if a sampler is unknown or a number is none.
    """
    samplers = given.samplers.split(",")
    for sampler in samplers:
        if get_peer(sampler) is None:
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
    if evaluations[0] < 1:
        raise UsageError("evaluations are 1 or more.")
    found = {s: [n for n in evaluations if n <= limits.get(s, n)] for s in samplers}
    if not all(found.values()):
        raise UsageError("a limit is below the first number of evaluations.")
    return found


def seeds_of(text: str) -> range:
    """So many seeds from 0, or those from the first to the last.

    Raises:
        UsageError: if there are none.
    """
    first, dash, last = text.partition("-")
    if first.isdecimal() and (last.isdecimal() if dash else True):
        seeds = range(int(first), int(last) + 1) if dash else range(int(first))
        if seeds:
            return seeds
    raise UsageError(f"{text!r} are no seeds.", "Write --seeds 10, or --seeds 5-9.")


def goal_of(text: str, samplers: dict[str, list[int]]) -> tuple[str, int]:
    """The sampler and the number of evaluations that a goal names.

    Raises:
        UsageError: if the run has no such sampler, or not so many evaluations of it.
    """
    sampler, _, number = text.partition("=")
    if sampler not in samplers or not number.isdecimal():
        raise UsageError(f"{text!r} is no goal.", "Write a sampler of the run: nsga2=1000.")
    if not 1 <= int(number) <= samplers[sampler][-1]:
        raise UsageError(f"{sampler} has {samplers[sampler][-1]} evaluations in this run.")
    return sampler, int(number)


def title(given: argparse.Namespace) -> str:
    """Of the picture."""
    if given.gpt2 is not None:
        what = f"GPT-2 {given.scale} (surrogate): perplexity, latency"
    elif given.supernet is not None:
        what = f"{given.supernet} on {given.target}: quality, latency"
    else:
        names = ", ".join(text.partition(":")[0] for text in given.objective)
        what = f"{given.table.stem}: {names}"
    return f"{what}; {len(seeds_of(given.seeds))} seeds"


def read_problem(given: argparse.Namespace) -> Known:
    """The problem that the arguments name.

    Raises:
        UsageError: if it makes no sense.
    """
    if given.table is None:
        if given.objective or given.reference or given.cost_known:
            raise UsageError("objectives and references are a table's.", "Leave them out.")
        if given.supernet is not None:
            return read_supernet(given.supernet, given.target)
        return read_gpt2(given.gpt2, given.scale)
    if not given.objective:
        raise UsageError("a table needs objectives.", "Write --objective NAME:max.")
    return read_table(given.table, given.arch, given.objective, given.reference, given.cost_known)


def kept_searches(given: argparse.Namespace) -> KeptSearches | None:
    """Where searches are kept, if anywhere.

    Raises:
        UsageError: if those there are of another problem.
    """
    if given.keep is None:
        return None
    if given.supernet is not None:
        problem = {"supernet": given.supernet, "target": given.target}
    elif given.gpt2 is not None:
        problem = {"gpt2": digest(given.gpt2), "scale": given.scale}
    else:
        named = ("arch", "objective", "reference", "cost_known")
        problem = {"table": digest(given.table)} | {name: getattr(given, name) for name in named}
    return KeptSearches(given.keep, problem)


def run_all(
    known: Known, samplers: dict[str, list[int]], seeds: range, kept: KeptSearches | None
) -> dict[str, list[Floats]]:
    """Objectives of the trials of each seed's search, (n, objectives) each."""
    points: dict[str, list[Floats]] = {}
    for sampler, evaluations in samplers.items():
        begun, n = time.perf_counter(), evaluations[-1]
        search = get_peer(sampler) or partial(_searched, sampler)
        points[sampler] = []
        for seed in seeds:
            once = partial(search, known, n, seed)
            points[sampler].append(once() if kept is None else kept.get(sampler, n, seed, once))
        seconds = (time.perf_counter() - begun) / len(seeds)
        print(f"{sampler}: {seconds:.1f} s a seed", file=sys.stderr)
    return points


def _searched(sampler: str, known: Known, trials: int, seed: int) -> Floats:
    return known.search(sampler, trials, seed)


def shares(known: Known, whole: float, points: list[Floats], evaluations: list[int]) -> Floats:
    """Share of the hypervolume `whole` after each number of evaluations, (seeds, numbers)."""
    return np.array([[known.volume(p[:n]) / whole for n in evaluations] for p in points])


def reached(known: Known, whole: float, points: list[Floats], goal: float) -> list[int | None]:
    """Evaluations after which a quarter, half and three quarters of the seeds have the goal.

    None where fewer of them have it after all of theirs.
    """
    found = []
    for each in points:
        numbers = range(1, len(each) + 1)
        below = bisect_left(numbers, goal * whole, key=lambda n: known.volume(each[:n]))
        found.append(numbers[below] if below < len(each) else math.inf)
    after = np.quantile(found, QUARTILES, method="inverted_cdf")
    return [int(n) if math.isfinite(n) else None for n in after]


def run(given: argparse.Namespace) -> dict[str, dict[str, object]]:
    """What is printed: sampler -> evaluations -> share, and `reached` where there is a goal.

    Raises:
        UsageError: if the arguments make no sense, or a sampler does not apply to the problem.
    """
    samplers, seeds = plan(given), seeds_of(given.seeds)
    goal_from = None if given.goal is None else goal_of(given.goal, samplers)
    known = read_problem(given)
    blind = sorted(set(samplers) - {"guided"})
    if known.problem.listed is not None and blind:
        print(
            f"the table lacks combinations: {', '.join(blind)} may propose such, and the network "
            "most like it stands in for each",
            file=sys.stderr,
        )
    points = run_all(known, samplers, seeds, kept_searches(given))
    best = [known.best()]
    if not known.exact:
        best += [each for one in points.values() for each in one]
    whole = known.volume(np.concatenate(best))
    goal = None
    if goal_from is not None:
        sampler, n = goal_from
        goal = float(np.median(shares(known, whole, points[sampler], [n])))
    result: dict[str, dict[str, object]] = {}
    for sampler, evaluations in samplers.items():
        each = shares(known, whole, points[sampler], evaluations)
        result[sampler] = {
            str(n): [round(float(q), 5) for q in np.quantile(each[:, i], QUARTILES)]
            if given.quartiles
            else round(float(np.median(each[:, i])), 5)
            for i, n in enumerate(evaluations)
        }
        if goal is not None:
            result[sampler]["reached"] = reached(known, whole, points[sampler], goal)
    if given.picture is not None:
        drawn = {sampler: drawn_at(evaluations[-1]) for sampler, evaluations in samplers.items()}
        curves = {s: (at, shares(known, whole, points[s], at)) for s, at in drawn.items()}
        draw(given.picture, curves, title(given), goal)
    return result


def main() -> int:
    """Run as a script."""
    try:
        result = run(arguments().parse_args())
    except (NasError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
