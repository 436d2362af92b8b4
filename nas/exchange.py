"""Trials that come from elsewhere and go elsewhere: CSV files, other studies, Optuna storages."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw_profiles.errors import first_line
from nas.archive import open_study
from nas.candidate import CandidateSpace
from nas.command_line import command
from nas.data.metric import ACCURACY, METRICS, metric_of
from nas.data.registry import full_name
from nas.equipment import profiles_of, setting_of
from nas.errors import NasError, NotFoundError, StorageError, UsageError
from nas.paths import DEFAULT_STORAGE
from nas.setting import Setting
from nas.storage.database import open_database, require_kept
from nas.storage.faults import hide_password
from nas.storage.records import StudyRecord, TrialRecord
from nas.storage.studies import Studies
from nas.study import ENERGY_FIGURES, Study, flat_costs, front_columns, is_maximised
from nas.wording import counted

if TYPE_CHECKING:
    import optuna

# --- import -------------------------------------------------------------------------------------


#: Why a row or trial is not imported, after their number: verb of one, verb of several, the rest.
Reason = tuple[str, str, str]
KNOWN: Reason = ("is", "are", "in the study already")
TWICE: Reason = ("stands", "stand", "there more than once: the first counts")
FOREIGN: Reason = ("has", "have", "a scheme that its target does not offer")
UNEVALUATED: Reason = ("was", "were", "not evaluated, or not on all of the data")


@dataclass(frozen=True)
class _Known:
    """A candidate whose quality was found elsewhere.

    Attributes:
        values: of every choice, architecture and policy alike.
        quality: in the study's metric; None if it is of a part of the data, or there is none.
        noise: its standard error, where known.
        where: it stands there.
    """

    values: Mapping[str, Any]
    quality: float | None
    noise: float | None
    where: str


def import_trials(name: str, source: str, storage: str = DEFAULT_STORAGE) -> list[str]:
    """Tell a study of qualities that are known from elsewhere; what to say of it, line by line.

    Costs and feasibility are those of this study's own target and budgets. Candidates that the
    study has already stay as they are. Partial trials are left out: theirs is an estimate.

    Args:
        name: of the study that is told.
        source: a CSV file, or another study of the same database.
        storage: SQLAlchemy URL.

    Raises:
        NotFoundError: if there is no such study or file.
        UsageError: if the file cannot be understood, or the studies differ in what a quality
            depends on.
        StorageError: if the study is being run.
    """
    with open_database(storage, create=False) as database:
        studies = Studies(database)
        study = studies.find_study(name)
        setting = setting_of(studies, study)
        metric = metric_of(study.objectives).name
        if source.lower().endswith(".csv"):
            found: Iterable[_Known] = _read_csv(Path(source), metric, setting.candidates)
        elif Path(source).suffix and Path(source).is_file():
            raise UsageError(f"{source} is a file, but no CSV.", "Give a .csv file, or a study.")
        else:
            found = _other_study(studies, study, source)
        with studies.claimed(study):
            before = studies.trials(study.id)
            new, left = _new_trials(found, before, setting, source)
            studies.add_trials(study.id, new)
    feasible = sum(trial.feasible for trial in new)
    trials = counted(len(new), "trial")
    lines = [f"{trials} imported into {name}, {feasible} within its budgets"]
    for (one, several, why), n in left.items():
        lines.append(f"{n} {one if n == 1 else several} {why}")
    if new:
        total = len(before) + len(new)
        go_on = command(["resume", name, "--trials", str(2 * total)], storage)
        lines.append(f"they count among its trials, {total} now: evaluate more with {go_on}")
    return lines


def _read_csv(path: Path, metric: str, candidates: CandidateSpace) -> Iterator[_Known]:
    """Rows of a file with `architecture` and `policy` as JSON, or with a column a choice."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}.", "Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}).", "Give a CSV file in UTF-8.") from None
    rows = csv.DictReader(io.StringIO(text, newline=""))
    columns = set(rows.fieldnames or ())
    hint = f"Give {metric}, and architecture and policy as `nas pareto --csv` prints them, or a "
    hint += "column for each choice."
    if metric not in columns:
        raise UsageError(f"{path} has no column {metric}.", hint)
    if "architecture" not in columns and not columns & set(candidates.choices.names):
        raise UsageError(f"{path} does not say which networks it is of.", hint)
    for row in _readable(rows, path, hint):
        where = f"{path.name} line {rows.line_num}"
        try:
            if not row[metric] or row.get("state") in ("partial", "failed"):
                yield _Known({}, None, None, where)
                continue
            values = _values_of(row, candidates)
            quality = float(row[metric])
            noise = float(row.get(f"{metric}_noise") or math.nan)
            if noise < 0:
                raise ValueError(f"{metric}_noise is {noise:g}")
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(f"{where} cannot be read: {error}.", hint) from None
        if not 0 <= quality < (1.0 + 1e-9 if METRICS[metric] is ACCURACY else math.inf):
            raise UsageError(
                f"{where}: {metric} is {quality}.",
                "Give a share from 0 to 1 of accuracy, and leave failed evaluations out.",
            )
        yield _Known(values, quality, noise if math.isfinite(noise) else None, where)


