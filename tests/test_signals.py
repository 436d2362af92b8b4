"""Commands ended from outside: no process and no folder is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from hw_profiles.runtimes import worker
from nas.storage.database import open_database
from nas.storage.records import StudyRecord, TrialRecord
from nas.storage.studies import Studies

PROFILE = ("-m", "cli", "profile", "--space", "vit", "--time", "30m")
MEASURE = """
from hw_profiles.harness import Harness
from hw_profiles.profiler import Job, idle_job, measure
long = Job(**{**vars(idle_job(Harness())), "budget_s": 0.1, "turns": 10**5})
measure([long], Harness(), processes=1, time_limit_s=60)
"""
Begin = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Start Python in `tmp_path`, its temporary folders in `tmp`; what stands before it first."""
    (tmp_path / "tmp").mkdir()
    folders = {"NAS_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp")}
    begun: list[subprocess.Popen[str]] = []

    def start(*words: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*before, sys.executable, *words],
            cwd=tmp_path,
            env={**os.environ, **folders},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def _measuring(process: subprocess.Popen[str]) -> psutil.Process:
    """The measuring process that one starts."""
    deadline = time.monotonic() + 120
    while process.poll() is None:
        assert time.monotonic() < deadline
        for child in psutil.Process(process.pid).children():
            if worker.__name__ in child.cmdline():
                return child
        time.sleep(0.02)
    pytest.fail(f"nothing was measured: {process.communicate()}")


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_profile_outlives_its_terminal_under_nohup_and_leaves_nothing_behind(
    begin: Begin, tmp_path: Path
) -> None:
    process = begin(*PROFILE, before=("nohup",))
    measuring = _measuring(process)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    assert _lives(measuring)
    assert list((tmp_path / "tmp").glob("tmp*"))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # as systemd does, and shells with SIGHUP
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "")
    assert err.endswith("\nended by SIGTERM; nothing was written: measure again.\n")
    assert "Traceback" not in err
    assert not _lives(measuring)
    assert list((tmp_path / "tmp").glob("tmp*")) == []  # torch has a cache there too


@pytest.mark.parametrize(
    ("by", "says"),
    [
        (signal.SIGINT, "interrupted"),
        (signal.SIGTERM, "ended by SIGTERM"),
        (signal.SIGHUP, "ended by SIGHUP"),
    ],
)
def test_a_signal_is_one_line_and_its_own_exit_code(
    begin: Begin, tmp_path: Path, by: signal.Signals, says: str
) -> None:
    study = StudyRecord(
        "s", "vit", "digits", "a100", "cudagraph", 1, "digits-hard", [], [], 0, "guided", {}, "f",
        "d", "0.1.0",
    )  # fmt: skip
    with open_database(f"sqlite:///{tmp_path / 'nas.db'}") as database:
        Studies(database).create_study(study)
    heard = ("env", "--default-signal=HUP")  # tests may be run under nohup themselves
    process = begin("-u", "-m", "cli", "studies", "delete", "s", before=heard)
    assert process.stderr is not None
    said = process.stderr.read(1)  # it asks
    process.send_signal(by)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + by
    assert (said + err).endswith(f"\n{says}.\n")
    assert "Traceback" not in err


def test_a_search_that_is_only_watched_goes_on(begin: Begin, tmp_path: Path) -> None:
    study = StudyRecord(
        "s", "vit", "digits", "a100", "cudagraph", 1, "digits-hard", ["accuracy", "latency"], [],
        0, "guided", {"asked": {"trials": 9}, "n_validation": 9}, "f", "d", "0.1.0",
    )  # fmt: skip
    trial = TrialRecord(
        number=0, key="0", genome=(0,), architecture={}, policy={}, quality=0.5, latency_ms=1.0,
        latency_ms_upper=1.0, memory_bytes=1, params=1, weight_bytes=1, macs=1, feasible=True,
    )  # fmt: skip
    with open_database(f"sqlite:///{tmp_path / 'nas.db'}") as database:
        studies = Studies(database)
        stored = studies.create_study(study).id
        studies.claim(stored)
        studies.add_trial(stored, trial)
        process = begin("-u", "-m", "cli", "studies", "watch", "s")
        assert process.stderr is not None
        said = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert "trial 1 of 9" in said
    assert (process.returncode, err) == (130, "\ninterrupted; the search goes on.\n")


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    words = f"cd {tmp_path}/gone && rmdir {tmp_path}/gone && exec {sys.executable} -m cli studies"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=False)
    told = "error: the folder that this runs in is gone. Change to another.\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_a_measuring_process_ends_with_the_one_that_started_it(begin: Begin) -> None:
    process = begin("-c", MEASURE)
    measuring = _measuring(process)
    time.sleep(2)  # it measures by now, or loads its runtime
    assert _lives(measuring)
    process.kill()
    deadline = time.monotonic() + 20
    while _lives(measuring):
        assert time.monotonic() < deadline
        time.sleep(0.05)
