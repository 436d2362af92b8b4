"""A study as its user sees it: the front, with predicted and measured side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from nas.budget import Budget
from nas.data.metric import METRICS, Metric, metric_of
from nas.engine.pareto import non_dominated
from nas.storage.records import ArtefactRecord, MeasurementRecord, StudyRecord, TrialRecord
from nas.target_names import at, split

#: objective on one target -> (figure of a trial that is judged, whether more is better)
OBJECTIVES: dict[str, tuple[str, bool]] = {
    **{m.name: ("quality", m.larger_is_better) for m in METRICS.values()},
    "latency": ("latency_ms_upper", False),
    "energy": ("energy_mj_upper", False),
    "memory": ("memory_bytes", False),
    "params": ("params", False),
    "weights": ("weight_bytes", False),
    "macs": ("macs", False),
}


#: Figures of a trial that only some targets predict; they are left out where they are unknown.
ENERGY_FIGURES = ("energy_mj", "energy_mj_upper")


@dataclass(frozen=True)
class FrontRow:
    """One network of a front; `energy_mj` and its bound are None where the target has none.

    Of several targets the plain figures are those of the first; `target_costs` has them of each,
    with what was measured on it and where its files are.
    """

    trial: int
    quality: float
    quality_noise: float | None
    quality_test: float | None
    latency_ms: float
    latency_ms_upper: float
    latency_ms_measured: float | None
    energy_mj: float | None
    energy_mj_upper: float | None
    memory_bytes: int
    params: int
    weight_bytes: int
    macs: int
    architecture: dict[str, Any]
    policy: dict[str, str]
    architecture_short: str | None = field(default=None)
    policy_short: str | None = field(default=None)
    agreement: float | None = field(default=None)
    slowness: float | None = field(default=None)
    exported: str | None = field(default=None)
    target_costs: dict[str, dict[str, Any]] | None = field(default=None)

    @property
    def folders(self) -> list[str]:
        """Where it was exported to, a folder a target."""
        on_each = [costs["exported"] for costs in (self.target_costs or {}).values()]
        return [path for path in on_each or [self.exported] if path is not None]

    def to_dict(self, metric: Metric) -> dict[str, Any]:
        """Plain data in which the quality goes by its metric's name; see `plain_figures`."""
        return plain_figures(self, metric)


class StoredTrials(Sequence[TrialRecord]):
    """The trials of a study in a database, read when one is looked at; the front's before.

    Args:
        counts: trials in each state.
        front: those that no other dominates.
        load: reads all of them.
    """

    def __init__(
        self,
        counts: dict[str, int],
        front: Sequence[TrialRecord],
        load: Callable[[], Sequence[TrialRecord]],
    ) -> None:
        self.counts = counts
        self.front = tuple(front)
        self._load = load

    @cached_property
    def _all(self) -> tuple[TrialRecord, ...]:
        return tuple(self._load())

    def __len__(self) -> int:
        return sum(self.counts.values())

    @overload
    def __getitem__(self, index: int) -> TrialRecord: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TrialRecord, ...]: ...
    def __getitem__(self, index: int | slice) -> TrialRecord | tuple[TrialRecord, ...]:
        return self._all[index]


def ended_early(record: StudyRecord, trials: int) -> dict[str, Any] | None:
    """Why a study with so many trials ended before its last one, as `run_trials` says it.

    None if it did not, or has trials since, such as imported ones.
    """
    ended: dict[str, Any] | None = record.request.get("ended")
    return ended if ended and ended["after"] == trials else None


def ended_line(ended: dict[str, Any]) -> str:
    """In words."""
    return "ended after {after} of {of} trials: {by}".format(**ended)


