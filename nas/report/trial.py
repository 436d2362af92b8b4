"""One trial in words: what it is, what it cost, and why it was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.budget import format_quantity
from nas.candidate import CandidateSpace
from nas.data.metric import Metric
from nas.storage.records import StudyRecord, TrialRecord
from nas.study import plain_figures
from nas.target_names import TARGET_FIGURES, at, split

#: kind of a proposal -> what it means; another is the name of a sampler
KINDS = {
    "design": "of the first design, which covers the space",
    "exploit": "exploited: the largest expected gain of hypervolume",
    "explore": "explored: where it could be much better than expected, or least is known",
    "random": "drawn at random: nothing else was proposed",
    "evolved": "bred from the best so far",
    "imported": "known from elsewhere",
}


def trial_row(trial: TrialRecord, metric: Metric) -> dict[str, Any]:
    """A trial in a table of all."""
    if trial.target_costs:
        bounds = {
            f"bound on {label}": _quantity("latency", figures["latency_ms_upper"])
            for label, figures in trial.target_costs.items()
        }
    else:
        bounds = {"bound": _quantity("latency", trial.latency_ms_upper)}
        if trial.energy_mj_upper is not None:
            bounds["energy bound"] = format_quantity("energy", trial.energy_mj_upper)
        bounds["memory"] = _quantity("memory", trial.memory_bytes)
    return {
        "trial": trial.number,
        "state": trial.state if trial.feasible or trial.state == "failed" else "over budget",
        metric.title: None if trial.quality is None else metric.format(trial.quality),
        **bounds,
        "params": _quantity("params", trial.params),
        "seconds": None if _is_imported(trial) else f"{trial.seconds:.2f}",
        "chosen": str(trial.origin.get("kind", "-")),
    }


def failed_row(trial: TrialRecord, candidates: CandidateSpace) -> dict[str, Any]:
    """A failed trial in a table of those."""
    return {
        "trial": trial.number,
        "tries": trial.origin.get("attempts", 1),
        "reason": trial.reason,
        "architecture": candidates.space.describe(trial.architecture),
        "policy": candidates.describe_policy(trial.policy),
    }


def _is_imported(trial: TrialRecord) -> bool:
    return trial.origin.get("kind") == "imported"


def _quantity(name: str, value: float | None) -> str | None:
    return None if value is None else format_quantity(name, value)


def trial_json(trial: TrialRecord, metric: Metric) -> dict[str, Any]:
    """A trial as plain data; see `nas.study.plain_figures`."""
    plain = plain_figures(trial, metric)
    del plain["id"]
    return {**plain, "created_at": trial.created_at.isoformat()}


def trial_lines(
    trial: TrialRecord, study: StudyRecord, candidates: CandidateSpace, metric: Metric
) -> list[str]:
    """A trial line by line."""
    lines = [
        f"trial {trial.number} of {study.name}: {trial.state}"
        + ("" if trial.feasible or trial.state == "failed" else ", over a budget"),
        f"network   {candidates.space.describe(trial.architecture)} in "
        f"{candidates.describe_policy(trial.policy)}",
    ]
    if trial.reason is not None:
        tries = int(trial.origin.get("attempts", 1))
        lines.append(f"failed    {trial.reason}" + (f" (tried {tries} times)" * (tries > 1)))
    if trial.quality is not None:
        noise = trial.quality_noise
        by = "" if noise is None else f", standard error {metric.format_difference(noise)}"
        lines.append(f"{'quality':<9} {metric.title} {metric.format(trial.quality)}{by}")
    if trial.state == "partial":
        lines.append(_given_up(trial, study, metric))
    plain: dict[str, Any] = {name: getattr(trial, name) for name in TARGET_FIGURES}
    on_each: list[tuple[str | None, Any]] = [*(trial.target_costs or {}).items()]
    on_each = on_each or [(None, plain)]
    for label, figures in on_each:
        lines += _predicted(figures, "" if label is None else f" on {label}")
    counted = {
        at(name, label): figures.get(column)
        for label, figures in on_each
        for name, column in (("memory", "memory_bytes"), ("weights", "weight_bytes"))
    } | {"params": trial.params, "macs": trial.macs}
    known = [f"{n} {format_quantity(split(n)[0], v)}" for n, v in counted.items() if v is not None]
    lines.append(f"costs     {', '.join(known)}")
    when = f"{trial.created_at:%Y-%m-%d %H:%M:%S} UTC"
    if _is_imported(trial):
        lines.append(f"imported  {when}")
    else:
        lines.append(f"evaluated {when} in {trial.seconds:.2f} s")
    return lines + _why(trial, metric)


def _predicted(figures: Mapping[str, float | None], where: str) -> list[str]:
    """Latency and energy on a target, line by line."""
    predicted = {
        name: (figures.get(column), figures.get(f"{column}_upper"))
        for name, column in (("latency", "latency_ms"), ("energy", "energy_mj"))
    }
    return [
        f"{name:<9} {format_quantity(name, mean)}, at most {format_quantity(name, upper)} "
        f"(predicted{where})"
        for name, (mean, upper) in predicted.items()
        if mean is not None and upper is not None
    ]


def _given_up(trial: TrialRecord, study: StudyRecord, metric: Metric) -> str:
    """Why a partial trial was not evaluated on all examples."""
    text = f"given up  on {trial.examples:,} of {study.request['n_validation']:,} examples"
    text += f", which show it to {metric.format_difference(trial.part_noise or 0.0)}"
    goal = trial.origin.get("goal")
    return text if goal is None else f"{text}: at its costs the front has {metric.format(goal)}"


def _why(trial: TrialRecord, metric: Metric) -> list[str]:
    origin = trial.origin
    kind = str(origin.get("kind", "unknown"))
    lines = [f"chosen    {KINDS.get(kind, f'by {kind}')}"]
    if _is_imported(trial):
        source = str(origin.get("from"))
        place = str(origin.get("where")).removeprefix(f"{Path(source).name} ")
        lines[0] += f" ({source}, {place})"
    predicted = (origin.get("predicted") or {}).get(metric.name)
    if predicted is not None:
        std = (origin.get("std") or {}).get(metric.name)
        text = f"predicted {metric.title} {metric.format(predicted)}"
        if std is not None:
            text += f" with a standard deviation of {metric.format_difference(std)}"
        if trial.quality is not None:
            text += f"; found {metric.format_difference(abs(trial.quality - predicted))} "
            text += "more" if trial.quality >= predicted else "less"
        lines.append(text)
    if "gain" in origin:
        text = f"gain      {origin['gain']:.3g} of hypervolume expected"
        if "fitted_trials" in origin:
            text += f", by predictors fitted to {origin['fitted_trials']} trials"
        lines.append(text)
    if "generation" in origin:
        lines.append(f"bred      in generation {origin['generation']}")
    told = {"kind", "predicted", "std", "gain", "fitted_trials", "generation", "asked", "reason",
            "attempts", "from", "where", "goal"}  # fmt: skip
    lines += [f"{name:<9} {value}" for name, value in origin.items() if name not in told]
    refused = len(origin.get("asked") or [0]) - 1
    if refused > 0:
        lines.append(f"refused   {refused} proposals before it were known or over a budget")
    return lines
