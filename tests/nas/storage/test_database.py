"""Opening: what is wrong with a URL, a file or a server is said in one line, without passwords."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from nas.errors import NasError, StorageError, UsageError
from nas.storage.database import hide_password, open_database
from nas.storage.records import StudyRecord, TrialRecord
from nas.storage.studies import Studies


def _refusal(url: str) -> NasError:
    with pytest.raises((StorageError, UsageError)) as caught:
        open_database(url)
    error = caught.value
    assert isinstance(error, NasError)
    assert "\n" not in str(error)
    assert error.hint
    assert "s3cret" not in str(error)
    return error


def test_sqlite_is_opened_to_lose_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    with open_database(url) as database, database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "busy_timeout": 10_000,
        "foreign_keys": 1,
    }


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nas.db", "is not a database URL"),
        ("", "is not a database URL"),
        ("postgresql://ann:s3cret@host:port/nas", "is not a database URL"),
        ("oracul://ann:s3cret@host/nas", "there is no database driver 'oracul'"),
        ("postgresql+pg9000://ann:s3cret@host/nas", "there is no database driver"),
        ("sqlite:////dev/null/nas.db", "cannot be opened or created"),
        ("sqlite:////nonexistent-folder/nas.db", "cannot be opened or created"),
        ("sqlite:///nas.db?timeout=long", "options that its driver does not know"),
        ("sqlite://nas.db", "is not as its driver takes it"),
    ],
)
def test_bad_urls(url: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in _refusal(url).message


def test_a_file_given_as_url_is_told_as_one() -> None:
    assert _refusal("runs/nas.db").hint == "For a file write sqlite:///runs/nas.db."
    assert "three slashes" in _refusal("sqlite://nas.db").hint
    assert _refusal("sqlite:").hint.startswith("Write sqlite:///nas.db or postgresql://")


def test_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    error = _refusal("postgresql://ann:s3cret@host/nas")
    assert "frontier-nas[postgres]" in error.hint


@pytest.mark.parametrize("content", [b"no database, but long enough to be one " * 30, b"short"])
def test_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    error = _refusal(f"sqlite:///{path}")
    assert "is not an SQLite database" in error.message
    assert error.hint == "Name another file with --storage."
    assert path.read_bytes() == content


def test_damaged_database(tmp_path: Path) -> None:
    path = tmp_path / "nas.db"
    open_database(f"sqlite:///{path}").close()
    path.write_bytes(path.read_bytes()[:5000])
    assert "damaged" in _refusal(f"sqlite:///{path}").message


def test_server_that_is_not_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    error = _refusal(f"postgresql://ann:s3cret@127.0.0.1:{port}/nas")
    assert error.message.endswith("refused.")
    assert "ann:***@127.0.0.1" in error.message


def test_server_without_the_database(postgresql_url: str) -> None:
    assert "does not exist" in _refusal(postgresql_url + "x").message


def test_server_that_refuses_the_user(postgresql_url: str) -> None:
    error = _refusal(postgresql_url.replace("nas@", "nobody-here:s3cret@"))
    assert "nobody-here" in error.message


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_schemes(postgresql_url: str, scheme: str) -> None:
    with open_database(postgresql_url.replace("postgresql", scheme, 1)) as database:
        assert database.dialect == "postgresql"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///nas.db", "sqlite:///nas.db"),
        ("postgresql://ann@host/nas", "postgresql://ann@host/nas"),
        ("postgresql://ann:s3cret@host:1/nas", "postgresql://ann:***@host:1/nas"),
        ("postgresql://ann:s3:c@r/et@host/nas", "postgresql://ann:***@host/nas"),
        ("postgresql://:s3cret@host/nas", "postgresql://:***@host/nas"),
        ("postgresql:///nas?host=/tmp&password=s3cret", "postgresql:///nas?host=/tmp&password=***"),
        ("not a url at all", "not a url at all"),
    ],
)
def test_hide_password(url: str, shown: str) -> None:
    assert hide_password(url) == shown


def test_database_that_cannot_be_written_can_be_read(
    tmp_path: Path, new_study: Callable[..., StudyRecord]
) -> None:
    path = tmp_path / "nas.db"
    with open_database(f"sqlite:///{path}") as database:
        study = Studies(database).create_study(new_study())
        with open_database(f"sqlite:///file:{path}?mode=ro&uri=true") as read_only:
            assert Studies(read_only).find_study(study.name) == study
            with pytest.raises(StorageError, match="it cannot be written to"):
                Studies(read_only).claim(study.id)


@pytest.mark.parametrize("written", ["before", "now"])
@pytest.mark.parametrize("closed", ["folder", "file"])
def test_files_of_another_user_are_read(
    tmp_path: Path, new_study: Callable[..., StudyRecord], written: str, closed: str
) -> None:
    path = tmp_path / "nas.db"
    open_for_all = [tmp_path, *tmp_path.parents]
    if os.geteuid() != 0:
        pytest.skip("needs another user")
    for folder in open_for_all[:-2]:
        folder.chmod(folder.stat().st_mode | 0o055)
    writer = open_database(f"sqlite:///{path}")
    Studies(writer).create_study(new_study("theirs"))
    if written == "before":
        writer.close()
    tmp_path.chmod(0o755 if closed == "folder" else 0o777)
    path.chmod(0o666 if closed == "folder" else 0o444)
    before = sorted(each.name for each in tmp_path.iterdir())
    reading = f"""
