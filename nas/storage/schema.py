"""The schema's version: found, and brought up to date by Alembic under a lock."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, column, inspect, select, table, text

from nas.errors import StorageError

if TYPE_CHECKING:
    from alembic.config import Config  # here: 0.2 s that only a migration needs

SCHEMA = "0007"
"""The newest migration: known here so that opening a current database needs no Alembic."""
VERSION_TABLE = "nas_schema"
MIGRATIONS = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 0x6E61735F64623031  # any constant of 64 bits that other programs do not use


def revision(connection: Connection) -> str | None:
    """The schema's revision in this database, None where there is none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    versions = table(VERSION_TABLE, column("version_num"))
    found: str | None = connection.execute(select(versions.c.version_num)).scalar()
    return found


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for the migrations that ship with the package."""
    from alembic.config import Config  # here: 0.2 s that only a migration needs

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> None:
    """Bring the schema to `SCHEMA`, in the transaction that is open on `connection`.

    Two processes may call this at once: SQLite's write transaction, or an advisory lock in
    PostgreSQL, lets the second wait and then find nothing left to do.

    Raises:
        StorageError: the database was written by a newer version of this program.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    found = revision(connection)
    if found == SCHEMA:
        return
    from alembic import command
    from alembic.script import ScriptDirectory

    config = alembic_config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise StorageError(
            f"the database has schema {found}, newer than this version knows ({SCHEMA}).",
            "Update this program (pip install --upgrade frontier-nas), or name another database "
            "with --storage.",
        )
    command.upgrade(config, "head")
