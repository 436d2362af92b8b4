"""Alembic's environment: the connection comes from the program, never from an ini file."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context

from nas.storage.models import Base, UtcDateTime
from nas.storage.schema import VERSION_TABLE


def include_name(name: str | None, kind: str, _parents: Any) -> bool:
    """Whether a table is ours: others may share the database."""
    return kind != "table" or (name or "").startswith("nas_")


def render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Our column type as plain SQLAlchemy: a migration must outlive the code that wrote it."""
    is_moment = kind == "type" and isinstance(item, UtcDateTime)
    return "sa.DateTime(timezone=True)" if is_moment else False


def migrate() -> None:
    """Run what Alembic was called for on the connection it was given."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        include_name=include_name,
        render_item=render_item,
        render_as_batch=True,  # SQLite alters a table by copying it
    )
    with context.begin_transaction():
        context.run_migrations()


if __name__ == "env_py":  # the name under which Alembic loads this file; an import does nothing
    migrate()
