"""What was committed survives: a killed writer, a full disk, a second coordinator."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from sqlalchemy import update

from nas.errors import NotFoundError, StorageError
from nas.storage import claims
from nas.storage.database import Database, open_database
from nas.storage.models import Study
from nas.storage.records import StudyRecord, TrialRecord
from nas.storage.studies import Studies

NewStudy = Callable[..., StudyRecord]
NewTrial = Callable[..., TrialRecord]

WRITER = """
import sys
from nas.storage.database import Database, open_database
from nas.storage.records import TrialRecord
from nas.storage.studies import Studies

studies = Studies(open_database(sys.argv[1]))
study = studies.find_study("study")
studies.claim(study.id)
number = len(studies.trials(study.id))
while True:
    trial = TrialRecord(number, str(number), (number,), {"fill": "x" * 2000}, {})
    studies.add_trial(study.id, trial)
    print(number, flush=True)
    number += 1
"""


def _writer(url: str, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", WRITER, url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _printed(writer: subprocess.Popen[str], count: int) -> list[int]:
    assert writer.stdout is not None
    return [int(writer.stdout.readline()) for _ in range(count)]


def test_killed_writer_loses_nothing(
    studies: Studies, storage_url: str, new_study: NewStudy
) -> None:
    study = studies.create_study(new_study("study"))
    done = 0
    for enough in (3, 40):
        # The second writer also takes over the claim of the first, which died holding it.
        writer = _writer(storage_url)
        printed = _printed(writer, enough)
        writer.send_signal(signal.SIGKILL)
        assert writer.stdout is not None
        printed += [int(line) for line in writer.stdout]
        writer.communicate()
        assert printed[0] == done
        numbers = [trial.number for trial in studies.trials(study.id)]
        # One more than was printed may be there: committed, then killed before the print.
        assert numbers[: done + len(printed)] == list(range(done + len(printed)))
        assert len(numbers) - (done + len(printed)) in (0, 1)
        done = len(numbers)


def test_full_disk_says_so_and_keeps_what_was_committed(
    tmp_path: Path, new_study: NewStudy
) -> None:
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    with open_database(url) as database:
        study = Studies(database).create_study(new_study("study"))
    size = 600_000

    def fill() -> None:  # files of this process end at `size`, as if the disk did
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    done = subprocess.run(
        [sys.executable, "-c", WRITER, url],
        preexec_fn=fill,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "StorageError" in done.stderr
    assert "the disk is full" in done.stderr
    printed = [int(line) for line in done.stdout.splitlines()]
    with open_database(url) as database:
        kept = Studies(database).trials(study.id)
    assert len(printed) > 10
    assert [trial.number for trial in kept] == printed


def test_full_database_is_usable_again(
    tmp_path: Path, new_study: NewStudy, new_trial: NewTrial
) -> None:
    with open_database(f"sqlite:///{tmp_path / 'nas.db'}") as database:
        studies = Studies(database)
        study = studies.create_study(new_study())
        with database.read() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageError, match="the disk is full") as caught:
            studies.add_trial(study.id, new_trial(0, architecture={"fill": "x" * 100_000}))
        assert "Free some space" in caught.value.hint
        assert studies.trials(study.id) == []
        with database.read() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        stored = studies.add_trial(study.id, new_trial(0, architecture={"fill": "x" * 100_000}))
        assert studies.trials(study.id) == [stored]


def test_second_coordinator_is_refused_until_the_first_is_gone(
    studies: Studies, storage_url: str, new_study: NewStudy, new_trial: NewTrial
) -> None:
    study = studies.create_study(new_study("study"))
    writer = _writer(storage_url)
    try:
        _printed(writer, 1)
        for attempt in (
            lambda: studies.claim(study.id),
            lambda: studies.delete_study(study.id),
        ):
            with pytest.raises(StorageError, match=f"being run by process {writer.pid} on"):
                attempt()
        with pytest.raises(StorageError, match=f"held by process {writer.pid} on"):
            studies.add_trial(study.id, new_trial(10**6))
        assert str(writer.pid) in (studies.list_studies()[0].holder or "")
    finally:
        writer.kill()
    # Killed and not yet waited for: a zombie is dead enough.
    deadline = time.monotonic() + 10
    while claims.psutil.Process(writer.pid).status() != claims.psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert studies.list_studies()[0].holder is None
    studies.claim(study.id)
    writer.communicate()
    studies.add_trial(study.id, new_trial(10**6))
    studies.release(study.id)
    assert studies.list_studies()[0].holder is None


def test_claims_within_one_process(
    database: Database, studies: Studies, new_study: NewStudy, new_trial: NewTrial
) -> None:
    study = studies.create_study(new_study())
    other = Studies(database)
    with studies.claimed(study):
        studies.claim(study.id)
        studies.renew(study.id)
        with pytest.raises(StorageError, match="being run by"):
            other.claim(study.id)
        other.release(study.id)  # not its own: nothing happens
        with pytest.raises(StorageError, match="is held by process"):
            other.add_trial(study.id, new_trial(0))
    with other.claimed(study):
        other.add_trial(study.id, new_trial(0))
    studies.add_trial(study.id, new_trial(1))  # nobody holds it


def test_study_that_was_begun_with_the_id_of_a_deleted_one_is_not_taken_for_it(
    studies: Studies, new_study: NewStudy
) -> None:
    old = studies.create_study(new_study("old"))
    studies.delete_study(old.id)
    for name in ("new", "old"):
        new = studies.create_study(new_study(name))  # SQLite gives it the id anew
        with pytest.raises(NotFoundError, match="does not exist any more"), studies.claimed(old):
            pytest.fail("it is another")
        assert studies.holder(new.id) is None
        with studies.claimed(new):
            assert studies.holder(new.id) is not None
        studies.delete_study(new.id)


def test_claim_of_another_host_expires(
    database: Database,
    studies: Studies,
    new_study: NewStudy,
    new_trial: NewTrial,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the coordinator that was thought dead cannot write any more."""
    monkeypatch.setattr(claims, "SILENCE_S", 0.3)
    monkeypatch.setattr(claims, "LOOK_S", 0.05)
    study = studies.create_study(new_study())
    lost = Studies(database)
    lost.claim(study.id)
    elsewhere = asdict(replace(claims.Holder.this_process(), host="another"))
    with database.write() as connection:
        connection.execute(update(Study).values(holder=elsewhere))
    assert "on another" in (studies.holder(study.id) or "")
    studies.claim(study.id)
    assert str(os.getpid()) in (studies.holder(study.id) or "")
    for attempt in (
        lambda: lost.add_trial(study.id, new_trial(0)),
        lambda: lost.renew(study.id),
    ):
        with pytest.raises(StorageError, match="not held by this process"):
            attempt()
    studies.release(study.id)
    with pytest.raises(StorageError, match="held by nobody"):
        lost.add_trial(study.id, new_trial(0))
    assert studies.trials(study.id) == []


