"""Claims where clocks jump, and where those of two hosts differ."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from nas.errors import StorageError
from nas.storage import claims
from nas.storage.records import StudyRecord, utc_now
from nas.storage.studies import Studies

NewStudy = Callable[..., StudyRecord]
HOUR = timedelta(hours=1)

HOLDER = """
import socket, sys, time
from nas.storage import claims
from nas.storage.database import open_database
from nas.storage.studies import Studies

claims.RENEWAL_S = 0.1
if sys.argv[2]:
    socket.gethostname = lambda: sys.argv[2]
studies = Studies(open_database(sys.argv[1]))
with studies.claimed(studies.find_study("study")):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def _holder(url: str, host: str, clock: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url, host],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        | clock.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def _await_sign_of_life(studies: Studies, hours: int) -> None:
    """Wait for one by a clock that is so far ahead of the true one."""
    deadline = time.monotonic() + 20
    while abs(studies.list_studies()[0].active_at - utc_now() - timedelta(hours=hours)) > HOUR:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("host", ["", "another"])
def test_a_clock_that_jumps_loses_no_claim_and_saves_no_dead_one(
    studies: Studies,
    storage_url: str,
    new_study: NewStudy,
    jumping_clock: Any,
    host: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "SILENCE_S", 1.5)
    monkeypatch.setattr(claims, "LOOK_S", 0.02)
    study = studies.create_study(new_study("study"))
    with _holder(storage_url, host, jumping_clock) as process:
        for hours in (6, -6):
            jumping_clock.jump(3600 * hours)
            _await_sign_of_life(studies, hours)
            with pytest.raises(StorageError, match=f"being run by process {process.pid} on {host}"):
                studies.claim(study.id)
            assert studies.holder(study.id) is not None
        process.kill()
        process.wait()
        studies.claim(study.id)  # at once on this host, after the silence if it was on another
    assert str(os.getpid()) in (studies.holder(study.id) or "")
