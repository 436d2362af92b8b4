"""What a database says when it fails, as one line with a hint and without the password."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from sqlalchemy.exc import DataError, DBAPIError, OperationalError, SQLAlchemyError

from nas.errors import NasError, StorageError, StorageUnavailable

_USER_PASSWORD = re.compile(r"(://[^:/@\s]*:).*@", re.DOTALL)
_QUERY_PASSWORD = re.compile(r"([?&][^=&]*pass[^=&]*=)[^&]*", re.IGNORECASE)

_UNREADABLE = (UnicodeError, json.JSONDecodeError)
_FREE_SPACE = "Free some space and run the same command again: every committed trial is kept."
_SQLITE = {
    sqlite3.SQLITE_FULL: ("the disk is full", _FREE_SPACE),
    sqlite3.SQLITE_IOERR: ("the disk is full or fails", _FREE_SPACE),
    sqlite3.SQLITE_NOTADB: ("it is not an SQLite database", "Name another file with --storage."),
    sqlite3.SQLITE_CORRUPT: (
        "the file is damaged",
        "Restore it from a copy, or name another with --storage.",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "the file cannot be opened or created",
        "Check that its folder exists and can be written to, or name another with --storage.",
    ),
    sqlite3.SQLITE_READONLY: (
        "it cannot be written to",
        "Change the permissions of the file and its folder, or name another with --storage.",
    ),
    sqlite3.SQLITE_BUSY: (
        "another process kept it locked for 10 seconds",
        "Try again, or find the process that holds it.",
    ),
}
_POSTGRESQL = {
    "53100": ("the server's disk is full", _FREE_SPACE),
    "42501": ("the user may not do this", "Grant it CREATE and USAGE on the schema."),
    "25006": ("the server is read-only", "Name the primary server."),
    "28P01": ("the server refuses the user or password", "Check both in the URL."),
    "3D000": ("there is no such database on the server", "Create it first (createdb)."),
}


def hide_password(url: str) -> str:
    """`url` with every password in it replaced by `***`; malformed ones too.

    >>> hide_password("postgresql://ann:s3cr:e@t@db/nas?sslpassword=x&application_name=y")
    'postgresql://ann:***@db/nas?sslpassword=***&application_name=y'
    """
    return _QUERY_PASSWORD.sub(r"\1***", _USER_PASSWORD.sub(r"\1***@", url))


def _secrets(url: str) -> list[str]:
    """The passwords in `url` as written and as meant, the longest first."""
    found = [m.group()[len(m.group(1)) : -1] for m in _USER_PASSWORD.finditer(url)]
    found += [m.group()[len(m.group(1)) :] for m in _QUERY_PASSWORD.finditer(url)]
    found += [unquote(secret) for secret in found]
    return sorted(filter(None, found), key=len, reverse=True)


def _explain(error: Exception, url: str) -> tuple[str, str]:
    """What went wrong, and what to do."""
    if isinstance(error, json.JSONDecodeError):
        return "a row of it is damaged", _SQLITE[sqlite3.SQLITE_CORRUPT][1]
    origin = getattr(error, "orig", None) or error
    code = getattr(origin, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in _SQLITE:  # the low byte: extended codes refine it
        return _SQLITE[code & 0xFF]
    state = getattr(origin, "sqlstate", None)
    if state in _POSTGRESQL:
        return _POSTGRESQL[state]
    lines = [line.strip() for line in str(origin).splitlines()]
    said = "; ".join([line for line in lines if not line.endswith("?")][:2])  # libpq's own advice
    for secret in _secrets(url):
        said = said.replace(secret, "***")
    said = said.rstrip(".") or type(origin).__name__
    if isinstance(error, DBAPIError) and not isinstance(error, DataError):
        return said, "Check that the server runs and that the URL is right."
    return f"it cannot hold a value ({said})", "Please report this as a fault of the program."


def _may_pass(error: Exception) -> bool:
    """Whether the database does not answer now, but may again without anybody's change."""
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state is None:  # not a word from the server
        return isinstance(error, OperationalError)
    return state[:2] == "08" or state in ("57P01", "57P02", "57P03", "53300")


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn what the database layer raises inside into a `StorageError`.

    Args:
        url: of the database; its password appears nowhere in the error.

    Raises:
        StorageUnavailable: if the same may succeed later.
        StorageError: otherwise.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OverflowError, *_UNREADABLE) as error:
        if isinstance(cause := getattr(error, "orig", None), NasError):
            raise cause from error
        what, hint = _explain(error, url)
        kind = StorageUnavailable if _may_pass(error) else StorageError
        raise kind(f"database {hide_password(url)}: {what}.", hint) from error