def _readable(
    rows: csv.DictReader[str], path: Path, hint: str
) -> Iterator[dict[str | Any, str | Any]]:
    """The rows, as long as the file is CSV."""
    try:
        yield from rows
    except csv.Error as error:
        where = f"{path.name} line {rows.line_num}"
        raise UsageError(f"{where} cannot be read: {error}.", hint) from None


def _values_of(row: Mapping[str, str], candidates: CandidateSpace) -> dict[str, Any]:
    if row.get("architecture"):
        policy = json.loads(row["policy"]) if row.get("policy") else {}
        return {**json.loads(row["architecture"]), **policy}
    values: dict[str, Any] = {}
    for choice in candidates.choices.choices:
        text = row.get(choice.name)
        if text:
            # A column with gaps has its integers as 8.0 where pandas wrote it.
            floats = {str(float(v)): v for v in choice.values if isinstance(v, int)}
            named = floats | {str(value): value for value in choice.values}
            if text not in named:
                raise ValueError(f"{choice.name} cannot be {text}")
            values[choice.name] = named[text]
    return values


def _other_study(studies: Studies, study: StudyRecord, name: str) -> Iterator[_Known]:
    other = studies.find_study(name)
    if other.id == study.id:
        raise UsageError("a study cannot be imported into itself.", "Name another.")
    there, here = _shaping(studies, other), _shaping(studies, study)
    differs = [
        f"{field.replace('_', ' ')} is {there[field]} there, {here[field]} here"
        for field in here
        if there[field] != here[field]
    ]
    metric, theirs = metric_of(study.objectives).name, metric_of(other.objectives).name
    if metric != theirs:
        differs.append(f"it is judged by {theirs}")
    if differs:
        raise UsageError(
            f"qualities of {name!r} are not those of {study.name!r}: {'; '.join(differs)}.",
            "Only trials of the same space, data, supernet, runtime and native type can be told as "
            "known.",
        )
    for trial in studies.trials(other.id):
        values = {**trial.architecture, **trial.policy}
        quality = trial.quality if trial.state == "complete" else None
        yield _Known(values, quality, trial.quality_noise, f"trial {trial.number}")


def _shaping(studies: Studies, study: StudyRecord) -> dict[str, Any]:
    """What a quality depends on beside the candidate."""
    fields = ("space", "preset", "data", "supernet_digest", "runtime", "batch_size")
    first, *_ = profiles_of(studies, study).values()  # in whose arithmetic it is evaluated
    shaping = {f: getattr(study, f) for f in fields} | {"native_type": first.runtime.native}
    # Older versions kept a path to the data as it was typed.
    return shaping | {"data": full_name(study.data)}


def _new_trials(
    found: Iterable[_Known], before: list[TrialRecord], setting: Setting, source: str
) -> tuple[list[TrialRecord], Counter[Reason]]:
    """Trials that the study has not got, and how many others are left out for which reason."""
    candidates = setting.candidates
    there = {trial.key for trial in before}
    keys: set[str] = set()
    number = max((trial.number for trial in before), default=-1)
    new: list[TrialRecord] = []
    left: Counter[Reason] = Counter()
    for each in found:
        if each.quality is None:
            left[UNEVALUATED] += 1
            continue
        architecture = {k: v for k, v in each.values.items() if k in candidates.space.choices.names}
        policy = {k: str(v) for k, v in each.values.items() if k not in architecture}
        unknown = sorted(set(policy) - set(candidates.choices.names))
        if unknown:
            raise UsageError(
                f"{each.where} is no candidate: there is no choice {unknown[0]!r}.",
                f"See `nas spaces {candidates.space.name}`.",
            )
        if not set(policy.values()) <= set(candidates.schemes):
            left[FOREIGN] += 1
            continue
        try:
            genome = candidates.encode(architecture, policy)
        except NasError as error:
            raise UsageError(f"{each.where} is no candidate: {error.message}", error.hint) from None
        key = candidates.choices.keys(genome[None, :])[0]
        if key in there or key in keys:
            left[KNOWN if key in there else TWICE] += 1
            continue
        keys.add(key)
        number += 1
        new.append(
            TrialRecord(
                number=number,
                key=key,
                **setting.trial_fields(genome),
                quality=each.quality,
                quality_noise=each.noise,
                feasible=bool(setting.violation(genome[None, :])[0] <= 0),
                origin={"kind": "imported", "from": source, "where": each.where},
            )
        )
    return new, left


# --- publish ------------------------------------------------------------------------------------

OLD_CONSTRAINTS = "constraints"
"""Where Optuna kept constraints before version 5: it still reads them there, and optuna-dashboard
0.21 reads them nowhere else."""
NUMBER = "nas_trial"


