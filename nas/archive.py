"""Studies that exist: opened, listed, drawn, summed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import search_spaces
from nas.budget import format_quantity
from nas.candidate import LETTERS, CandidateSpace
from nas.command_line import command
from nas.data.metric import METRICS, metric_of
from nas.errors import NotFoundError
from nas.one_target import objectives_on, on_target, picture_stem
from nas.paths import DEFAULT_OUT, DEFAULT_STORAGE
from nas.request import RunOptions
from nas.storage.database import open_database
from nas.storage.records import StudyRecord, TrialRecord
from nas.storage.studies import Studies
from nas.study import FrontRow, StoredTrials, Study, ended_line, front_columns, on_front
from nas.target_names import split
from nas.wording import counted
from search_spaces.space import SearchSpace

#: By how much a machine's speed must have changed since its profile, to be said beside the figures.
TOLD_PERCENT = 1.0


def read_study(studies: Studies, record: StudyRecord) -> Study:
    """A study with all that belongs to it; its trials are read when they are needed."""

    def load() -> list[TrialRecord]:
        return studies.trials(record.id)

    return Study(
        record,
        StoredTrials(studies.counts(record.id), _front(studies, record, record.objectives), load),
        tuple(studies.measurements(record.id)),
        tuple(studies.artefacts(record.id)),
        (
            *record.request["reach"],
            *predictor_notes(studies, record),
            *saved_notes(studies, record),
        ),
    )


def _front(studies: Studies, record: StudyRecord, objectives: Sequence[str]) -> list[TrialRecord]:
    numbers, values = studies.figures(record.id, front_columns(objectives))
    kept = numbers[on_front(objectives, values)]
    return studies.trials(record.id, numbers=[int(n) for n in kept])


def open_study(name: str, storage: str = DEFAULT_STORAGE, target: str | None = None) -> Study:
    """A study as it stands in the database.

    Args:
        name: of the study.
        storage: SQLAlchemy URL.
        target: of several, the one whose front, figures and words are wanted.

    Raises:
        NotFoundError: if there is no such study or no database, or it has no such target.
        UsageError: if the study has but one target, and one is asked for.
    """

    def load() -> list[TrialRecord]:
        with open_database(storage, create=False) as database:
            return Studies(database).trials(found.record.id)

    with open_database(storage, create=False) as database:
        studies = Studies(database)
        found = read_study(studies, studies.find_study(name))
        assert isinstance(found.trials, StoredTrials)
        found = replace(found, trials=StoredTrials(found.trials.counts, found.trials.front, load))
        if target is None:
            return found
        front = _front(studies, found.record, objectives_on(found.record, target))
    return on_target(found, target, front)


def candidates_of(study: Study) -> CandidateSpace:
    """The joint space of a study."""
    r = study.record
    return CandidateSpace(space_of(r), tuple(r.request["schemes"]))


def space_of(study: StudyRecord) -> SearchSpace:
    """A study's space, fitted to its data."""
    r = study.request
    return search_spaces.get(
        study.space, study.preset, n_classes=r["n_classes"], in_channels=r["in_channels"]
    )


def draw(study: Study, out: Path) -> tuple[Path, Path]:
    """Draw the front as `front.png` and `front.html` in the study's folder; see `picture_stem`.

    Raises:
        ExportError: if they cannot be written.
    """
    from nas.report.page import save_html
    from nas.report.picture import save_png

    folder, stem = out / study.name, picture_stem(study)
    candidates = candidates_of(study)
    png, html = folder / f"{stem}.png", folder / f"{stem}.html"
    save_png(study, png)
    save_html(study, candidates.space, candidates.describe_policy, html)
    return png, html


def list_studies(storage: str) -> list[dict[str, Any]]:
    """The studies of a database, last active first.

    Raises:
        NotFoundError, StorageError: if it cannot be read.
    """
    with open_database(storage, create=False) as database:
        return [
            {
                "study": s.study.name,
                "space": s.study.space,
                "preset": s.study.preset,
                "target": s.study.target,
                "budgets": list(s.study.budgets),
                "trials": s.trials,
                # Imported ones may be more than were asked for.
                "asked": max(s.trials, s.study.request["asked"]["trials"]),
                "active_at": s.active_at.isoformat(timespec="seconds"),
                "holder": s.holder,
            }
            for s in Studies(database).list_studies()
        ]


