"""A database opened by URL: connected, checked, migrated; transactions that fail in plain words."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from nas.errors import NotFoundError, StorageError, UsageError
from nas.paths import DEFAULT_STORAGE
from nas.storage import schema
from nas.storage.faults import hide_password, translated

__all__ = ["Database", "hide_password", "open_database"]

BUSY_TIMEOUT_S = 10.0
_WRITES, _MIGRATES = "nas_writes", "nas_migrates"


class Database:
    """An open database of studies. Safe to share between threads, not across `fork`.

    Use as a context manager, or `close()` it.

    Attributes:
        url: where it is, passwords hidden.
    """

    def __init__(self, engine: Engine, url: str) -> None:
        self.url = hide_password(url)
        self._url = url
        self._engine = engine
        # Elsewhere a transaction is one view by itself.
        view = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
        self._reader = engine.execution_options(**view)
        self._writer = engine.execution_options(**{_WRITES: True})
        self._migrator = engine.execution_options(**{_WRITES: True, _MIGRATES: True})
        # An in-memory database has one connection, which holds one transaction.
        alone = isinstance(engine.pool, StaticPool)
        self._turn: AbstractContextManager[Any] = threading.RLock() if alone else nullcontext()

    @property
    def dialect(self) -> str:
        """`sqlite`, `postgresql`, ..."""
        return self._engine.dialect.name

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view for several queries.

        Raises:
            StorageError: the database fails; `StorageUnavailable` if it may answer later.
        """
        with self._turn, translated(self._url), self._reader.connect() as connection:
            yield connection

    def write(self) -> AbstractContextManager[Connection]:
        """One transaction: committed when the block ends, undone when it raises.

        Raises:
            StorageError: the database fails; nothing of the block was written.
        """
        return self._transaction(self._writer)

    def migrate(self) -> AbstractContextManager[Connection]:
        """One transaction that may replace tables; their rows' dependants stay meanwhile.

        Raises:
            StorageError: the database fails; nothing of the block was written.
        """
        return self._transaction(self._migrator)

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        with self._turn, translated(self._url), engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_database(url: str = DEFAULT_STORAGE, *, create: bool = True) -> Database:
    """Open a database and bring its schema up to date.

    An SQLite file that cannot be written can be read if its schema is of today.

    Args:
        url: any SQLAlchemy URL; `postgresql://` means the psycopg 3 driver.
        create: make the SQLite file and the tables where there are none.

    Raises:
        NotFoundError: there are no studies there and `create` is False.
        UsageError: it is no URL of a database, or of one without a driver.
        StorageError: the file or the server is at fault, a driver is not installed, or the schema
            is newer than this program.
    """
    parsed = _parse(url)
    missing = NotFoundError(
        f"there are no studies in {hide_password(url)}.",
        "Start one with `nas search`, or name another database with --storage.",
    )
    path = _sqlite_path(parsed)
    if not create and path is not None and not os.path.exists(path):
        raise missing
    if path is not None and os.path.exists(path) and not _writable(path):
        parsed = _to_be_read(parsed, path)
    engine = _connect(parsed, url)
    database = Database(engine, url)
    try:
        with database.read() as connection:
            found = schema.revision(connection)
        if found is None and not create:
            raise missing
        if found != schema.SCHEMA:
            if path is not None:
                with translated(url):
                    _write_ahead(engine)
            with database.migrate() as connection:
                schema.upgrade(connection)
    except BaseException:
        database.close()
        raise
    return database


def require_kept(url: str) -> None:
    """Refuse a database that is gone when this process ends.

    Raises:
        UsageError: if it is no URL, or SQLite's in memory.
    """
    if _in_memory(_parse(url)):
        raise UsageError(
            f"{hide_password(url)} is in memory only: nothing would be left of the study.",
            "Name a file, such as sqlite:///nas.db.",
        )