def publish(name: str, url: str, storage: str = DEFAULT_STORAGE) -> list[str]:
    """Copy a study into an Optuna storage; what to say of it, line by line.

    Published again, only new trials are added. Excesses over the budgets are constraints. Partial
    trials are pruned ones there, with their estimate as an attribute.

    Args:
        name: of the study, there as here.
        url: of the Optuna storage.
        storage: of the study.

    Raises:
        NotFoundError: if there is no such study.
        UsageError: if the URL is none.
        StorageError: if the storage cannot be used, or has another study of that name.
    """
    import optuna

    study = open_study(name, storage)
    require_kept(url)
    with open_database(storage, create=False) as database:
        setting = setting_of(Studies(database), study.record)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        target = optuna.create_study(
            storage=optuna.storages.RDBStorage(url),
            study_name=name,
            directions=["maximize" if is_maximised(o) else "minimize" for o in study.objectives],
            load_if_exists=True,
        )
        there = {t.user_attrs.get(NUMBER): t.params for t in target.get_trials(deepcopy=False)}
        _refuse_other(target, hide_password(url), study, there)
        with warnings.catch_warnings():  # it has been experimental since Optuna 3.2
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            target.set_metric_names(study.objectives)
        target.set_user_attr("budgets", [str(budget) for budget in setting.budgets])
        new = [t for t in study.trials if t.number not in there]
        for trial in new:
            target.add_trial(_as_optuna(trial, setting, study.objectives))
    except NasError:
        raise
    except Exception as error:  # Optuna passes on what SQLAlchemy and the driver raise
        said = first_line(getattr(error, "orig", None) or error).rstrip(".")
        raise StorageError(
            f"the Optuna storage {hide_password(url)} cannot be used: {said}.",
            "Check that its server runs, and that the URL is right, such as sqlite:///optuna.db.",
        ) from None
    finally:
        optuna.logging.set_verbosity(verbosity)
    copied = f"{counted(len(new), 'trial')} of {name} published to {hide_password(url)}"
    return [
        f"{copied}, {len(there)} were there",
        f"look at them with: optuna-dashboard {hide_password(url)}",
    ]


def _refuse_other(
    target: optuna.Study, url: str, study: Study, there: Mapping[int | None, Mapping[str, Any]]
) -> None:
    """Refuse a study of that name with other objectives, or other candidates under the numbers."""
    named = target.metric_names
    wanted = [is_maximised(o) for o in study.objectives]
    directions = [d.name == "MAXIMIZE" for d in target.directions]
    other = any(
        t.number in there and there[t.number] != {**t.architecture, **t.policy}
        for t in study.trials
    )
    delete = shlex.join(["optuna", "delete-study", "--study-name", study.name, "--storage", url])
    if other or directions != wanted or (named and list(named) != study.objectives):
        raise StorageError(
            f"the Optuna storage has another study {target.study_name!r}.",
            f"Give another URL, or delete that study with `{delete}`.",
        )


def _as_optuna(
    trial: TrialRecord, setting: Setting, objectives: list[str]
) -> optuna.trial.FrozenTrial:
    """A trial with the values of its active choices as parameters."""
    import optuna

    values = {**trial.architecture, **trial.policy}
    kinds: dict[str, optuna.distributions.BaseDistribution] = {
        choice.name: optuna.distributions.CategoricalDistribution(choice.values)
        for choice in setting.candidates.choices.choices
        if choice.name in values
    }
    states = optuna.trial.TrialState
    state = {"complete": states.COMPLETE, "partial": states.PRUNED, "failed": states.FAIL}
    complete, columns = trial.state == "complete", front_columns(objectives)
    costs = [(trial.figure(b.column), b.limit) for b in setting.budgets]
    excess = [float(cost) / limit - 1.0 for cost, limit in costs if cost is not None]
    figures = ("quality_noise", "part_noise", "examples", "latency_ms", "latency_ms_upper",
               *ENERGY_FIGURES, "memory_bytes", "params", "weight_bytes", "macs", "reason",
               "seconds")  # fmt: skip
    attributes = {f: v for f in figures if (v := getattr(trial, f)) is not None}
    attributes |= flat_costs(trial.target_costs)
    if trial.state == "partial":
        attributes |= {"quality": trial.quality, "goal": trial.origin.get("goal")}
    made = optuna.trial.create_trial(
        state=state[trial.state],
        values=[float(trial.figure(c) or 0.0) for c in columns] if complete else None,
        params={name: values[name] for name in kinds},
        distributions=kinds,
        user_attrs={NUMBER: trial.number, "why": trial.origin.get("kind"), **attributes},
        system_attrs={OLD_CONSTRAINTS: excess} if excess else {},
    )
    # Optuna keeps local times without their zone.
    made.datetime_complete = trial.created_at.astimezone().replace(tzinfo=None)
    made.datetime_start = made.datetime_complete - timedelta(seconds=trial.seconds or 0.0)
    return made
