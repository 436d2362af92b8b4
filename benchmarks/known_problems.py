"""Search problems whose every answer is known: a table of networks as a search problem."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import math
import sys
import zlib
from collections.abc import Callable, Iterator
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
GZIP = b"\x1f\x8b"
SEPARATORS = (",", "\t", ";")


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

    Rows that lack a figure are left out, and so are repetitions; both are said on stderr.

    Raises:
        UsageError: if a column, an objective or a reference is missing or makes no sense.
    """
    directions = _directions(objectives)
    rows = _rows(path, arch)
    codes = _codes(_column(rows, arch), arch)
    values = {name: _numbers(rows, name) for name in directions}
    kept = _whole_and_once(codes, values)
    codes = [codes[i] for i in kept]
    values = {name: column[kept] for name, column in values.items()}
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

    def lookup(queried: Genomes) -> NDArray[np.int64]:
        wanted = _packed(queried)
        place = np.minimum(np.searchsorted(packed, wanted, sorter=order), len(order) - 1)
        found: NDArray[np.int64] = np.where(packed[order[place]] == wanted, order[place], -1)
        return found

    if any("=" not in text for text in references):
        raise UsageError("a reference is NAME=VALUE.")
    stated = dict(text.rsplit("=", 1) for text in references)
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


def _directions(objectives: list[str]) -> dict[str, str]:
    """Name -> `max` or `min`, of what was typed as NAME:max or NAME:min."""
    if any(text.rpartition(":")[2] not in ("max", "min") for text in objectives):
        raise UsageError("an objective is NAME:max or NAME:min.")
    directions = dict(text.rsplit(":", 1) for text in objectives)
    if len(directions) != len(objectives):
        raise UsageError("an objective stands twice.", "Give each once.")
    return directions


def _rows(path: Path, arch: str) -> list[dict[str, str]]:
    """The rows of a file, plain or gzipped, whose columns are parted by what its header shows."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == GZIP else data).decode("utf-8-sig")
        heads = {c: next(_reader(text, c), []) for c in SEPARATORS}
        between = max(SEPARATORS, key=lambda c: (arch in heads[c], len(heads[c])))
        lines = _reader(text, between)
        names = next(lines, [])
        found = [dict(itertools.zip_longest(names, line[: len(names)])) for line in lines if line]
    except (UnicodeDecodeError, csv.Error, OSError, EOFError, zlib.error) as error:
        raise UsageError(
            f"{path} cannot be read ({error}).", "Give a CSV file in UTF-8, plain or gzipped."
        ) from None
    if not found:
        raise UsageError("the table is empty.")
    return found


def _reader(text: str, separator: str) -> Iterator[list[str]]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    return ([cell.strip() for cell in line] for line in lines)


def _codes(texts: list[str], arch: str) -> list[str]:
    """One string a row, all of one length; decimal ones that lost their zeros get them back."""
    codes = texts
    longest = max(map(len, codes))
    short = sum(len(code) < longest for code in codes)
    if short and all(code.isdecimal() for code in codes):
        print(f"{short} numbers in {arch!r} get back their leading zeros", file=sys.stderr)
        codes = [code.zfill(longest) for code in codes]
    if len({len(code) for code in codes}) != 1 or not codes[0]:
        raise UsageError(f"column {arch!r} holds strings of several lengths.")
    return codes


def _whole_and_once(codes: list[str], values: Values) -> NDArray[np.int64]:
    """The rows that have all figures, each network's first one.

    Raises:
        UsageError: if there is none, or two rows of one network differ.
    """
    table = np.stack(list(values.values()), axis=1)
    whole = np.flatnonzero(np.isfinite(table).all(axis=1)).tolist()
    first: dict[str, int] = {}
    for row in whole:
        before = first.setdefault(codes[row], row)
        if (table[before] != table[row]).any():
            raise UsageError(
                f"the table has two rows of the network {codes[row]} that differ.", "Leave one out."
            )
    left_out = {
        "without a finite figure": len(codes) - len(whole),
        "that repeat one": len(whole) - len(first),
    }
    for what, number in left_out.items():
        if number:
            print(f"{number} rows {what} are left out", file=sys.stderr)
    if not first:
        raise UsageError("no row of the table has all figures.")
    return np.array(list(first.values()), dtype=np.int64)


def _column(rows: list[dict[str, str]], name: str) -> list[str]:
    if name not in rows[0]:
        raise UsageError(f"the table has no column {name!r}.", f"It has {', '.join(rows[0])}.")
    for number, row in enumerate(rows, 1):
        if row[name] is None:  # the row is cut short
            raise UsageError(f"row {number} of the table has no {name}.")
    return [row[name] for row in rows]


def _numbers(rows: list[dict[str, str]], name: str) -> Floats:
    """A column as numbers, NaN where there is none."""
    texts = _column(rows, name)
    try:
        return np.array([text or "nan" for text in texts], dtype=np.float64)
    except ValueError:
        raise UsageError(f"column {name!r} holds something that is no number.") from None


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
    return multiple * scale


def _packed(genomes: Genomes) -> NDArray[np.bytes_]:
    """Each genome as one byte string, which sorts, (n,)."""
    letters = np.ascontiguousarray(genomes + 1, dtype=np.uint8)
    return letters.view(f"S{genomes.shape[1]}").reshape(len(genomes))
