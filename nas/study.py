"""A study as its user sees it: the front, with predicted and measured side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from nas.data.metric import METRICS, Metric
from nas.engine.pareto import non_dominated
from nas.storage.records import ArtefactRecord, MeasurementRecord, StudyRecord, TrialRecord

#: objective -> (column of a trial that is judged, whether more is better)
OBJECTIVES: dict[str, tuple[str, bool]] = {
    **{m.name: ("quality", m.larger_is_better) for m in METRICS.values()},
    "latency": ("latency_ms_upper", False),
    "memory": ("memory_bytes", False),
    "params": ("params", False),
    "weights": ("weight_bytes", False),
    "macs": ("macs", False),
}


@dataclass(frozen=True)
class FrontRow:
    """One network of a front."""

    trial: int
    quality: float
    quality_noise: float | None
    quality_test: float | None
    latency_ms: float
    latency_ms_upper: float
    latency_ms_measured: float | None
    memory_bytes: int
    params: int
    weight_bytes: int
    macs: int
    architecture: dict[str, Any]
    policy: dict[str, str]
    agreement: float | None = field(default=None)
    exported: str | None = field(default=None)

    def to_dict(self, metric: Metric) -> dict[str, Any]:
        """Plain data in which the quality goes by its metric's name."""
        return {k.replace("quality", metric.name): v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Study:
    """A study read from the database.

    Attributes:
        record: the request it was opened with.
        trials: all of them, in order.
        measurements: made on real devices.
        artefacts: exported.
        notes: what a reader should know of how the budget bound, where known.
    """

    record: StudyRecord
    trials: tuple[TrialRecord, ...]
    measurements: tuple[MeasurementRecord, ...] = ()
    artefacts: tuple[ArtefactRecord, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Under which it stands in the database."""
        return self.record.name

    @property
    def objectives(self) -> list[str]:
        """Names, in the order asked for."""
        return list(self.record.objectives)

    @property
    def metric(self) -> Metric:
        """What the quality is."""
        return next(METRICS[name] for name in self.objectives if name in METRICS)

    def front_trials(self) -> list[TrialRecord]:
        """Feasible, complete, not dominated; from least to most of the first cost."""
        done = [t for t in self.trials if t.state == "complete" and t.feasible]
        if not done:
            return []
        columns = [OBJECTIVES[name] for name in self.objectives]
        values = np.array([[getattr(t, column) for column, _ in columns] for t in done], float)
        keep = non_dominated(values, [more for _, more in columns])
        order = next(c for c, _ in columns if c != "quality")
        return sorted(
            (t for t, on in zip(done, keep, strict=True) if on),
            key=lambda t: (getattr(t, order), t.number),
        )

    @property
    def front(self) -> list[FrontRow]:
        """The Pareto front, fastest first; see `FrontRow`."""
        return [self._row(trial) for trial in self.front_trials()]

    def _row(self, trial: TrialRecord) -> FrontRow:
        measured = _latest(
            [m for m in self.measurements if m.trial_id == trial.id and m.quantity == "latency_ms"]
        )
        exported = [a for a in self.artefacts if a.trial_id == trial.id]
        return FrontRow(
            trial=trial.number,
            quality=float(trial.quality or 0.0),
            quality_noise=trial.quality_noise,
            quality_test=trial.quality_test,
            latency_ms=float(trial.latency_ms or 0.0),
            latency_ms_upper=float(trial.latency_ms_upper or 0.0),
            latency_ms_measured=measured.value if measured else None,
            memory_bytes=int(trial.memory_bytes or 0),
            params=int(trial.params or 0),
            weight_bytes=int(trial.weight_bytes or 0),
            macs=int(trial.macs or 0),
            architecture=trial.architecture,
            policy=trial.policy,
            agreement=measured.agreement if measured else None,
            exported=exported[-1].path if exported else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """The study as plain data, as `--json` prints it."""
        return {
            "study": self.name,
            "space": self.record.space,
            "preset": self.record.preset,
            "target": self.record.target,
            "batch_size": self.record.batch_size,
            "data": self.record.data,
            "objectives": self.objectives,
            "budgets": list(self.record.budgets),
            "trials": len(self.trials),
            "notes": list(self.notes),
            "front": [row.to_dict(self.metric) for row in self.front],
        }


def _latest(measurements: Sequence[MeasurementRecord]) -> MeasurementRecord | None:
    return max(measurements, key=lambda m: (m.created_at, m.id), default=None)
