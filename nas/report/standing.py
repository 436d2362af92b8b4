"""How a search stands: what is done, how far the front reaches, and when the rest is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nas.budget import format_quantity
from nas.data.metric import METRICS, metric_of
from nas.engine.pareto import Floats, Mask, hypervolume, minimised
from nas.events import Event
from nas.storage.records import StudyRecord, TrialRecord
from nas.study import front_columns, is_maximised, judged_column
from nas.target_names import split
from nas.wording import clock

BEST = 3
RECENT = 20
"""Trials whose pace is that of the rest."""


class Box:
    """What lies between a study's reference point and the ideal one, and how much is dominated.

    The ideal has costs of zero and a perfect quality; both points are constants of the study.

    Args:
        record: the study.
        trials: of it, for a study that an older version opened.

    Attributes:
        reference: the worst values that count, by objective.
    """

    def __init__(self, record: StudyRecord, trials: Iterable[TrialRecord] = ()) -> None:
        self.reference = reference_point(record, trials)
        self._columns = front_columns(list(self.reference))
        self._more = [is_maximised(name) for name in self.reference]
        ideal = [IDEAL.get(name, 0.0) for name in self.reference]
        worst, best = minimised(np.array([list(self.reference.values()), ideal]), self._more)
        self._worst, self._volume = worst, float(np.prod(np.abs(worst - best)))

    def points(self, trials: Sequence[TrialRecord]) -> Floats:
        """The objectives of trials, the sign turned where more is better, (n, k)."""
        rows = [[trial.figure(column) for column in self._columns] for trial in trials]
        values = np.array(rows, dtype=float).reshape(len(trials), len(self._columns))
        return minimised(values, self._more)

    def share(self, points: Floats) -> float:
        """The part of the box that points (n, k) dominate, in [0, 1]."""
        smaller = [False] * len(self._columns)
        return hypervolume(points, smaller, self._worst) / (self._volume or 1.0)


class Standing:
    """The standing of a study, kept up trial by trial; its hypervolume is a share of its `Box`.

    Args:
        record: the study.
        total: trials that it is to have.
        trials: those that it has.

    Attributes:
        done: trials so far.
        failed: of them.
        partial: of them, given up after a first look at the validation data.
        examples_saved: validation examples that those were not evaluated on.
        seconds_saved: that these would have taken, at the pace of the first looks.
        feasible: of them, evaluated and within every budget.
        hypervolume: share of the box, in [0, 1].
        hypervolumes: after each trial that was searched for, not imported, as they arrived.
        front: the trials that no other dominates.
    """

    def __init__(self, record: StudyRecord, total: int, trials: Iterable[TrialRecord] = ()) -> None:
        before = list(trials)
        self.total = total
        self.metric = metric_of(record.objectives)
        self._judged = {name: judged_column(name) for name in record.objectives}
        self._box = Box(record, before)
        self.done = self.failed = self.partial = self.feasible = 0
        self.examples_saved, self.seconds_saved = 0, 0.0
        self._examples = int(record.request.get("n_validation") or 0)
        self.hypervolume = 0.0
        self.hypervolumes: list[float] = []
        self.front: list[TrialRecord] = []
        self._points = self._box.points([])
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._arrivals: deque[float] = deque(maxlen=RECENT + 1)
        for trial in before:
            self.add(trial)

    def add(self, trial: TrialRecord, now: float | None = None) -> None:
        """Count a trial.

        Args:
            trial: the next one.
            now: seconds of a clock that never jumps; None for trials of the past.
        """
        self.done += 1
        imported = trial.origin.get("kind") == "imported"
        if not imported:
            self._seconds.append(trial.seconds)
        if now is not None:
            self._arrivals.append(now)
        self.failed += trial.state == "failed"
        if trial.state == "partial":
            self.partial += 1
            self.examples_saved += self._examples - (trial.examples or 0)
            self.seconds_saved += trial.seconds_saved or 0.0
        if trial.state == "complete" and trial.feasible and trial.quality is not None:
            self.feasible += 1
            if self._widen(trial):
                self.hypervolume = self._box.share(self._points)
        if imported:
            self.hypervolumes[-1:] = [self.hypervolume]  # what was looked back at starts here
        else:
            self.hypervolumes.append(self.hypervolume)

    def _widen(self, trial: TrialRecord) -> bool:
        """Put a trial on the front if it belongs there."""
        new, old = self._box.points([trial]), self._points
        if _beats(old, new).any():
            return False
        kept = ~_beats(new, old)
        self._points = np.concatenate([old[kept], new])
        self.front = [t for t, keep in zip(self.front, kept, strict=True) if keep] + [trial]
        return True

    @property
    def seconds_each(self) -> float:
        """Mean wall time of the recent evaluations."""
        return float(np.mean(self._seconds)) if self._seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Until the last trial, at the recent pace; None while it is not known."""
        # Trials that were read at one look came one after another, nobody saw when.
        first = next((i for i, at in enumerate(self._arrivals) if at > self._arrivals[0]), None)
        if first is None:
            return None
        pace = (self._arrivals[-1] - self._arrivals[0]) / (len(self._arrivals) - first)
        return max(self.total - self.done, 0) * pace

    def best(self) -> list[TrialRecord]:
        """The few of the front with the best quality, the best first."""
        sign = -1.0 if self.metric.larger_is_better else 1.0
        return sorted(self.front, key=lambda t: (sign * float(t.quality or 0.0), t.number))[:BEST]

    def event(self) -> Event:
        """For a listener: a line, and more of them for a terminal."""
        text = f"trial {self.done} of {self.total}"
        best = self.best()
        if best:
            text += f", best {self.metric.title} {self.metric.format(float(best[0].quality or 0))}"
            text += f", hypervolume {self.hypervolume:.4f}"
        text += f", {seconds_text(self.seconds_each)} each"
        left = self.seconds_left
        if left is not None and self.done < self.total:
            text += f", {clock(left)} left"
        if self.partial:
            text += f", {self.partial} given up at first look"
            text += f" ({seconds_text(self.seconds_saved)} saved)"
        if self.failed:
            text += f", {self.failed} failed"
        detail = [f"feasible {self.feasible} of {self.done}, on the front {len(self.front)}"]
        if self.partial:
            detail.append(f"not evaluated {self.examples_saved:,} validation examples")
        for trial in best:
            costs = [
                f"{name} {format_quantity(split(name)[0], float(trial.figure(column) or 0.0))}"
                for name, column in self._judged.items()
                if name not in METRICS
            ]
            value = self.metric.format(float(trial.quality or 0.0))
            detail.append(f"trial {trial.number}: {', '.join([value, *costs])}")
        return Event("search", text, self.done, max(self.total, self.done), tuple(detail))


def _beats(a: Floats, b: Floats) -> Mask:
    """Which rows of one beat those of the other, to be minimised, one of which is a single row.

    Half the time of `non_dominated`, which a resumed study would ask once a trial.
    """
    return np.asarray((a <= b).all(axis=1) & (a < b).any(axis=1))


#: The best value that there is; zero for everything else.
IDEAL = {"accuracy": 1.0}


def reference_point(record: StudyRecord, trials: Iterable[TrialRecord] = ()) -> dict[str, float]:
    """The worst values that count: as stored with the study, or of its trials where they are not.

    Args:
        record: the study.
        trials: of it, for a study that an older version opened.
    """
    stored: Mapping[str, Any] = record.request.get("reference") or {}
    if stored:
        return {name: float(stored[name]) for name in record.objectives}
    point = {}
    for name in record.objectives:
        found = (trial.figure(judged_column(name)) for trial in trials)
        values = [float(value) for value in found if value is not None]
        point[name] = 0.0 if is_maximised(name) else max(values, default=1.0)
    return point


def seconds_text(value: float) -> str:
    """A duration to read."""
    return f"{value:.2f} s" if value < 9.95 else f"{value:.0f} s"
