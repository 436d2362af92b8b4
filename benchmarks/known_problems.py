"""Search problems whose every answer is known: a table of networks as a search problem."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.engine.loop import Evaluated, run_search
from nas.engine.pareto import hypervolume
from nas.engine.problem import Objective, Problem
from nas.errors import UsageError
from search_spaces.choices import Choice, ChoiceSet, Genomes

Floats = NDArray[np.float64]
Values = dict[str, Floats]


@dataclass(frozen=True)
class Known:
    """A search problem whose evaluations cost nothing.

    Attributes:
        problem: what is searched; its reference names every objective.
        answer: genomes (n, genes) -> values of the costly objectives, (n,) each.
        best: points (n, objectives) that contain the front, in the objectives' own directions,
            made when they are asked for.
        exact: whether `best` is the whole front. If not, the best known front is that of `best`
            and of all the trials of all the searches together.
    """

    problem: Problem
    answer: Callable[[Genomes], Values]
    best: Callable[[], Floats]
    exact: bool

    def search(self, sampler: str, trials: int, seed: int) -> Floats:
        """Objectives of the trials of one search in order, (n, objectives)."""

        def evaluate(
            genome: NDArray[np.int64], number: int, goal: float | None
        ) -> dict[str, float]:
            return {name: float(v[0]) for name, v in self.answer(genome[None, :]).items()}

        done: list[Evaluated] = run_search(
            self.problem,
            sampler,
            trials=trials,
            seed=seed,
            history=(),
            evaluate=evaluate,
            record=lambda trial: None,
        )
        return np.array([[t.values[o.name] for o in self.problem.objectives] for t in done])

    def volume(self, points: Floats) -> float:
        """Hypervolume of points (n, objectives) up to the reference."""
        objectives = self.problem.objectives
        reference = self.problem.reference or {}
        return hypervolume(
            points, [o.maximise for o in objectives], [reference[o.name] for o in objectives]
        )


def read_table(
    path: Path, arch: str, objectives: list[str], references: list[str], known: list[str]
) -> Known:
    """A CSV file with one row a network as a search problem.

    Args:
        path: of the file.
        arch: column of strings with one character a gene.
        objectives: NAME:max or NAME:min.
        references: NAME=NUMBER, NAME=1.05*max or NAME=0.9*min, one an objective.
        known: objectives that a search may compute for free.

    Raises:
        UsageError: if a column, an objective or a reference is missing or makes no sense.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read ({error}).", "Give a CSV file in UTF-8.") from None
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
    places = [{letter: i for i, letter in enumerate(found)} for found in letters]
    genomes = np.array([[places[g][c] for g, c in enumerate(code)] for code in codes])
    packed = _packed(genomes)
    order = np.argsort(packed, kind="stable")
    if len(np.unique(packed)) != len(genomes):
        raise UsageError("the table names a network twice.", f"Look at its column {arch!r}.")

    def lookup(queried: Genomes) -> NDArray[np.int64]:
        wanted = _packed(queried)
        place = np.minimum(np.searchsorted(packed, wanted, sorter=order), len(order) - 1)
        found: NDArray[np.int64] = np.where(packed[order[place]] == wanted, order[place], -1)
        return found

    if any(text.count(":") != 1 for text in objectives) or any("=" not in r for r in references):
        raise UsageError("an objective is NAME:max or NAME:min, a reference NAME=VALUE.")
    directions = dict(text.split(":") for text in objectives)
    if set(directions.values()) - {"max", "min"}:
        raise UsageError("an objective is NAME:max or NAME:min.")
    if len(directions) != len(objectives):
        raise UsageError("an objective stands twice.", "Give each once.")
    values = {name: _numbers(rows, name) for name in directions}
    stated = dict(text.split("=", 1) for text in references)
    if set(stated) != set(directions) or set(known) - set(directions):
        raise UsageError("references and known costs must be those of the objectives.")
    features = [_feature(values[name]) for name in known]
    problem = Problem(
        choices,
        tuple(Objective(n, d == "max", n in known) for n, d in directions.items()),
        costs=lambda g: {name: values[name][lookup(g)] for name in known},
        violation=lambda g: np.where(lookup(g) < 0, 1.0, 0.0),
        features=lambda g: (
            np.stack([f[lookup(g)] for f in features], axis=1)
            if features
            else np.empty((len(g), 0))
        ),
        reference={name: _reference(stated[name], values[name]) for name in directions},
        listed=genomes if len(genomes) < choices.cardinality() else None,
    )
    costly = [name for name in directions if name not in known]
    whole = np.stack(list(values.values()), axis=1)
    worst = np.array(list((problem.reference or {}).values()))
    if not (whole * problem.signs < worst * problem.signs).all(axis=1).any():
        raise UsageError(
            "no network of the table is better than the reference in every objective.",
            "State the worst value that counts, such as 1.05*max of what is minimised.",
        )
    return Known(
        problem,
        answer=lambda g: {name: values[name][lookup(g)] for name in costly},
        best=lambda: whole,
        exact=True,
    )


def _column(rows: list[dict[str, str]], name: str) -> list[str]:
    if name not in rows[0]:
        raise UsageError(f"the table has no column {name!r}.", f"It has {', '.join(rows[0])}.")
    for number, row in enumerate(rows, 1):
        if row[name] is None:  # the row is cut short
            raise UsageError(f"row {number} of the table has no {name}.")
    return [row[name] for row in rows]


def _numbers(rows: list[dict[str, str]], name: str) -> Floats:
    try:
        numbers = np.array(_column(rows, name), dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if not np.isfinite(numbers).all():
        raise UsageError(f"column {name!r} holds something that is no finite number.")
    return numbers


def _feature(cost: Floats) -> Floats:
    """A cost as the predictor's feature: its logarithm where it has one."""
    return np.log(cost) if (cost > 0).all() else cost


def _reference(text: str, values: Floats) -> float:
    """A number, or a multiple of the column's extreme such as `1.05*max`."""
    factor, star, extreme = text.partition("*")
    try:
        if star and extreme not in ("max", "min"):
            raise ValueError
        scale = 1.0 if not star else float(values.max() if extreme == "max" else values.min())
        if not math.isfinite(multiple := float(factor)):
            raise ValueError
    except ValueError:
        raise UsageError(f"{text!r} is no reference.", "Write a number, or 1.05*max.") from None
    if scale <= 0:
        raise UsageError(
            f"{text} is a multiple of {scale:g}, which is not above 0.", "Write a number."
        )
    return multiple * scale


def _packed(genomes: Genomes) -> NDArray[np.bytes_]:
    """Each genome as one byte string, which sorts, (n,)."""
    letters = np.ascontiguousarray(genomes + 1, dtype=np.uint8)
    return letters.view(f"S{genomes.shape[1]}").reshape(len(genomes))