def delete_study(
    name: str, storage: str = DEFAULT_STORAGE, agreed: Callable[[int], bool] = lambda _: True
) -> list[str]:
    """Delete a study with its trials; what to say of it, line by line.

    What was exported of it stays.

    Args:
        name: of the study.
        storage: SQLAlchemy URL.
        agreed: asked before, with the number of trials that it has.

    Raises:
        NotFoundError: if there is no such study or database.
        StorageError: if the study is being run.
    """
    with open_database(storage, create=False) as database:
        studies = Studies(database)
        record = studies.find_study(name)
        trials = sum(studies.counts(record.id).values())
        if not agreed(trials):
            return [f"study {name} stays as it is"]
        with studies.claimed(record):  # it may be another's id since that was asked
            studies.delete_study(record.id)
    return [f"study {name} deleted with its {counted(trials, 'trial')}"]


def show(
    name: str, number: int | None, failed: bool, storage: str = DEFAULT_STORAGE
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """The trials of a study, or one of them with why it was chosen.

    Args:
        name: of the study.
        number: of the one trial; None for all.
        failed: only those whose evaluation failed.
        storage: SQLAlchemy URL.

    Returns:
        The trials as plain data, as rows of a table, and as lines if it is one.

    Raises:
        NotFoundError: if there is no such study or trial.
    """
    from nas.report.trial import failed_row, trial_json, trial_lines, trial_row

    with open_database(storage, create=False) as database:
        studies = Studies(database)
        record = studies.find_study(name)
        trials = studies.trials(
            record.id,
            numbers=None if number is None else [number],
            state="failed" if failed else None,
        )
    if number is not None and not trials:
        what = "failed trial" if failed else "trial"
        raise NotFoundError(
            f"study {name!r} has no {what} {number}.",
            f"See `{command(['studies', 'show', name, *['--failed'] * failed], storage)}`.",
        )
    study = Study(record, trials)
    candidates, metric = candidates_of(study), study.metric
    rows = [failed_row(t, candidates) if failed else trial_row(t, metric) for t in trials]
    lines = [] if number is None else trial_lines(trials[0], record, candidates, metric)
    return [trial_json(t, metric) for t in trials], rows, lines


def resume_command(name: str, trials: int | None, options: RunOptions) -> str:
    """The command that continues a study as it is run; a password in the URL is hidden."""
    words = ["resume", name]
    if trials is not None:
        words += ["--trials", str(trials)]
    if options.executor != RunOptions.executor:
        words += ["--executor", options.executor]
    if options.workers != 1:
        words += ["--workers", str(options.workers)]
    if not options.export:
        words += ["--no-export"]
    if options.out != DEFAULT_OUT:
        words += ["--out", str(options.out)]
    return command(words, options.storage)


JUDGED = 2_000
"""Trials, the latest ones, on which a predictor is judged."""


def predictor_notes(studies: Studies, record: StudyRecord) -> tuple[str, ...]:
    """How well the quality's predictor ranked the trials that it proposed."""
    metric = metric_of(record.objectives)
    pairs = studies.predictions(record.id, metric.name, JUDGED)
    if len(pairs) < 10:
        return ()
    predicted, real = pairs.T
    error = np.abs(predicted - real).mean()
    which = "the" if len(pairs) < JUDGED else "the latest"
    return (
        f"{metric.title} predictor on {which} {len(pairs)} trials that it chose: mean error "
        f"{metric.format_difference(error)}, Kendall tau {_kendall_tau(predicted, real):.2f}",
    )


def saved_notes(studies: Studies, record: StudyRecord) -> tuple[str, ...]:
    """What first looks saved, where a study has them."""
    from nas.report.standing import seconds_text

    share = record.request["asked"].get("first_look")
    if share is None:
        return ()
    counts = studies.counts(record.id)
    partial = counts.get("partial", 0)
    looked, seconds = studies.saved(record.id)
    examples = int(record.request["n_validation"])
    saved, whole = partial * examples - looked, (partial + counts.get("complete", 0)) * examples
    return (
        f"first look at {share:.0%} of the validation data: {partial} of {sum(counts.values())} "
        f"trials were given up after it; {saved:,} examples not evaluated"
        + (f" ({saved / whole:.0%})" if saved else "")
        + f", {seconds_text(seconds)} saved at the pace of those looks",
    )


def _kendall_tau(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Tau-b of two orders, (n,) each; 0 where one is constant.

    As `predictors.metrics.kendall_tau`, but of few values: SciPy takes a second to import, which
    a look at a front should not.
    """
    first, second = np.sign(a[:, None] - a[None, :]), np.sign(b[:, None] - b[None, :])
    pairs = np.sqrt(np.count_nonzero(first) * np.count_nonzero(second))
    return float((first * second).sum() / pairs) if pairs else 0.0


def describer(study: Study) -> Callable[[FrontRow], tuple[str, str]]:
    """What a front's table says of a network: its architecture and its policy, shortly.

    The space, and with it torch, is loaded only for trials that an older version stored.
    """
    made: list[CandidateSpace] = []

    def describe(row: FrontRow) -> tuple[str, str]:
        if row.architecture_short is not None and row.policy_short is not None:
            return row.architecture_short, row.policy_short
        if not made:
            made.append(candidates_of(study))
        return made[0].space.describe(row.architecture), made[0].describe_policy(row.policy)

    return describe


def summary(study: Study, options: RunOptions, drawn: bool) -> list[str]:
    """The lines under a front's table.

    Args:
        study: whose front.
        options: how it was run; of a study that is only looked at, where it is kept.
        drawn: whether its pictures are in the folder of the options.
    """
    rows = study.front
    lines = [""]
    look = command(["studies", "show", study.name, "--failed"], options.storage)
    failed = f" ({study.n_failed} failed: see `{look}`)"
    lines.append(
        f"{counted(len(rows), 'network')} on the front, of {len(study.trials)} evaluated"
        + (failed if study.n_failed else "")
    )
    lines += study.notes
    if rows:
        lines += [_hypervolume_line(study), _noise_line(study), _policy_line(study)]
    record = study.record
    targets = record.targets
    if targets:
        lines.append(arithmetic_line(targets[0], record.runtime, targets[1:]))
    elif "arithmetic_of" in record.request:
        lines.append(f"quality is that in the arithmetic of {record.request['arithmetic_of']}")
    lines += unquantized_lines(study)
    for seen in [on_target(study, label) for label in targets] or [study]:
        request, of = seen.record.request, f" on {seen.record.target}" if targets else ""
        lines.append(f"latency{of}: {request['target_summary']}")
        if seen.asks_energy:
            lines.append(f"energy{of}: {request['energy_summary']}")
        lines += [f"{seen.record.target}, {line}" if targets else line
                  for line in measured_lines(seen)]  # fmt: skip
        exported = [r.exported for r in seen.front if r.exported]
        if exported:
            lines.append(f"subnets{of}: {_from_here(Path(exported[0]).parent)}")
    if drawn:
        stem = picture_stem(study)
        lines.append(f"pictures: {options.out / study.name / stem}.png, {stem}.html beside it")
    if study.ended:
        lines.append(ended_line(study.ended))
        if study.ended["final"]:
            return lines
    done = len(study.trials)
    total = None if done < int(record.request["asked"]["trials"]) else 2 * done
    lines.append(f"more trials: {resume_command(study.name, total, options)}")
    return lines


def _from_here(path: Path) -> Path:
    """A path as it is shortest where it lies below the working directory."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def arithmetic_line(first: str, runtime: str, others: Sequence[str]) -> str:
    """In whose arithmetic the candidates of several targets are evaluated."""
    return (
        f"quality is that in the arithmetic of {first} ({runtime}), the first target; in that of "
        f"{' and '.join(others)} it was not evaluated"
    )


def _policy_line(study: Study) -> str:
    """What the letters of a policy stand for; of several targets, on each that says otherwise."""
    request = study.record.request
    words = []
    for i, scheme in enumerate(request["schemes"]):
        others = {label: of["schemes"][i] for label, of in request.get("targets", {}).items()}
        differs = [f"{word} on {label}" for label, word in others.items() if word != scheme]
        words.append(", ".join([f"{LETTERS[scheme]} {scheme}", *differs]))
    letters = ("; " if any(", " in word for word in words) else ", ").join(words)
    groups: dict[str, None] = {}  # of all layers, in order
    for row in study.front:
        groups |= dict.fromkeys(name.rpartition(".")[2] for name in row.policy)
    return f"policy: a word a layer, a letter each for {', '.join(groups)} ({letters})"


def _hypervolume_line(study: Study) -> str:
    """How far the front reaches, and from where that is counted."""
    from nas.report.standing import Box

    front = study.front_trials()
    box = Box(study.record, front)
    point = [
        study.metric.format(value) if name in METRICS else format_quantity(split(name)[0], value)
        for name, value in box.reference.items()
    ]
    words = [f"{name} {text}" for name, text in zip(study.objectives, point, strict=True)]
    share = box.share(box.points(front))
    return f"hypervolume {share:.4f} of the box from {', '.join(words)} to the ideal"


def _noise_line(study: Study) -> str:
    """The standard error of a quality; two where examples are drawn from fewer originals."""
    request, metric = study.record.request, study.metric
    examples, originals = int(request["n_validation"]), int(request["n_originals"])
    most = max((row.quality_noise or 0.0 for row in study.front), default=0.0)
    on, noise = f"{examples:,} validation examples", metric.format_difference(most)
    if examples != originals:
        on += f" of {originals:,} originals"
        least = metric.format_difference(most * (originals / examples) ** 0.5)
        noise = f"{least} if draws of one original err apart, {noise} if alike"
    return (
        f"val: {metric.title} on {on}, standard error at most {noise}; "
        "test: examples that no search saw"
    )


def unquantized_lines(study: Study) -> list[str]:
    """Why no layer of a front is quantized, where that is so and latency is the reason."""
    schemes = study.record.request["schemes"]
    used = {scheme for row in study.front for scheme in row.policy.values()}
    objectives = [split(objective) for objective in study.objectives]
    targets = [target or study.record.target for name, target in objectives if name == "latency"]
    if not study.front or not targets or len(schemes) < 2 or used != {schemes[0]}:
        return []
    names, verb = " and ".join(targets), "is" if len(targets) == 1 else "are"
    line = (
        f"no layer of the front is quantized: at these sizes {names} {verb} predicted "
        f"to be slower in {', '.join(schemes[1:])}"
    )
    if "weights" not in [name for name, _ in objectives]:
        line += f". Their gain is size: try --objective {study.metric.name} --objective weights"
    return [line]


def measured_lines(study: Study) -> list[str]:
    """Predicted against measured in one line, where something was measured."""
    rows = [r for r in study.front if r.latency_ms_measured]
    if not rows:
        return []
    predicted = np.array([r.latency_ms for r in rows])
    upper = np.array([r.latency_ms_upper for r in rows])
    real = np.array([float(r.latency_ms_measured or 0) for r in rows])

    def judged(real: NDArray[np.float64]) -> tuple[float, int]:
        """Mean error in percent, and for how many the bound held."""
        return 100 * float(np.abs(predicted / real - 1).mean()), int((real <= upper).sum())

    error, held = judged(real)
    lines = [
        f"measured: mean error of the prediction {error:.1f}%, the bound held for "
        f"{held} of {len(rows)}"
    ]
    slowness = np.array([r.slowness or 1.0 for r in rows])
    percent = 100 * (float(np.median(slowness)) - 1)
    if abs(percent) >= TOLD_PERCENT:
        error, apart = judged(real / slowness)
        lines.append(
            f"the machine itself was {abs(percent):.1f}% {'slower' if percent > 0 else 'faster'} "
            "than in its profile (one workload, timed both times): apart from that the mean error "
            f"is {error:.1f}%, and the bound held for {apart} of {len(rows)}"
        )
        if percent > 0 and held < 0.9 * apart:
            lines[-1] += "; end what else runs, or measure it anew with `nas profile`"
    return lines
