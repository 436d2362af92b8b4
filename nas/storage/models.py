"""The tables, declared once; the migrations in `migrations/versions` lead to exactly these.

All names start with `nas_`: a team may keep an Optuna storage (`studies`, `trials`,
`alembic_version`) in the same database.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

NAME_LENGTH = 200
"""Longest name of a study or profile, in characters (indexed columns need a limit)."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC. SQLite has no time zones, so there it is stored naive."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Root of the models; constraints have stable names so that migrations can alter them."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
        }
    )
    # Plain JSON, not JSONB: the text is kept as written, order of keys included.
    type_annotation_map = {  # noqa: RUF012 - a declaration read by SQLAlchemy
        bool: Boolean,
        datetime: UtcDateTime,
        dict[str, Any]: JSON(none_as_null=True),
        float: Double,
        int: Integer,
        list[Any]: JSON(none_as_null=True),
        str: Text,
    }


class DeviceProfile(Base):
    """A device profile's document, stored once per content."""

    __tablename__ = "nas_device_profiles"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    fingerprint: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    document: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class Study(Base):
    """A search and who is running it now."""

    __tablename__ = "nas_studies"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    space: Mapped[str]
    preset: Mapped[str]
    target: Mapped[str]
    runtime: Mapped[str]
    batch_size: Mapped[int]
    data: Mapped[str]
    objectives: Mapped[list[Any]]
    budgets: Mapped[list[Any]]
    seed: Mapped[int] = mapped_column(BigInteger)
    sampler: Mapped[str]
    request: Mapped[dict[str, Any]]
    supernet_fingerprint: Mapped[str]
    supernet_digest: Mapped[str]
    profile_fingerprint: Mapped[str | None] = mapped_column(
        String(NAME_LENGTH), ForeignKey("nas_device_profiles.fingerprint")
    )
    version: Mapped[str]
    created_at: Mapped[datetime]
    holder: Mapped[dict[str, Any] | None]
    holder_token: Mapped[str | None] = mapped_column(String(32))
    active_at: Mapped[datetime]


class Trial(Base):
    """One evaluated candidate: genome and objectives in one row."""

    __tablename__ = "nas_trials"
    __table_args__ = (
        # In order of a trial's number; also the covering index for counting.
        UniqueConstraint("study_id", "number"),
        UniqueConstraint("study_id", "key", name="uq_nas_trials_key"),
        CheckConstraint("state IN ('complete', 'partial', 'failed')", name="state"),
        # All that a front is computed from: the wide rows themselves are not read.
        Index(
            "ix_nas_trials_figures",
            "study_id",
            "state",
            "feasible",
            "quality",
            "latency_ms_upper",
            "energy_mj_upper",
            "memory_bytes",
            "params",
            "weight_bytes",
            "macs",
            "number",
            "id",
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("nas_studies.id", ondelete="CASCADE"))
    number: Mapped[int]
    key: Mapped[str] = mapped_column(String(NAME_LENGTH))
    genome: Mapped[list[Any]]
    architecture: Mapped[dict[str, Any]]
    policy: Mapped[dict[str, Any]]
    architecture_short: Mapped[str | None]
    policy_short: Mapped[str | None]
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None]
    quality: Mapped[float | None]
    quality_noise: Mapped[float | None]
    quality_test: Mapped[float | None]
    part_noise: Mapped[float | None]
    examples: Mapped[int | None]
    latency_ms: Mapped[float | None]
    latency_ms_upper: Mapped[float | None]
    energy_mj: Mapped[float | None]
    energy_mj_upper: Mapped[float | None]
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    params: Mapped[int | None] = mapped_column(BigInteger)
    weight_bytes: Mapped[int | None] = mapped_column(BigInteger)
    macs: Mapped[int | None] = mapped_column(BigInteger)
    target_costs: Mapped[dict[str, Any] | None]
    feasible: Mapped[bool]
    origin: Mapped[dict[str, Any]]
    seconds: Mapped[float]
    seconds_saved: Mapped[float | None]
    created_at: Mapped[datetime]


class Measurement(Base):
    """A figure measured on a device, with its circumstances."""

    __tablename__ = "nas_measurements"

    id: Mapped[int] = mapped_column(primary_key=True)
    trial_id: Mapped[int] = mapped_column(
        ForeignKey("nas_trials.id", ondelete="CASCADE"), index=True
    )
    quantity: Mapped[str]
    value: Mapped[float]
    spread_within: Mapped[float | None]
    spread_between: Mapped[float | None]
    repeats: Mapped[int]
    processes: Mapped[int]
    device: Mapped[str]
    runtime: Mapped[str]
    precision: Mapped[str]
    batch_size: Mapped[int]
    threads: Mapped[int | None]
    agreement: Mapped[float | None]
    slowness: Mapped[float | None]
    created_at: Mapped[datetime]


class Artefact(Base):
    """What was exported for a trial, and where to."""

    __tablename__ = "nas_artefacts"

    id: Mapped[int] = mapped_column(primary_key=True)
    trial_id: Mapped[int] = mapped_column(
        ForeignKey("nas_trials.id", ondelete="CASCADE"), index=True
    )
    kind: Mapped[str]
    path: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
