"""What a picture of a front shows, whatever draws it: axes, groups of networks, the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas.budget import Budget, shown_in
from nas.one_target import on_target
from nas.storage.records import TrialRecord
from nas.study import Study, front_columns, judged_column, on_front

BLUE, ORANGE, RED, GREY = "#1f5fa8", "#d9822b", "#a03030", "#b8c0cc"

_QUALITIES = {
    "accuracy": ("accuracy on validation (%)", 100.0),
    "loss": ("cross-entropy on validation (nats)", 1.0),
    "bits_per_byte": ("bits per byte on validation", 1.0),
}
_COSTS = {
    "latency": "latency",
    "energy": "energy",
    "memory": "peak memory",
    "params": "parameters",
    "weights": "weights",
    "macs": "MACs",
}


@dataclass(frozen=True)
class Group:
    """Networks that are drawn alike, in the units of the axes.

    Attributes:
        label: what a legend says of them.
        trials: one a point.
        x: their cost.
        y: their quality.
        color: of their points.
        size: of a point, in points of print.
        mark: `o`, `x`, or `ring`, which leaves what is below to be seen.
        joined: by steps, from one to the next.
    """

    label: str
    trials: Sequence[TrialRecord]
    x: Sequence[float]
    y: Sequence[float]
    color: str
    size: float
    mark: str = "o"
    joined: bool = False


@dataclass(frozen=True)
class Scene:
    """A front on one target.

    Attributes:
        study: as that target sees it.
        x_label: cost and its unit.
        y_label: quality and its unit.
        log: whether the horizontal axis is logarithmic.
        groups: from the lowest layer to the uppermost.
        budget: words on what the cost is limited to; None if nothing limits it.
        limit: where the budget's line is; None if it is too far right to be drawn.
    """

    study: Study
    x_label: str
    y_label: str
    log: bool
    groups: Sequence[Group]
    budget: str | None
    limit: float | None


def title(study: Study) -> str:
    """What was searched."""
    r = study.record
    return f"{r.space} ({r.preset}) on {r.target}, batch {r.batch_size}, {r.data}"


def scenes(study: Study) -> list[Scene]:
    """What is drawn side by side: the study, or its front as each of several targets sees it."""
    return [_scene(on_target(study, label)) for label in study.record.targets] or [_scene(study)]


def _scene(study: Study) -> Scene:
    cost, quality = _axes(study)
    done = [t for t in study.trials if t.state == "complete"]
    front = study.front_trials()
    numbers = {t.number for t in front}
    steps = _steps(study, front)
    on_steps = {t.number for t in steps}
    measured = {
        t.number: row.latency_ms_measured
        for t, row in zip(front, study.front, strict=True)
        if cost == "latency" and row.latency_ms_measured is not None
    }
    costs = {t.number: t.figure(judged_column(cost)) or 0.0 for t in done}
    shown = [*costs.values(), *measured.values()]
    least, most = min(shown, default=1.0), max(shown, default=1.0)
    unit, size = shown_in(cost, most)
    y_label, factor = _QUALITIES[quality]

    def group(
        label: str, trials: list[TrialRecord], x: dict[int, float], color: str, points: float,
        mark: str = "o", joined: bool = False,
    ) -> Group:  # fmt: skip
        xs = [x[t.number] / size for t in trials]
        ys = [(t.quality or 0.0) * factor for t in trials]
        return Group(label, trials, xs, ys, color, points, mark, joined)

    rest = [t for t in done if t.feasible and t.number not in numbers]
    over = [t for t in done if not t.feasible]
    further = [t for t in front if t.number not in on_steps]
    timed = [t for t in front if t.number in measured]
    bound = ", at its upper bound" if cost in ("latency", "energy") else ""
    groups = [
        group(f"evaluated{bound}", rest, costs, GREY, 4.0),
        group("over budget", over, costs, "#d9a0a0", 4.5, "x"),
        group(f"Pareto front{bound}", steps, costs, BLUE, 6.0, joined=True),
        group("on it for another objective", further, costs, BLUE, 3.5),
        group("measured", timed, measured, ORANGE, 6.0, "ring"),
    ]
    words, limit = _budget(study, cost, 1.5 * most) if shown else (None, None)
    return Scene(
        study=study,
        x_label=_COSTS[cost] + (f" ({unit.strip()})" if unit else ""),
        y_label=y_label,
        log=0 < 3 * least < most,
        groups=[g for g in groups if g.trials],
        budget=words,
        limit=None if limit is None else limit / size,
    )


def _axes(study: Study) -> tuple[str, str]:
    """Objective names for the horizontal and vertical axis; latency where no cost is one."""
    quality = study.metric.name
    return next((name for name in study.objectives if name != quality), "latency"), quality


def _steps(study: Study, trials: list[TrialRecord]) -> list[TrialRecord]:
    """Of trials from least to most of a cost, those that no other beats in the two axes alone."""
    names = list(_axes(study))
    values = np.array([[t.figure(c) for c in front_columns(names)] for t in trials], float)
    kept = on_front(names, values.reshape(len(trials), len(names)))
    return [trial for trial, keep in zip(trials, kept, strict=True) if keep]


def _budget(study: Study, cost: str, end: float) -> tuple[str | None, float | None]:
    """Words on what a cost is limited to, by the user or by what the device holds, and where.

    One beyond the end of the axis has words alone.
    """
    for limit in study.record.request.get("limits", []):
        if limit["quantity"] == cost:
            budget = replace(Budget(**limit), target=study.record.request.get("seen_on"))
            if budget.limit <= end:
                return f"budget {budget}", budget.limit
            return f"budget {budget} is far right: it does not bind", None
    return None, None
