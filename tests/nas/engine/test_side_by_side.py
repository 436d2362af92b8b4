"""Several candidates under way: none twice, numbered as asked for, failures tried again."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from search_problems import Layered, as_stored, search

from nas.engine.guided import Guided
from nas.engine.told import Told
from nas.executors.executor import Evaluate, Executor, Outcome, attempt

SAMPLERS = ["guided", "nsga2", "ofa-evolution", "pymoo-nsga2", "random", "tpe"]


class Shuffled(Executor):
    """Finishes what it has in a random order, one at a time."""

    def __init__(self, evaluate: Evaluate, capacity: int, seed: int = 0) -> None:
        self.capacity = capacity
        self.evaluate = evaluate
        self.under_way: list[tuple[int, np.ndarray, float | None]] = []
        self.most = 0
        self._rng = np.random.default_rng(seed)

    def submit(self, number: int, genome: np.ndarray, goal: float | None = None) -> None:
        assert not any((genome == other).all() for _, other, _ in self.under_way)
        self.under_way.append((number, genome, goal))
        self.most = max(self.most, len(self.under_way))

    def wait(self) -> list[Outcome]:
        task = self.under_way.pop(self._rng.integers(len(self.under_way)))
        return [attempt(self.evaluate, *task)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_candidate_is_evaluated_once(sampler: str) -> None:
    toy = Layered(3, budget_ms=9.0)
    executor = Shuffled(toy.evaluate, 4)
    recorded: list[int] = []
    trials = search(toy, sampler, 60, evaluate=executor, record=lambda t: recorded.append(t.number))
    assert executor.most == 4
    assert len({t.key for t in trials}) == len(toy.evaluated) == 60
    assert sorted(recorded) == list(range(60))
    assert recorded != list(range(60))
    assert all(toy.latency_ms(t.genome[None])[0] <= 9.0 for t in trials)


def test_a_space_that_is_used_up_side_by_side() -> None:
    toy = Layered(1)
    assert len(search(toy, "guided", 50, evaluate=Shuffled(toy.evaluate, 5))) == 12


def test_numbers_that_were_lost_are_asked_for_again() -> None:
    toy = Layered(3)
    whole = search(toy, "guided", 30)
    kept = [as_stored(t) for t in whole if t.number not in (3, 17, 28)]
    trials = search(toy, "guided", 34, history=kept, evaluate=Shuffled(toy.evaluate, 3))
    assert [t.number for t in trials[: len(kept)]] == [t.number for t in kept]
    assert sorted(t.number for t in trials) == list(range(34))
    assert len({t.key for t in trials}) == 34


def test_workers_cost_few_evaluations() -> None:
    toy = Layered(10)
    alone = toy.hypervolume(search(toy, "guided", 60))
    together = toy.hypervolume(search(toy, "guided", 60, evaluate=Shuffled(toy.evaluate, 4)))
    assert together > 0.95 * alone


def test_what_is_under_way_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Layered(6)
    told: list[Told] = []
    propose = Guided.propose
    monkeypatch.setattr(Guided, "propose", lambda self, t: told.append(t) or propose(self, t))
    search(toy, "guided", 40, evaluate=Shuffled(toy.evaluate, 4))
    assert [t.n_pending for t in told[:5]] == [0, 1, 2, 3, 3]
    last = told[-1]
    believed = last.values[-last.n_pending :]
    assert last.n_pending == 3
    assert np.isfinite(believed).all()
    costs = toy.latency_ms(last.genomes[-last.n_pending :])
    np.testing.assert_allclose(believed[:, 1], costs)
    np.testing.assert_allclose(-believed[:, 0], toy.accuracy(last.genomes[-3:]), atol=0.2)


def test_failures_are_tried_again_once() -> None:
    toy = Layered(3)
    tries: Counter[int] = Counter()

    def evaluate(genome: np.ndarray, number: int, goal: float | None) -> dict[str, float]:
        tries[number] += 1
        if number == 2 or (number == 5 and tries[5] == 1):
            raise MemoryError("1 TiB")
        if number == 7:
            return {"accuracy": float("inf")}
        if number == 9:
            raise ZeroDivisionError("a\nb")
        return toy.evaluate(genome, number, goal)

    alone = search(toy, "guided", 24, evaluate=evaluate)
    assert {n: c for n, c in tries.items() if c > 1} == {2: 2, 5: 2, 9: 2}
    failed = {t.number: t for t in alone if t.state == "failed"}
    assert {n: t.origin["reason"] for n, t in failed.items()} == {
        2: "out of memory: 1 TiB",
        7: "accuracy is inf, not a finite number",
        9: "ZeroDivisionError: a b",
    }
    assert [alone[n].origin.get("attempts") for n in (2, 5, 7)] == [2, 2, None]
    assert alone[5].state == "complete"
    tries.clear()
    together = search(toy, "guided", 24, evaluate=Shuffled(evaluate, 3))
    assert {t.number for t in together if t.state == "failed"} == {2, 7, 9}
