"""A database that does not answer is waited for; one that refuses is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.errors import StorageError, StorageUnavailable
from nas.storage import patience
from nas.storage.database import open_database
from nas.storage.patience import patiently
from nas.storage.records import StudyRecord, TrialRecord
from nas.storage.studies import Studies

NewStudy = Callable[..., StudyRecord]
NewTrial = Callable[..., TrialRecord]


def test_it_waits_as_long_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSE_S", 0.01)
    answers = iter([StorageUnavailable("away", ""), StorageUnavailable("away", ""), 7])
    said: list[str] = []

    def call() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(call, lambda away: said.append(away.message)) == 7
    assert said == ["away"]

    def away() -> None:
        raise StorageUnavailable("away", "")

    with pytest.raises(StorageUnavailable):
        patiently(away, patience_s=0.05)


def test_a_fault_is_not_waited_for() -> None:
    def full() -> None:
        raise StorageError("full", "")

    begun = time.monotonic()
    with pytest.raises(StorageError, match="full"):
        patiently(full)
    assert time.monotonic() - begun < 1


def test_a_locked_file_is_waited_for(
    tmp_path: Path, new_study: NewStudy, new_trial: NewTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.storage.database.BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(patience, "PAUSE_S", 0.05)
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    said: list[str] = []
    with open_database(url) as database, open_database(url) as other:
        studies = Studies(database)
        study = studies.create_study(new_study())
        with other.write():
            with pytest.raises(StorageUnavailable, match="locked"):
                studies.add_trial(study.id, new_trial(0))
            waiting = threading.Thread(
                target=lambda: patiently(
                    lambda: studies.add_trial(study.id, new_trial(0)),
                    lambda away: said.append(away.message),
                )
            )
            waiting.start()
            deadline = time.monotonic() + 10
            while not said:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        waiting.join()
        assert len(studies.trials(study.id)) == 1


def test_a_server_that_restarts_loses_nothing(
    postgresql_url: str,
    postgresql_control: Callable[..., None],
    new_study: NewStudy,
    new_trial: NewTrial,
) -> None:
    said: list[str] = []
    with open_database(postgresql_url) as database:
        studies = Studies(database)
        study = studies.create_study(new_study())
        with studies.claimed(study):
            studies.add_trial(study.id, new_trial(0))
            postgresql_control("stop", "-m", "immediate")
            with pytest.raises(StorageUnavailable):
                studies.add_trial(study.id, new_trial(1))
            back = threading.Timer(1.5, postgresql_control, ("start",))
            back.start()
            for number in range(1, 4):
                trial = new_trial(number)
                patiently(
                    lambda trial=trial: studies.add_trial(study.id, trial),
                    lambda away: said.append(away.message),
                )
            back.join()
        assert [t.number for t in studies.trials(study.id)] == [0, 1, 2, 3]
    assert len(said) == 1