def _parse(url: str) -> URL:
    # `from None` throughout: these errors quote pieces of the URL, which may be the password.
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        hint = (
            "Write sqlite:///nas.db or postgresql://user:password@host/database "
            "(special characters of a password percent-encoded)."
        )
        if url and ":" not in url:
            hint = f"For a file write sqlite:///{hide_password(url)}."
        raise UsageError(f"{hide_password(url)!r} is not a database URL.", hint) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def _in_memory(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")


def _sqlite_path(url: URL) -> str | None:
    """The plain file behind `url`, None for a server, an in-memory database or an SQLite URI."""
    name = url.database
    if url.get_backend_name() != "sqlite" or name is None or _in_memory(url):
        return None
    return None if name.startswith("file:") else name


def _writable(path: str) -> bool:
    """Whether SQLite can write a file, beside which it makes others meanwhile."""
    folder = os.path.dirname(path) or os.curdir
    return os.access(path, os.W_OK) and os.access(folder, os.W_OK)


def _to_be_read(url: URL, path: str) -> URL:
    """The same file without a lock, which is a file too, unless its writer runs now."""
    read = {"uri": "true", "mode": "ro"}
    if not os.path.exists(f"{path}-wal"):
        read["immutable"] = "1"
    return url.set(database=f"file:{quote(os.path.abspath(path))}").update_query_dict(read)


def _connect(parsed: URL, url: str) -> Engine:
    options: dict[str, Any] = {"json_serializer": _to_json}
    if parsed.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
        if _in_memory(parsed):
            options["poolclass"] = StaticPool  # one connection, or every thread has its own
    else:
        options["pool_pre_ping"] = True  # a server that restarted is no reason to fail
    if parsed.get_backend_name() == "postgresql":
        options["connect_args"] = {"connect_timeout": 10}
    try:
        engine = create_engine(parsed, **options)
    except NoSuchModuleError:
        raise UsageError(
            f"there is no database driver {parsed.drivername!r}.",
            "Use sqlite:/// or postgresql://, or install the SQLAlchemy dialect.",
        ) from None
    except ImportError as error:
        hint = f"Install the package that has the module {error.name}."
        if error.name == "psycopg":
            hint = "pip install 'frontier-nas[postgres]'"
        raise StorageError(f"the driver of {hide_password(url)} is not installed.", hint) from None
    except (ArgumentError, TypeError, ValueError):
        if parsed.query:
            text = "has options that its driver does not know."
            hint = "Remove what follows the question mark."
        else:
            text = "is not as its driver takes it."
            hint = "A file is sqlite:///nas.db, with three slashes, or four before a whole path."
        raise UsageError(f"{hide_password(url)} {text}", hint) from None
    if parsed.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _to_json(value: object) -> str:
    # NaN is not JSON and PostgreSQL refuses it: better here, on every database alike.
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError) as error:
        raise StorageError(
            f"{str(value)[:60]} cannot be stored: {error}.",
            "Only what JSON can hold is stored: finite numbers, text, lists, dicts.",
        ) from error


def _plain(value: object) -> object:
    """A NumPy scalar as Python's own number."""
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return item()


def _configure_sqlite(connection: DBAPIConnection, _record: object) -> None:
    # The driver must not open transactions by itself: `_begin_sqlite` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    # In WAL mode NORMAL already survives kill -9 (the log is in the system's cache before a
    # commit returns), but not a power cut. FULL adds one fsync a commit: 0.3 ms on an SSD, some
    # 10 ms on a disk, beside an evaluation of seconds.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    # SQLite alters a table by copying it, and dropping the old one would delete what depends on its
    # rows. Inside of a transaction this setting cannot be changed.
    keys = "OFF" if options.get(_MIGRATES) else "ON"
    connection.exec_driver_sql(f"PRAGMA foreign_keys = {keys}")
    # A writer takes the lock at once: a reader that turns writer fails without waiting.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(_WRITES) else "BEGIN")


def _write_ahead(engine: Engine) -> None:
    """Switch an SQLite file to write-ahead logging, which the file then remembers.

    SQLite does not wait for a lock here, so two processes that create one file have to try.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    connection = engine.raw_connection()
    try:
        while True:
            try:
                connection.cursor().execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                locked = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not locked or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)
    finally:
        connection.close()
