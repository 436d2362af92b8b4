"""kill -9: of the coordinator at random moments, of workers while they evaluate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from coordinator import NAME
from search_problems import Layered, search

from nas.executors.executor import Executor, Outcome
from nas.executors.pool import LocalPool
from nas.executors.work import Work
from nas.storage.database import open_database
from nas.storage.studies import Studies

TRIALS = 60


def test_a_coordinator_killed_at_random_moments_loses_no_trial(storage_url: str) -> None:
    kills = 20 if storage_url.startswith("sqlite") else 6
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, str(here / "coordinator.py"), storage_url, str(TRIALS), str(kills)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    codes = [int(line) for line in done.stdout.split()]
    assert len(codes) == kills + 1, done.stderr
    assert codes[-1] == 0, done.stderr
    assert codes.count(-signal.SIGKILL) >= kills // 2
    with open_database(storage_url) as database:
        studies = Studies(database)
        found = studies.trials(studies.find_study(NAME).id)
    expected = search(Layered(3, budget_ms=9.0), "guided", TRIALS)
    assert [(t.number, t.key) for t in found] == [(t.number, t.key) for t in expected]
    assert [t.quality for t in found] == [t.values["accuracy"] for t in expected]


class Killing(Executor):
    """A pool, one of whose workers is killed before each fifth outcome."""

    def __init__(self, pool: LocalPool) -> None:
        self.pool, self.capacity = pool, pool.capacity
        self.seen = self.killed = 0

    def submit(self, number: int, genome: np.ndarray, goal: float | None = None) -> None:
        self.pool.submit(number, genome, goal)

    def wait(self) -> list[Outcome]:
        self.seen += 1
        if self.seen in (5, 10, 15):
            os.kill(self.pool.pids[self.seen // 5 % 2], signal.SIGKILL)
            self.killed += 1
        return self.pool.wait()


def test_killed_workers_lose_no_candidate() -> None:
    toy = Layered(3)
    with LocalPool(Work("search_problems:layered", {"layers": 3, "seconds": 0.05}), 2) as pool:
        executor = Killing(pool)
        trials = search(toy, "random", 24, evaluate=executor)
    assert executor.killed == 3
    assert sorted(t.number for t in trials) == list(range(24))
    assert len({t.key for t in trials}) == 24
    assert {t.state for t in trials} == {"complete"}
    genomes = np.array([t.genome for t in trials])
    np.testing.assert_allclose([t.values["accuracy"] for t in trials], toy.accuracy(genomes))
    assert any(t.origin.get("attempts") == 2 for t in trials)