import os
from nas.errors import NotFoundError, StorageError
from nas.storage.database import open_database
from nas.storage.studies import Studies
with open_database("sqlite://") as database:  # what is imported only now
    try:
        Studies(database).claim(1)
    except NotFoundError:
        pass
os.setgid(65534)
os.setuid(65534)
with open_database("sqlite:///{path}", create=False) as database:
    study = Studies(database).find_study("theirs")
    try:
        Studies(database).claim(study.id)
    except StorageError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", reading], capture_output=True, text=True, check=False
    )
    assert "it cannot be written to" in done.stdout, done.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == before
    writer.close()


def test_a_damaged_row_gets_one_line(tmp_path: Path, new_study: Callable[..., StudyRecord]) -> None:
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    with open_database(url) as database:
        Studies(database).create_study(new_study("torn"))
        with database.write() as connection:
            connection.execute(text("UPDATE nas_studies SET request = '{'"))
        with pytest.raises(StorageError, match="a row of it is damaged"):
            Studies(database).find_study("torn")


def test_in_memory_database_is_one_for_all_threads(new_study: Callable[..., StudyRecord]) -> None:
    with open_database("sqlite://") as database:
        study = Studies(database).create_study(new_study())
        found: list[StudyRecord] = []
        thread = threading.Thread(
            target=lambda: found.append(Studies(database).find_study(study.name))
        )
        thread.start()
        thread.join()
    assert found == [study]


def test_failed_block_leaves_nothing(storage_url: str) -> None:
    with open_database(storage_url) as database:

        def interrupted() -> None:
            with database.write() as connection:
                connection.execute(text("CREATE TABLE half (a INTEGER)"))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        with pytest.raises(StorageError, match="half"), database.read() as connection:
            connection.execute(text("SELECT * FROM half"))


def test_locked_database_is_waited_for(
    tmp_path: Path, new_study: Callable[..., StudyRecord]
) -> None:
    path = tmp_path / "nas.db"
    with open_database(f"sqlite:///{path}") as database:
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(0.3, lambda: other.execute("ROLLBACK")).start()
        stored = Studies(database).create_study(new_study())
        other.close()
        assert Studies(database).find_study(stored.name) == stored


def test_server_that_restarted_is_connected_again(
    postgresql_url: str,
    new_study: Callable[..., StudyRecord],
    new_trial: Callable[..., TrialRecord],
) -> None:
    with open_database(postgresql_url) as database:
        studies = Studies(database)
        study = studies.create_study(new_study())
        with open_database(postgresql_url) as other, other.read() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        stored = studies.add_trial(study.id, new_trial(0))
        assert studies.trials(study.id) == [stored]