OTHER_NAMESPACE = ("unshare", "-r", "--pid", "--fork", "--mount-proc", "--kill-child")


def _other_namespaces() -> bool:
    """Whether this machine lets a process have a table of processes of its own."""
    if shutil.which("unshare") is None:
        return False
    return (
        subprocess.run([*OTHER_NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not _other_namespaces(), reason="no PID namespaces for users here")
def test_coordinator_in_another_container_of_the_same_host_name_is_watched(
    tmp_path: Path, new_study: NewStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LOOK_S", 0.05)
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    with open_database(url) as database:
        studies = Studies(database)
        study = studies.create_study(new_study("study"))
        writer = _writer(url, OTHER_NAMESPACE)
        try:
            _printed(writer, 1)
            with pytest.raises(StorageError, match="being run by process 1 on"):
                studies.claim(study.id)
        finally:
            writer.kill()
            writer.communicate()
        monkeypatch.setattr(claims, "SILENCE_S", 0.3)
        studies.claim(study.id)
        assert f"process {os.getpid()} on" in (studies.holder(study.id) or "")


def test_claim_of_an_older_version_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_process_table", lambda: "one")
    document = asdict(claims.Holder.this_process())
    assert claims.Holder.from_json(document).lives()
    del document["process_table"]
    assert claims.Holder.from_json(document).lives() is None


def test_process_id_that_was_used_again_is_not_the_holder() -> None:
    here = claims.Holder.this_process()
    assert here.lives()
    assert replace(here, started="1").lives() is False
    assert replace(here, pid=2**22 + 1).lives() is False
    for elsewhere in ({"host": "another"}, {"process_table": "another"}):
        assert replace(here, **elsewhere).lives() is None
        assert replace(here, **elsewhere, pid=2**22 + 1).lives() is None
