"""Synthetic search problems with known answers."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.engine.candidates import identity
from nas.engine.loop import Evaluated, run_search
from nas.engine.pareto import hypervolume
from nas.engine.problem import Objective, Problem
from search_spaces.choices import Choice, ChoiceSet, Condition, Genomes

ACCURACY = Objective("accuracy", maximise=True, known=False)
LATENCY = Objective("latency_ms", maximise=False, known=True)
PARAMS = Objective("params", maximise=False, known=True)
BITS_PER_BYTE = Objective("bits_per_byte", maximise=False, known=False)
ROBUSTNESS = Objective("robustness", maximise=True, known=False)


class Layered:
    """A depth, and for each layer a width (ordinal) and a scheme (not), active up to the depth.

    Accuracy saturates with the widths, less so in later layers, and each scheme takes its toll;
    latency is a sum over layers. Every gene has a weight of its own, so that no two candidates
    are alike.

    Args:
        layers: most layers; the genome has 1 + 2 * layers genes.
        budget_ms: of the latency; None is no budget.
        objectives: any of those above.
    """

    def __init__(
        self,
        layers: int,
        budget_ms: float | None = None,
        objectives: tuple[Objective, ...] = (ACCURACY, LATENCY),
    ) -> None:
        depths = tuple(range(max(layers - 3, 1), layers + 1))
        choices = [Choice("depth", depths)]
        for i in range(layers):
            when = Condition("depth", frozenset(d for d in depths if d > i))
            choices.append(Choice(f"layers.{i}.width", (1, 2, 3, 4), when))
            choices.append(Choice(f"policy.layers.{i}", ("fp32", "int8", "int4"), when, False))
        self.layers = layers
        self.budget_ms = budget_ms
        self.choices = ChoiceSet(tuple(choices))
        self.evaluated: list[tuple[int, ...]] = []
        self.problem = Problem(
            self.choices,
            objectives,
            costs=lambda g: {"latency_ms": self.latency_ms(g), "params": self.params(g)},
            violation=self.violation,
            features=lambda g: np.log(self.latency_ms(g))[:, None],
        )

    def _active(self, genomes: Genomes) -> NDArray[np.float64]:
        return self.choices.active(genomes)[:, 1::2].astype(np.float64)

    def latency_ms(self, genomes: Genomes) -> NDArray[np.float64]:
        """(n,)."""
        speed = np.array([1.0, 0.6, 0.45])[genomes[:, 2::2]]
        each = (genomes[:, 1::2] + 1) * speed * (1 + 0.13 * np.sin(1 + np.arange(self.layers)))
        total: NDArray[np.float64] = 0.5 + (self._active(genomes) * (0.2 + each)).sum(axis=1)
        return total

    def params(self, genomes: Genomes) -> NDArray[np.float64]:
        """(n,)."""
        total: NDArray[np.float64] = (self._active(genomes) * (genomes[:, 1::2] + 1) ** 2).sum(1)
        return total

    def accuracy(self, genomes: Genomes) -> NDArray[np.float64]:
        """(n,)."""
        weight = 1.0 / (1 + 0.37 * np.arange(self.layers)) + 0.11
        capacity = (self._active(genomes) * weight * np.sqrt(genomes[:, 1::2] + 1.0)).sum(axis=1)
        toll = np.array([0.0, 0.003, 0.021])[genomes[:, 2::2]] * (
            1 + np.cos(np.arange(self.layers))
        )
        found: NDArray[np.float64] = (
            0.97 - 0.8 * np.exp(-capacity / 2.1) - (self._active(genomes) * toll).sum(axis=1)
        )
        return found

    def violation(self, genomes: Genomes) -> NDArray[np.float64]:
        """(n,)."""
        if self.budget_ms is None:
            return np.full(len(genomes), -1.0)
        return self.latency_ms(genomes) / self.budget_ms - 1

    def evaluate(
        self, genome: NDArray[np.int64], number: int, goal: float | None
    ) -> dict[str, float]:
        """What a real evaluation returns; counted."""
        self.evaluated.append(tuple(int(g) for g in genome))
        accuracy = float(self.accuracy(genome[None, :])[0])
        return {
            "accuracy": accuracy,
            "robustness": accuracy**2 - 0.01 * genome[1],
            "bits_per_byte": 8 * (1 - accuracy),
        }

    def hypervolume(self, trials: Sequence[Evaluated]) -> float:
        """Of accuracy and latency, up to (0, the largest latency)."""
        worst = float(self.latency_ms(self.choices.extreme(largest=True))[0])
        values = np.array([[t.values["accuracy"], t.values["latency_ms"]] for t in trials])
        return hypervolume(values, [True, False], [0.0, worst])


def search(
    toy: Layered,
    sampler: str,
    trials: int,
    seed: int = 5,
    history: Sequence[Evaluated] = (),
    evaluate: Any = None,
    record: Any = None,
) -> list[Evaluated]:
    """A study of a toy, continued from its history."""
    return run_search(
        toy.problem,
        sampler,
        trials=trials,
        seed=seed,
        history=history,
        evaluate=evaluate or toy.evaluate,
        record=record or (lambda trial: None),
    )


def absent(genomes: Genomes, listed: Genomes) -> NDArray[np.bool_]:
    """Which genomes (n, genes) are not in a list, (n,)."""
    known = {identity(g) for g in listed}
    return np.array([identity(g) not in known for g in genomes])


def as_stored(trial: Evaluated) -> Evaluated:
    """A trial as it comes back from the database: without the known costs."""
    values = {k: v for k, v in trial.values.items() if k not in ("latency_ms", "params")}
    origin = json.loads(json.dumps(trial.origin))
    return dataclasses.replace(trial, values=values, origin=origin)


def same(a: Evaluated, b: Evaluated) -> bool:
    """Whether two trials are alike but for what they say of their origin."""
    return (a.number, a.key, a.values, a.state, a.feasible) == (
        b.number,
        b.key,
        b.values,
        b.state,
        b.feasible,
    )


def layered(layers: int, seconds: float) -> Any:
    """What a worker evaluates `Layered` with, slowly."""
    toy = Layered(layers)

    def evaluate(genome: NDArray[np.int64], number: int, goal: float | None) -> dict[str, float]:
        time.sleep(seconds)
        return toy.evaluate(genome, number, goal)

    return evaluate
