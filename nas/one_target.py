"""A study of several targets as one of them sees it: its figures, its budgets, its own words.

What reads a study on one target (tables, pictures, export, verification) reads such a view of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nas.candidate import LETTERS
from nas.errors import UsageError, nearest
from nas.storage.records import StudyRecord, TrialRecord
from nas.study import StoredTrials, Study
from nas.target_names import TARGET_FIGURES, at, split


def objectives_on(record: StudyRecord, label: str) -> list[str]:
    """A study's objectives that are of one target or of all; its latency if it has no own.

    Raises:
        NotFoundError: if the study has no such target.
        UsageError: if it has but one.
    """
    if not record.targets:
        raise UsageError(
            f"study {record.name!r} has one target.", f"Leave --target out: it is {record.target}."
        )
    if label not in record.targets:
        raise nearest(label, record.targets, f"target of study {record.name!r}:")
    found = [name for name in record.objectives if split(name)[1] in (None, label)]
    own = any(split(name)[1] for name in found)
    return found if own else [*found, at("latency", label)]


def record_on(record: StudyRecord, label: str) -> StudyRecord:
    """A study's record as if it had that target alone; names lose their `@target`."""
    of_target: dict[str, Any] = record.request["targets"][label]
    request = {key: value for key, value in record.request.items() if key != "targets"}
    limits = [limit for limit in request["limits"] if limit["target"] in (None, label)]
    own = f"{label}:"
    return replace(
        record,
        target=label,
        runtime=of_target["runtime"],
        profile_fingerprint=of_target["profile"],
        objectives=[split(name)[0] for name in objectives_on(record, label)],
        budgets=[b.removeprefix(own) for b in record.budgets if b.startswith(own) or ":" not in b],
        request={
            **{key: value for key, value in request.items() if key != "energy_summary"},
            **{key: of_target[key] for key in of_target if key not in ("profile", "runtime")},
            "seen_on": label,
            "arithmetic_of": f"{record.targets[0]} ({record.runtime})",
            "limits": [{**limit, "target": None} for limit in limits],
            "reference": {
                split(name)[0]: value
                for name, value in request["reference"].items()
                if split(name)[1] in (None, label)
            },
        },
    )


def picture_stem(study: Study) -> str:
    """Name of a study's picture, without its ending; another for what one target sees."""
    label = study.record.request.get("seen_on")
    return "front" if label is None else f"front-{label}"


def trial_on(trial: TrialRecord, record: StudyRecord, label: str) -> TrialRecord:
    """A trial with the figures of one target, and its policy in that target's words."""
    costs = (trial.target_costs or {})[label]
    words = dict(
        zip(record.request["schemes"], record.request["targets"][label]["schemes"], strict=True)
    )
    figures: dict[str, Any] = {name: costs.get(name) for name in TARGET_FIGURES}
    return replace(
        trial,
        **figures,
        policy={group: words[scheme] for group, scheme in trial.policy.items()},
        policy_short=None if trial.policy_short is None else _short(trial.policy_short, words),
        target_costs=None,
    )


def _short(policy: str, words: dict[str, str]) -> str:
    """A short policy in other words: the name of its one scheme, or a letter a layer group."""
    if policy in words:
        return words[policy]
    return policy.translate({ord(LETTERS[a]): LETTERS[b] for a, b in words.items() if a != b})


def on_target(study: Study, label: str, front: Sequence[TrialRecord] | None = None) -> Study:
    """A study as one of its targets sees it.

    Args:
        study: on several targets.
        label: what the target is called.
        front: the networks to show of it; those of the study's own front unless given.

    Raises:
        NotFoundError, UsageError: as `objectives_on`.
    """
    record = record_on(study.record, label)
    shown = [
        trial_on(trial, study.record, label)
        for trial in (study.front_trials() if front is None else front)
    ]

    def load() -> list[TrialRecord]:
        return [trial_on(trial, study.record, label) for trial in study.trials]

    counts = study.trials.counts if isinstance(study.trials, StoredTrials) else {}
    measurements = [m for m in study.measurements if split(m.quantity)[1] == label]
    artefacts = [a for a in study.artefacts if split(a.kind)[1] == label]
    return replace(
        study,
        record=record,
        trials=StoredTrials(counts, shown, load),
        measurements=tuple(replace(m, quantity=split(m.quantity)[0]) for m in measurements),
        artefacts=tuple(replace(a, kind=split(a.kind)[0]) for a in artefacts),
        notes=(*record.request["reach"], *study.notes[len(study.record.request["reach"]) :]),
    )
