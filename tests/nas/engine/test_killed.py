"""Faults of the machine: kill -9 of the coordinator at random moments, also in the middle of slow
commits, and of workers while they evaluate; coordinators that contend for one study on a slow disk;
a clock that jumps."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from coordinator import NAME, create
from search_problems import Layered, search

from nas.executors.executor import Executor, Outcome
from nas.executors.pool import LocalPool
from nas.executors.work import Work
from nas.storage.database import open_database
from nas.storage.records import TrialRecord
from nas.storage.studies import Studies

HERE = Path(__file__).parent
TRIALS = 60


def environment() -> dict[str, str]:
    """For a process that imports what stands beside this file."""
    path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def coordinate_and_kill(url: str, kills: int, prefix: Sequence[str] = ()) -> list[int]:
    """Exit codes of coordinators of which the last one ended by itself."""
    done = subprocess.run(
        [*prefix, sys.executable, str(HERE / "coordinator.py"), url, str(TRIALS), str(kills)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    codes = [int(line) for line in done.stdout.split()]
    assert len(codes) == kills + 1, done.stderr
    assert codes[-1] == 0, done.stderr
    return codes


def require_all_trials(url: str, trials: int = TRIALS) -> list[TrialRecord]:
    """The trials of the study, which are those of a search that nothing befell."""
    with open_database(url) as database:
        studies = Studies(database)
        found = studies.trials(studies.find_study(NAME).id)
    expected = search(Layered(3, budget_ms=9.0), "guided", trials)
    assert [(t.number, t.key) for t in found] == [(t.number, t.key) for t in expected]
    assert [t.quality for t in found] == [t.values["accuracy"] for t in expected]
    return found


def test_a_coordinator_killed_at_random_moments_loses_no_trial(storage_url: str) -> None:
    kills = 20 if storage_url.startswith("sqlite") else 6
    codes = coordinate_and_kill(storage_url, kills)
    assert codes.count(-signal.SIGKILL) >= kills // 2
    require_all_trials(storage_url)


def test_a_coordinator_killed_in_commits_to_a_slow_disk_loses_no_trial(
    tmp_path: Path, slow_disk: Callable[[float], list[str]]
) -> None:
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    # A commit takes longer than an evaluation: many kills fall into one.
    codes = coordinate_and_kill(url, 4, slow_disk(0.015))
    assert codes.count(-signal.SIGKILL) == 4
    require_all_trials(url)


CONTENDER = """
import os, socket, sys
from contextlib import suppress
from coordinator import coordinate, create
from nas.errors import NasError, StudyExistsError
from nas.storage import claims

claims.SILENCE_S, claims.RENEWAL_S = 3.0, 0.5
url, trials, host = sys.argv[1], int(sys.argv[2]), sys.argv[3]
socket.gethostname = lambda: host
print(os.getpid(), flush=True)
sys.stdin.readline()
try:
    with suppress(StudyExistsError):
        create(url)
    coordinate(url, trials, lambda number: print(number, flush=True))
except NasError as error:
    sys.exit(f"error: {error}")
"""


class Contender:
    """A process that runs the study when it is let; `pid` is its own, not its tracer's."""

    def __init__(self, url: str, trials: int, host: str, prefix: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", CONTENDER, url, str(trials), host],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.number()

    def number(self) -> int:
        """The next that it prints."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def let(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> tuple[list[int], str]:
        """Numbers that were not read yet, of trials that it began to evaluate; what it said."""
        self.process.wait(timeout=60)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        return [int(line) for line in self.process.stdout], self.process.stderr.read()


def test_of_two_coordinators_on_a_slow_disk_one_runs_and_a_third_takes_over(
    tmp_path: Path, slow_disk: Callable[[float], list[str]]
) -> None:
    """The third is on another host, which cannot see that the holder died: its lease expires."""
    url, trials = f"sqlite:///{tmp_path / 'nas.db'}", 12
    contenders = [Contender(url, trials, host, slow_disk(0.2)) for host in ("one", "one", "two")]
    try:
        *both, third = contenders
        for contender in both:  # also the file is made by both at once
            contender.let()
        deadline = time.monotonic() + 60
        while all(contender.process.poll() is None for contender in both):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        refused, holder = sorted(both, key=lambda contender: contender.process.poll() is None)
        begun, said = refused.end()
        assert (refused.process.returncode, begun) == (1, []), said
        assert len(said.splitlines()) == 1
        who = f"process {holder.pid} on one"
        assert re.match(f"error: study '{NAME}' is being run by {who} .*studies watch", said)
        first = [holder.number() for _ in range(4)]
        os.kill(holder.pid, signal.SIGKILL)
        first += holder.end()[0]
        third.let()
        rest, said = third.end()
        assert third.process.returncode == 0, said
        assert re.match(f"waiting up to 3 s for a sign of life of {who} ", said)
        # At most the one that was under way is evaluated again.
        assert first == [*range(len(first))]
        assert rest in ([*range(len(first) - 1, trials)], [*range(len(first), trials)])
        require_all_trials(url, trials)
    finally:
        for contender in contenders:
            if contender.process.poll() is None:
                os.kill(contender.pid, signal.SIGKILL)
                contender.process.communicate()


JUMPS = """
import sys
from pathlib import Path
from coordinator import coordinate

jumps = {20: "21600", 40: "-21600"}
def before(number):
    if number in jumps:
        Path(sys.argv[3]).write_text(jumps[number])
coordinate(sys.argv[1], int(sys.argv[2]), before)
"""


def test_a_clock_that_jumps_changes_nothing(storage_url: str, jumping_clock: Any) -> None:
    create(storage_url)
    subprocess.run(
        [sys.executable, "-c", JUMPS, storage_url, str(TRIALS), str(jumping_clock.file)],
        env=environment() | jumping_clock.environment,
        check=True,
        timeout=120,
    )
    found = require_all_trials(storage_url)
    moments = [trial.created_at for trial in found]
    steps = [after - before for before, after in pairwise(moments)]
    assert max(steps) > timedelta(hours=5)  # it did jump
    assert min(steps) < timedelta(hours=-11)
    assert all(0 < trial.seconds < 60 for trial in found)


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
