"""What is done with a front while the database comes and goes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from nas import service
from nas.archive import open_study
from nas.errors import ExportError
from nas.events import Event
from nas.request import RunOptions, SearchRequest
from nas.storage import patience
from nas.storage.database import open_database

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
