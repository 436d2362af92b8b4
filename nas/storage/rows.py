"""Records to rows and back: a record's field is the column of the same name."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

from sqlalchemy import JSON, ColumnElement, Connection, Text, cast, insert, select
from sqlalchemy.orm import InstrumentedAttribute

from nas.errors import StorageError
from nas.storage.models import Base
from nas.storage.records import (
    ArtefactRecord,
    MeasurementRecord,
    ProfileRecord,
    StudyRecord,
    TrialRecord,
)

Record = TypeVar(
    "Record", ArtefactRecord, MeasurementRecord, ProfileRecord, StudyRecord, TrialRecord
)
_CHUNK = 5_000


def _names(record_type: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record_type))


def finite(value: Any) -> Any:
    """`value`, a NumPy scalar as Python's own.

    Raises:
        StorageError: it is infinite or not a number, which SQLite would store as nothing.
    """
    item = getattr(value, "item", None)
    value = value if item is None else item()
    if isinstance(value, float) and not math.isfinite(value):
        raise StorageError(
            f"{value} cannot be stored as a figure.",
            "Store the trial as failed, with its reason.",
        )
    return value


def insert_record(connection: Connection, model: type[Base], record: Any, **more: Any) -> int:
    """Insert `record` into the table of `model`, with the values in `more`.

    Returns:
        The new row's id.
    """
    values = {name: finite(getattr(record, name)) for name in _names(type(record)) if name != "id"}
    key: Any = connection.execute(insert(model).values(values | more)).inserted_primary_key
    return int(key[0])


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """No garbage collection inside: many objects are made, none of them garbage.

    Searching a growing heap again and again is half the time that 100,000 trials take to load.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def select_records(
    connection: Connection,
    record_type: type[Record],
    model: type[Base],
    *wanted: ColumnElement[bool],
    order: InstrumentedAttribute[int] | None = None,
) -> list[Record]:
    """The rows that meet all of `wanted` as records, by id unless `order` is given.

    JSON is read as text and a chunk's column is parsed in one go; a genome becomes a tuple.
    """
    names = _names(record_type)
    attributes = [getattr(model, name) for name in names]
    documents = [i for i, column in enumerate(attributes) if isinstance(column.type, JSON)]
    for i in documents:
        attributes[i] = cast(attributes[i], Text)
    ident = getattr(model, "id") if order is None else order  # noqa: B009 - Base has none
    result = connection.execute(select(*attributes).where(*wanted).order_by(ident))
    records: list[Record] = []
    with _garbage_kept():
        for chunk in result.partitions(_CHUNK):
            columns: list[Sequence[Any]] = list(zip(*chunk, strict=True))
            for i in documents:
                columns[i] = json.loads(f"[{','.join(text or 'null' for text in columns[i])}]")
                if names[i] == "genome":
                    columns[i] = [tuple(genome) for genome in columns[i]]
            records += map(record_type, *columns)
    return records
