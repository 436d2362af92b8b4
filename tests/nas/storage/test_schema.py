"""Migrations lead to the models' schema, from empty, once, and never backwards."""

from __future__ import annotations

import gzip
import multiprocessing
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from nas.archive import open_study
from nas.equipment import setting_of
from nas.errors import NotFoundError, StorageError
from nas.storage import schema
from nas.storage.database import open_database
from nas.storage.models import Base
from nas.storage.records import MeasurementRecord, StudyRecord, TrialRecord
from nas.storage.studies import Studies

NewStudy = Callable[..., StudyRecord]
NewTrial = Callable[..., TrialRecord]


def _differences(connection: Connection) -> list[object]:
    options = {"version_table": schema.VERSION_TABLE, "compare_type": True}
    return list(
        compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)
    )


def test_migrations_equal_models(storage_url: str) -> None:
    with open_database(storage_url) as database, database.read() as connection:
        assert _differences(connection) == []
        script = ScriptDirectory.from_config(schema.alembic_config(connection))
        assert script.get_current_head() == schema.revision(connection) == schema.SCHEMA


def test_downgrade_undoes_upgrade(storage_url: str) -> None:
    with open_database(storage_url) as database:
        with database.write() as connection:
            command.downgrade(schema.alembic_config(connection), "base")
        with database.read() as connection:
            assert inspect(connection).get_table_names() == [schema.VERSION_TABLE]
    with open_database(storage_url) as database, database.read() as connection:
        assert _differences(connection) == []


def test_what_belongs_to_a_trial_outlives_a_table_that_is_copied(
    storage_url: str, new_study: NewStudy, new_trial: NewTrial
) -> None:
    measured = ("latency_ms", 0.2, None, None, 9, 3, "here", "eager", "fp32", 1, 1)
    with open_database(storage_url) as database:
        studies = Studies(database)
        study = studies.create_study(new_study())
        first = studies.add_trial(study.id, new_trial(0))
        studies.add_trial(study.id, new_trial(1, state="partial", part_noise=0.01, examples=7))
        kept = studies.add_measurement(MeasurementRecord(first.id, *measured))
        with database.migrate() as connection:
            command.downgrade(schema.alembic_config(connection), "0003")
    with open_database(storage_url) as database:
        studies = Studies(database)
        assert studies.trials(study.id) == [first]  # the older schema has no partial ones
        assert studies.measurements(study.id) == [kept]
        assert studies.add_trial(study.id, new_trial(1, state="partial")).state == "partial"
        with pytest.raises(StorageError):
            studies.add_trial(study.id, new_trial(2, state="half"))
        studies.delete_study(study.id)
        assert studies.measurements(study.id) == []


def test_newer_schema_is_refused(storage_url: str) -> None:
    with open_database(storage_url) as database, database.write() as connection:
        connection.execute(text("UPDATE nas_schema SET version_num = '9999'"))
    for create in (True, False):
        with pytest.raises(StorageError, match="schema 9999, newer than") as caught:
            open_database(storage_url, create=create)
        assert "pip install --upgrade" in caught.value.hint


def test_tables_of_others_are_left_alone(storage_url: str) -> None:
    """An Optuna storage in the same database: same words, other tables."""
    with open_database(storage_url) as database, database.write() as connection:
        connection.execute(text("CREATE TABLE trials (trial_id INTEGER)"))
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('v3.2.0.a')"))
    with open_database(storage_url) as database:
        assert Studies(database).list_studies() == []


def test_listing_creates_nothing(storage_url: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there are no studies"):
        open_database(storage_url, create=False)
    assert list(tmp_path.iterdir()) == []
    open_database(storage_url).close()
    with open_database(storage_url, create=False) as database:
        assert Studies(database).list_studies() == []


def _open(url: str, start: Barrier, results: Queue[str]) -> None:
    start.wait()
    try:
        with open_database(url) as database:
            results.put(f"opened {len(Studies(database).list_studies())}")
    except StorageError as error:
        results.put(str(error))


def test_two_processes_create_one_database(storage_url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    start, results = spawn.Barrier(2), spawn.Queue()
    openers = [spawn.Process(target=_open, args=(storage_url, start, results)) for _ in range(2)]
    for opener in openers:
        opener.start()
    said = [results.get(timeout=60) for _ in openers]
    for opener in openers:
        opener.join()
    assert said == ["opened 0"] * 2
    with open_database(storage_url) as database, database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM nas_schema")).scalar() == 1


@pytest.mark.parametrize("old", sorted((Path(__file__).parent / "schemas").glob("*.db.gz")))
def test_a_database_of_an_older_schema_is_read(old: Path, tmp_path: Path) -> None:
    """Files that the code of each schema wrote: a study of four trials of `vit`.

    They are on `a100`, that of 0005 on `raspberry-pi-4`. Those of 0001 and 0003 are without the
    document of their device profile, the bulk of them. No program ever shipped with 0004.
    """
    file = tmp_path / "nas.db"
    file.write_bytes(gzip.decompress(old.read_bytes()))
    url = f"sqlite:///{file}"
    with open_database(url) as database, database.read() as connection:
        assert schema.revision(connection) == schema.SCHEMA
        assert _differences(connection) == []
    with open_database(url) as database:
        studies = Studies(database)
        (summary,) = studies.list_studies()
        if old.name >= "0004":
            setting_of(studies, summary.study).require_reachable()
    study = open_study(summary.study.name, url)
    (limit,) = study.record.request["limits"]
    assert [t.number for t in study.trials] == [0, 1, 2, 3]
    assert {t.origin["kind"] for t in study.trials} == {"design"}
    assert {t.target_costs for t in study.trials} == {None}
    assert study.front
    assert all(
        0.2 < row.quality < 1 and row.latency_ms_upper <= limit["limit"] for row in study.front
    )
    assert study.has_energy == (old.name >= "0004")
