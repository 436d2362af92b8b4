"""Executors on toy work: outcomes, faults, deaths, and nothing left behind."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from toy_work import EXHAUST, FAIL, KILL, LEAVE, NAN, summing

from nas.errors import ExecutorError, NotFoundError, UsageError
from nas.executors.executor import Executor, InProcess, Outcome, describe
from nas.executors.pool import LocalPool
from nas.executors.registry import open_executor, require_executor
from nas.executors.work import Work

WORK = Work("toy_work:summing")


def genome(*genes: int) -> np.ndarray:
    return np.array(genes, dtype=np.int64)


@pytest.fixture(scope="module", params=["here", "pool"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with InProcess(summing()) if request.param == "here" else LocalPool(WORK, 2) as opened:
        yield opened


def outcome(executor: Executor, *genes: int, number: int = 0) -> Outcome:
    executor.submit(number, genome(*genes))
    (found,) = executor.wait()
    assert found.number == number
    return found


def test_outcomes(executor: Executor) -> None:
    found = outcome(executor, 1, 2, number=3)
    assert found.values is not None
    assert (found.values["sum"], found.reason) == (3.0, "")
    assert found.seconds >= 0
    more = {n: genome(n, 1) for n in range(5)}
    for number, genes in more.items():
        executor.submit(number, genes)
    sums: dict[int, float] = {}
    while len(sums) < 5:
        sums |= {o.number: o.values["sum"] for o in executor.wait() if o.values}
    assert sums == {n: n + 1.0 for n in range(5)}


def test_a_reason_is_what_a_database_takes() -> None:
    reason = describe(OSError("bad file \udcff\0 of\na folder"))
    assert reason == "OSError: bad file \\udcff\\0 of a folder"


def test_a_goal_travels_with_its_candidate(executor: Executor) -> None:
    goals = {0: 4.25, 1: None, 2: -1.0 / 3}
    for number, goal in goals.items():
        executor.submit(number, genome(1, number), goal)
    missing: dict[int, float | None] = {}
    while len(missing) < 3:
        missing |= {o.number: o.values.get("missing") for o in executor.wait() if o.values}
    assert missing == {0: 3.25, 1: None, 2: -1.0 / 3 - 3}


@pytest.mark.parametrize(
    ("gene", "reason", "again"),
    [(FAIL, "no number", False), (EXHAUST, "out of memory: tried to allocate 1 TiB", True)],
)
def test_faults_are_outcomes(executor: Executor, gene: int, reason: str, again: bool) -> None:
    found = outcome(executor, gene)
    assert (found.values, found.reason, found.again) == (None, reason, again)
    assert outcome(executor, 1).values is not None


def test_what_is_not_a_number_comes_through(executor: Executor) -> None:
    found = outcome(executor, NAN)
    assert found.values is not None
    assert math.isnan(found.values["sum"])


@pytest.mark.parametrize(
    ("gene", "reason"), [(KILL, "killed (SIGKILL)"), (LEAVE, "code 3: left in a hurry")]
)
def test_a_dead_worker_is_replaced(gene: int, reason: str) -> None:
    with LocalPool(WORK, 1) as pool:
        before = pool.pids
        found = outcome(pool, gene)
        assert found.values is None
        assert found.again
        assert reason in found.reason
        assert outcome(pool, 4, 5).values == {"sum": 9.0, "pid": float(pool.pids[0])}
        assert pool.pids != before


def test_workers_work_side_by_side_and_end_with_the_pool() -> None:
    with LocalPool(Work("toy_work:summing", {"seconds": 0.3}), 2) as pool:
        for number in range(4):
            pool.submit(number, genome(1))
        pids = set()
        for _ in range(4):
            pids |= {int(o.values["pid"]) for o in pool.wait() if o.values}
            if len(pids) == 2:
                break
        assert pids == set(pool.pids)
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("toy_work:broken", "RuntimeError: no supernet here"),
        ("toy_work:dying", "did not start: its worker ended with code 4"),
        ("toy_work:nothing", "AttributeError"),
    ],
)
def test_work_that_cannot_begin_ends_it_with_the_reason(factory: str, says: str) -> None:
    with LocalPool(Work(factory), 1) as pool:
        pool.submit(0, genome(1))
        with pytest.raises(ExecutorError, match=says):
            pool.wait()


def test_what_is_finished_comes_before_another_worker_s_fault(tmp_path: Path) -> None:
    with LocalPool(Work("toy_work:late", {"folder": str(tmp_path)}), 2) as pool:
        outcome(pool, 1)
        pool.submit(1, genome(1, 2))
        (tmp_path / "go").touch()
        deadline = time.monotonic() + 60
        while pool._inbox.qsize() < 3:  # the outcome, the fault, and the end of its process
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (found,) = pool.wait()
        assert found.values is not None
        assert (found.number, found.values["sum"]) == (1, 3.0)
        with pytest.raises(ExecutorError, match="RuntimeError: no supernet here"):
            pool.wait()


def test_what_an_interpreter_prints_as_it_starts_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = "import os\nprint('hello\\nnull\\n3', flush=True)\nos.write(1, b'no end of a line')\n"
    (tmp_path / "sitecustomize.py").write_text(prints)
    monkeypatch.syspath_prepend(tmp_path)  # as the workers' path
    with LocalPool(WORK, 1) as pool:
        assert outcome(pool, 1, 2).values == {"sum": 3.0, "pid": float(pool.pids[0])}


COORDINATOR = """
import time, numpy as np
from nas.executors.pool import LocalPool
from nas.executors.work import Work
pool = LocalPool(Work("toy_work:summing", {"seconds": 60}), 2)
for n in range(2):
    pool.submit(n, np.array([1]))
print(*pool.pids, flush=True)
pool.wait()
"""


def test_workers_do_not_outlive_a_killed_coordinator() -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    coordinator = subprocess.Popen(
        [sys.executable, "-c", COORDINATOR],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert coordinator.stdout is not None
    pids = [int(pid) for pid in coordinator.stdout.readline().split()]
    assert len(pids) == 2
    coordinator.send_signal(signal.SIGKILL)
    coordinator.communicate()
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(p) and psutil.Process(p).status() != "zombie" for p in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_a_user_asks_for_is_checked() -> None:
    require_executor("local", 3)
    with pytest.raises(NotFoundError, match="'local'"):
        require_executor("locl", 1)
    with pytest.raises(UsageError, match="--workers"):
        require_executor("local", 0)
    assert isinstance(open_executor("local", 1, summing(), WORK), InProcess)
