"""What is done with a front while the database comes and goes."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from hw_profiles import registry
from hw_profiles.machine import this_cpu
from nas import archive, service
from nas.archive import open_study
from nas.errors import ExportError, StorageError
from nas.events import Event
from nas.request import RunOptions, SearchRequest
from nas.storage import patience
from nas.storage.database import open_database
from nas.storage.studies import Studies

WAITING = "waiting for the database"


def test_database_that_is_away_while_the_front_is_exported_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.storage.database.BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(patience, "PAUSE_S", 0.05)
    storage = f"sqlite:///{tmp_path / 'nas.db'}"
    told: list[Event] = []
    locked = ExitStack()

    def listener(event: Event) -> None:
        if event.stage == "export" and not any(e.stage == "export" for e in told):
            other = locked.enter_context(open_database(storage))
            locked.enter_context(other.write())  # another process that keeps the file locked
        told.append(event)
        if event.text.startswith(WAITING):
            locked.close()

    options = RunOptions(storage=storage, study="s", out=tmp_path)
    found = service.search(SearchRequest("vit", "a100", trials=4), options, listener)
    assert sum(event.text.startswith(WAITING) for event in told) == 1
    assert len(found.front) > 1
    assert all(row.quality_test is not None and row.folders for row in found.front)
    there = tmp_path / "s" / "subnets"
    next(there.glob("trial-*")).rename(there / "trial-0099")
    told.clear()
    service.export("s", options, told.append)
    assert [e.text for e in told if "left the front" in e.text] == [
        f"{there} also holds 1 that left the front: trial-0099. "
        "Delete them if you do not need them."
    ]


def test_search_ends_where_the_database_is_away_as_it_gives_the_study_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.storage.database.BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr("nas.storage.holding.RELEASE_PATIENCE_S", 0.1)
    storage = f"sqlite:///{tmp_path / 'nas.db'}"
    options = RunOptions(storage=storage, study="s", out=tmp_path, export=False)
    with ExitStack() as locked:

        def listener(event: Event) -> None:
            if event.stage == "test" and event.done == event.total:
                other = locked.enter_context(open_database(storage))
                locked.enter_context(other.write())

        found = service.search(SearchRequest("vit", "a100", trials=1), options, listener)
    assert [row.quality_test is not None for row in found.front] == [True]


def test_a_network_that_is_not_the_one_evaluated_keeps_no_other_from_being_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = RunOptions(
        storage=f"sqlite:///{tmp_path / 'nas.db'}", study="s", out=tmp_path, export=False
    )
    found = service.search(SearchRequest("vit", "a100", trials=12), options)
    # none agrees on more than all examples
    wrong = [row for row in found.front if row.policy == found.front[0].policy]
    monkeypatch.setattr(
        "nas.export.front.least_agreement",
        lambda policy: 1.1 if policy == wrong[0].policy else 0.9,
    )
    assert len(wrong) < len(found.front)
    for _ in range(2):  # what failed does not count the next time
        with pytest.raises(ExportError, match="other networks are written") as caught:
            service.export("s", options)
        assert f"trial-{wrong[0].trial:04d}" in caught.value.message
        exported = open_study("s", options.storage)
        assert {row.trial for row in exported.front if not row.folders} == {r.trial for r in wrong}
    monkeypatch.undo()
    assert all(row.folders for row in service.export("s", options).front)


def test_a_front_is_exported_and_measured_by_one_process_at_a_time(tmp_path: Path) -> None:
    here = registry.load("raspberry-pi-4").model_copy(update={"device": this_cpu()})
    here.save(tmp_path / "here.json")
    options = RunOptions(storage=f"sqlite:///{tmp_path / 'nas.db'}", out=tmp_path, export=False)
    for name, target in (("here", str(tmp_path / "here.json")), ("elsewhere", "a100")):
        request = SearchRequest("vit", target, trials=1)
        service.search(request, replace(options, study=name))
    said: list[Event] = []
    with open_database(options.storage) as database, ExitStack() as held:
        studies = Studies(database)
        for name in ("here", "elsewhere"):
            held.enter_context(studies.claimed(studies.find_study(name)))
        for again in (service.export, service.verify):
            with pytest.raises(StorageError, match=f"is being run by process {os.getpid()}"):
                again("here", options)
        service.verify("elsewhere", options, said.append)  # writes nothing
    assert "is not this machine" in said[0].text
    assert not (tmp_path / "here" / "subnets").exists()

    def listener(event: Event) -> None:
        if event.stage == "export":
            with pytest.raises(StorageError, match="is being run by"):
                archive.delete_study("here", options.storage)
            said.append(event)

    assert all(row.folders for row in service.export("here", options, listener).front)
    assert said[-1].stage == "export"
    archive.delete_study("here", options.storage)
