"""Share of the exact front's hypervolume that each sampler reaches on a table of networks.

    python benchmarks/search_tables.py --table nasbench_macro.csv --arch arch \\
        --objective mean_acc:max --objective flops:min --cost-known flops \\
        --reference mean_acc=80 --reference flops=1.05*max \\
        --evaluations 50,100,250 --seeds 10 --samplers guided,nsga2,random

The table is a CSV file with one row a network. The column named by `--arch` holds a string with
one character a gene. Prints one JSON object: sampler -> evaluations -> median share over the
seeds; with `--quartiles`, [lower quartile, median, upper quartile].
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.engine.loop import Evaluated, run_search
from nas.engine.pareto import hypervolume
from nas.engine.problem import Objective, Problem
from nas.engine.samplers import require_sampler
from nas.errors import NasError, UsageError
from search_spaces.choices import Choice, ChoiceSet, Genomes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """A search problem whose every answer is known.

    Attributes:
        problem: the search problem; a genome outside the table is over budget.
        values: name -> values of every network, (networks,).
        reference: worst values that count, in the order of the objectives.
        lookup: genomes (n, genes) -> rows of the table, -1 where there is none.
    """

    problem: Problem
    values: dict[str, Floats]
    reference: list[float]
    lookup: Callable[[Genomes], NDArray[np.int64]]

    def share(self, trials: list[Evaluated]) -> float:
        """Hypervolume of the trials over that of the whole table."""
        objectives = self.problem.objectives
        maximise = [o.maximise for o in objectives]
        every = np.stack([self.values[o.name] for o in objectives], axis=1)
        found = np.array([[t.values[o.name] for o in objectives] for t in trials if t.feasible])
        return hypervolume(found, maximise, self.reference) / hypervolume(
            every, maximise, self.reference
        )


def _column(rows: list[dict[str, str]], name: str) -> list[str]:
    if name not in rows[0]:
        raise UsageError(f"the table has no column {name!r}.", f"It has {', '.join(rows[0])}.")
    return [row[name] for row in rows]


def _reference(text: str, values: Floats) -> float:
    """A number, or a multiple of the column's extreme such as `1.05*max`."""
    factor, star, extreme = text.partition("*")
    if star and extreme not in ("max", "min"):
        raise UsageError(f"{text!r} is no reference.", "Write a number, or 1.05*max.")
    scale = 1.0 if not star else float(values.max() if extreme == "max" else values.min())
    return float(factor) * scale


def _packed(genomes: Genomes) -> NDArray[np.bytes_]:
    """Each genome as one byte string, which sorts, (n,)."""
    letters = np.ascontiguousarray(genomes + 1, dtype=np.uint8)
    return letters.view(f"S{genomes.shape[1]}").reshape(len(genomes))


def read_table(
    path: Path, arch: str, objectives: list[str], references: list[str], known: list[str]
) -> Table:
    """A table as a search problem.

    Raises:
        UsageError: if a column, an objective or a reference is missing or makes no sense.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise UsageError("the table is empty.")
    codes = _column(rows, arch)
    if len({len(code) for code in codes}) != 1 or not codes[0]:
        raise UsageError(f"column {arch!r} holds strings of several lengths.")
    letters = [sorted({code[g] for code in codes}) for g in range(len(codes[0]))]
    choices = ChoiceSet(
        tuple(
            Choice(f"gene{g:02d}", tuple(values), ordinal=False) for g, values in enumerate(letters)
        )
    )
    genomes = np.array([[letters[g].index(c) for g, c in enumerate(code)] for code in codes])
    packed = _packed(genomes)
    order = np.argsort(packed, kind="stable")
    if len(np.unique(packed)) != len(genomes):
        raise UsageError("the table names a network twice.", f"Look at its column {arch!r}.")

    def lookup(queried: Genomes) -> NDArray[np.int64]:
        wanted = _packed(queried)
        place = np.minimum(np.searchsorted(packed, wanted, sorter=order), len(order) - 1)
        found: NDArray[np.int64] = np.where(packed[order[place]] == wanted, order[place], -1)
        return found

    directions = dict(text.split(":", 1) for text in objectives)
    if set(directions.values()) - {"max", "min"}:
        raise UsageError("an objective is NAME:max or NAME:min.")
    values = {name: np.array(_column(rows, name), dtype=np.float64) for name in directions}
    stated = dict(text.split("=", 1) for text in references)
    if set(stated) != set(directions) or set(known) - set(directions):
        raise UsageError("references and known costs must be those of the objectives.")
    reference = {name: _reference(stated[name], values[name]) for name in directions}
    costs = np.stack([values[name] for name in known], axis=1) if known else None
    problem = Problem(
        choices,
        tuple(Objective(n, d == "max", n in known) for n, d in directions.items()),
        costs=lambda g: {name: values[name][lookup(g)] for name in known},
        violation=lambda g: np.where(lookup(g) < 0, 1.0, 0.0),
        features=lambda g: np.empty((len(g), 0)) if costs is None else np.log(costs[lookup(g)]),
        reference=reference,
        listed=genomes if len(genomes) < choices.cardinality() else None,
    )
    return Table(problem, values, list(reference.values()), lookup)


def shares(table: Table, sampler: str, evaluations: list[int], seed: int) -> list[float]:
    """Share of the hypervolume after each number of evaluations, one seed."""
    costly = [o.name for o in table.problem.costly]

    def evaluate(genome: NDArray[np.int64], number: int) -> dict[str, float]:
        row = table.lookup(genome[None, :])[0]
        return {name: float(table.values[name][row]) for name in costly}

    trials = run_search(
        table.problem,
        sampler,
        trials=max(evaluations),
        seed=seed,
        history=(),
        evaluate=evaluate,
        record=lambda trial: None,
    )
    return [table.share(trials[:n]) for n in evaluations]


def main() -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--arch", default="arch")
    parser.add_argument("--objective", action="append", required=True, metavar="NAME:max")
    parser.add_argument("--reference", action="append", required=True, metavar="NAME=VALUE")
    parser.add_argument("--cost-known", action="append", default=[], metavar="NAME")
    parser.add_argument("--evaluations", default="50,100,250")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--samplers", default="guided,nsga2,random")
    parser.add_argument("--quartiles", action="store_true")
    given = parser.parse_args()
    try:
        table = read_table(
            given.table, given.arch, given.objective, given.reference, given.cost_known
        )
        evaluations = [int(n) for n in given.evaluations.split(",")]
        samplers = given.samplers.split(",")
        for sampler in samplers:
            require_sampler(sampler)
    except (NasError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    result: dict[str, dict[str, object]] = {}
    for sampler in samplers:
        begun = time.perf_counter()
        each = np.array([shares(table, sampler, evaluations, s) for s in range(given.seeds)])
        seconds = (time.perf_counter() - begun) / given.seeds
        print(f"{sampler}: {seconds:.1f} s a seed", file=sys.stderr)
        result[sampler] = {
            str(n): [round(float(q), 5) for q in np.quantile(each[:, i], [0.25, 0.5, 0.75])]
            if given.quartiles
            else round(float(np.median(each[:, i])), 5)
            for i, n in enumerate(evaluations)
        }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