@dataclass(frozen=True)
class Study:
    """A study read from the database.

    Attributes:
        record: the request it was opened with.
        trials: all of them, in order; `StoredTrials` reads them when they are needed.
        measurements: made on real devices.
        artefacts: exported.
        notes: what a reader should know of how the budget bound, where known.
    """

    record: StudyRecord
    trials: Sequence[TrialRecord]
    measurements: tuple[MeasurementRecord, ...] = ()
    artefacts: tuple[ArtefactRecord, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Under which it stands in the database."""
        return self.record.name

    @property
    def ended(self) -> dict[str, Any] | None:
        """Why its search ended before the last trial; see `ended_early`."""
        return ended_early(self.record, len(self.trials))

    @property
    def objectives(self) -> list[str]:
        """Names, in the order asked for."""
        return list(self.record.objectives)

    @property
    def metric(self) -> Metric:
        """What the quality is."""
        return metric_of(self.objectives)

    @property
    def has_energy(self) -> bool:
        """Whether the target predicts energy."""
        return any(row.energy_mj is not None for row in self.front)

    @property
    def judged(self) -> set[str]:
        """What is an objective or limited, `weights@a100` on one of several targets."""
        limits = [Budget(**limit) for limit in self.record.request.get("limits", [])]
        return {*self.objectives, *(at(limit.quantity, limit.target) for limit in limits)}

    @property
    def asks_energy(self) -> bool:
        """Whether energy is an objective or limited."""
        return any(split(name)[0] == "energy" for name in self.judged)

    @property
    def n_failed(self) -> int:
        """Trials whose evaluation failed."""
        if isinstance(self.trials, StoredTrials):
            return self.trials.counts.get("failed", 0)
        return sum(t.state == "failed" for t in self.trials)

    def front_trials(self) -> list[TrialRecord]:
        """Feasible, complete, not dominated; from least to most of the first cost."""
        return list(self._front_trials)

    @cached_property
    def _front_trials(self) -> tuple[TrialRecord, ...]:
        if isinstance(self.trials, StoredTrials):
            found: Sequence[TrialRecord] = self.trials.front
        else:
            done = [t for t in self.trials if t.state == "complete" and t.feasible]
            columns = front_columns(self.objectives)
            values = np.array([[t.figure(column) for column in columns] for t in done], float)
            keep = on_front(self.objectives, values.reshape(len(done), len(columns)))
            found = [t for t, on in zip(done, keep, strict=True) if on]
        order = next((c for c in front_columns(self.objectives) if c != "quality"), "quality")
        return tuple(sorted(found, key=lambda t: (t.figure(order) or 0.0, t.number)))

    @cached_property
    def front(self) -> list[FrontRow]:
        """The Pareto front, from least to most of the first cost; see `FrontRow`."""
        return [self._row(trial) for trial in self.front_trials()]

    def _found_on(self, trial: TrialRecord, target: str | None) -> dict[str, Any]:
        """What was measured of a trial on a target, and where its files for it are."""
        quantity, kind = at("latency_ms", target), at("subnet", target)
        measured = _latest(
            [m for m in self.measurements if m.trial_id == trial.id and m.quantity == quantity]
        )
        exported = [a for a in self.artefacts if a.trial_id == trial.id and a.kind == kind]
        return {
            "latency_ms_measured": measured.value if measured else None,
            "agreement": measured.agreement if measured else None,
            "slowness": measured.slowness if measured else None,
            "exported": exported[-1].path if exported else None,
        }

    def _row(self, trial: TrialRecord) -> FrontRow:
        costs = trial.target_costs and {
            label: {**figures, **self._found_on(trial, label)}
            for label, figures in trial.target_costs.items()
        }
        first = self.record.targets[0] if self.record.targets else None
        return FrontRow(
            trial=trial.number,
            quality=float(trial.quality or 0.0),
            quality_noise=trial.quality_noise,
            quality_test=trial.quality_test,
            latency_ms=float(trial.latency_ms or 0.0),
            latency_ms_upper=float(trial.latency_ms_upper or 0.0),
            energy_mj=trial.energy_mj,
            energy_mj_upper=trial.energy_mj_upper,
            memory_bytes=int(trial.memory_bytes or 0),
            params=int(trial.params or 0),
            weight_bytes=int(trial.weight_bytes or 0),
            macs=int(trial.macs or 0),
            architecture=trial.architecture,
            policy=trial.policy,
            architecture_short=trial.architecture_short,
            policy_short=trial.policy_short,
            target_costs=costs,
            **self._found_on(trial, first),
        )

    def to_dict(self) -> dict[str, Any]:
        """The study as plain data, as `--json` prints it."""
        return {
            "study": self.name,
            "space": self.record.space,
            "preset": self.record.preset,
            "target": self.record.target,
            **({"targets": list(self.record.targets)} if self.record.targets else {}),
            "batch_size": self.record.batch_size,
            "data": self.record.data,
            "objectives": self.objectives,
            "budgets": list(self.record.budgets),
            "trials": len(self.trials),
            "ended": self.ended,
            "notes": list(self.notes),
            "front": [row.to_dict(self.metric) for row in self.front],
        }


def plain_figures(record: FrontRow | TrialRecord, metric: Metric) -> dict[str, Any]:
    """Its fields with the quality under its metric's name, and without an energy that is unknown.

    The figures on each of several targets become fields of their own, such as `latency_ms@a100`.
    """
    found = {field.name: getattr(record, field.name) for field in fields(record)}
    costs = flat_costs(found.pop("target_costs"))
    return {
        name.replace("quality", metric.name): value
        for name, value in found.items()
        if name not in ENERGY_FIGURES or value is not None
    } | costs


def flat_costs(target_costs: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    """The figures on each of several targets under `figure@target`."""
    return {
        at(name, label): value
        for label, figures in (target_costs or {}).items()
        for name, value in figures.items()
    }


def judged_column(objective: str) -> str:
    """The figure of a trial that an objective is judged by.

    >>> judged_column("latency"), judged_column("latency@a100")
    ('latency_ms_upper', 'latency_ms_upper@a100')
    """
    name, target = split(objective)
    return at(OBJECTIVES[name][0], target)


def is_maximised(objective: str) -> bool:
    """Whether more of an objective is better."""
    return OBJECTIVES[split(objective)[0]][1]


def front_columns(objectives: Sequence[str]) -> list[str]:
    """The figures of a trial that objectives are judged by."""
    return [judged_column(name) for name in objectives]


def on_front(objectives: Sequence[str], values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows of `front_columns` (n, k) no other dominates, (n,)."""
    return non_dominated(values, [is_maximised(name) for name in objectives])


def _latest(measurements: Sequence[MeasurementRecord]) -> MeasurementRecord | None:
    return max(measurements, key=lambda m: m.id, default=None)
