"""What is stored, as plain frozen dataclasses: what goes in is what comes out.

`id` is 0 until the record was stored, and `created_at` is the moment it was made. Field names are
the column names of `nas.storage.models`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from nas.target_names import split

TrialState = Literal["complete", "partial", "failed"]
"""Partial: given up after a first look at a part of the validation data."""


def utc_now() -> datetime:
    """Now, aware, in UTC, to the microsecond."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """A device profile as a study used it; `fingerprint` is a hash of its content."""

    name: str
    fingerprint: str
    document: dict[str, Any]
    created_at: datetime = field(default_factory=utc_now)
    id: int = 0


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """A search: everything that it was opened with."""

    name: str
    space: str
    preset: str
    target: str
    runtime: str
    batch_size: int
    data: str
    objectives: list[Any]
    budgets: list[Any]
    seed: int
    sampler: str
    request: dict[str, Any]
    """The whole request, for what has no column of its own."""
    supernet_fingerprint: str
    supernet_digest: str
    """Hash of the weights that were really used, not only of how they were made."""
    version: str
    """Version of this program that opened the study."""
    profile_fingerprint: str | None = None
    """Of several targets, this and the runtime are the first one's."""
    created_at: datetime = field(default_factory=utc_now)
    id: int = 0

    @property
    def targets(self) -> tuple[str, ...]:
        """What several targets are called, in order; nothing where there is one."""
        return tuple(self.request.get("targets") or ())


@dataclass(frozen=True, slots=True)
class StudySummary:
    """A study and what has happened in it."""

    study: StudyRecord
    trials: int
    active_at: datetime
    """When it was opened, last claimed or last given a trial."""
    holder: str | None
    """Who runs it (`process 12 on host`), as far as is known: see `Studies.holder`."""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A candidate and its evaluated objectives."""

    number: int
    """Position in the study, from 0."""
    key: str
    """Hash of the active part of the candidate; a study holds each once."""
    genome: tuple[int, ...]
    architecture: dict[str, Any]
    policy: dict[str, Any]
    architecture_short: str | None = None
    """As a table shows it; older versions did not store it."""
    policy_short: str | None = None
    state: TrialState = "complete"
    reason: str | None = None
    """Why it failed."""
    quality: float | None = None
    """On validation, in the metric that is the study's first objective; if partial, an estimate."""
    quality_noise: float | None = None
    """Its standard error, if only the originals behind the examples are independent."""
    quality_test: float | None = None
    part_noise: float | None = None
    """If partial: the standard error of the quality as an estimate of the whole validation's."""
    examples: int | None = None
    """Of validation that the quality is of; older versions did not store it."""
    latency_ms: float | None = None
    """This and what follows: of several targets, on the first."""
    latency_ms_upper: float | None = None
    energy_mj: float | None = None
    """Of one forward pass of a batch; None where the target has no energy figures."""
    energy_mj_upper: float | None = None
    memory_bytes: int | None = None
    params: int | None = None
    weight_bytes: int | None = None
    macs: int | None = None
    target_costs: dict[str, dict[str, float]] | None = None
    """Of several targets: on each, the first included, the figures that differ between them."""
    feasible: bool = False
    origin: dict[str, Any] = field(default_factory=dict)
    """Why it was chosen: kind of proposal, what was predicted."""
    seconds: float = 0.0
    """Wall time of the evaluation."""
    seconds_saved: float | None = None
    """If partial: what the other examples would have taken, at the pace of the first."""
    created_at: datetime = field(default_factory=utc_now)
    id: int = 0

    def figure(self, column: str) -> float | None:
        """The figure in a column; `latency_ms@a100` is that on one of several targets."""
        name, target = split(column)
        if target is None:
            value: float | None = getattr(self, name)
            return value
        return (self.target_costs or {}).get(target, {}).get(name)


@dataclass(frozen=True, slots=True)
class MeasurementRecord:
    """A figure measured on a real device for a trial, with how it was measured."""

    trial_id: int
    quantity: str
    """Name with unit: `latency_ms`, `memory_bytes`."""
    value: float
    """Median over all repeats of all processes, in the unit of `quantity`."""
    spread_within: float | None
    """Between repeats of one process, in the unit of `quantity`."""
    spread_between: float | None
    """Between the medians of the processes, in the unit of `quantity`."""
    repeats: int
    processes: int
    device: str
    runtime: str
    precision: str
    batch_size: int
    threads: int | None
    agreement: float | None = None
    """Share of decisions equal to the simulated ones, in [0, 1]."""
    slowness: float | None = None
    """What a fixed workload took on the machine meanwhile, over when it was profiled."""
    created_at: datetime = field(default_factory=utc_now)
    id: int = 0


@dataclass(frozen=True, slots=True)
class ArtefactRecord:
    """A folder or file exported for a trial."""

    trial_id: int
    kind: str
    path: str
    sha256: str
    size_bytes: int
    created_at: datetime = field(default_factory=utc_now)
    id: int = 0
