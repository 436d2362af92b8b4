"""The trials of a study: asked for, evaluated, committed as they arrive."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.data.metric import METRICS, Metric
from nas.engine.loop import Evaluated, run_search
from nas.engine.problem import Objective, Problem
from nas.equipment import Equipment, work_of
from nas.errors import StorageUnavailable
from nas.evaluation import EXAMPLES, NOISE, SECONDS_SAVED, evaluating
from nas.events import Event, Listener
from nas.executors.registry import open_executor, threads_of
from nas.report.standing import Standing
from nas.request import RunOptions, SearchRequest
from nas.setting import Setting
from nas.storage.patience import Result, patiently
from nas.storage.records import StudyRecord, TrialRecord
from nas.storage.studies import Studies
from nas.study import ended_line, is_maximised, judged_column
from search_spaces.choices import Genomes

NONE_LEFT = (
    "no unseen candidate that meets the budgets was found; larger budgets make room for some"
)


def problem_of(request: SearchRequest, setting: Setting) -> Problem:
    """The request as a search problem: costs are known, the quality is evaluated."""
    columns = {name: judged_column(name) for name in request.objectives if name not in METRICS}

    def costs(genomes: Genomes) -> dict[str, NDArray[np.float64]]:
        found = setting.costs_of(genomes)
        return {name: found[column] for name, column in columns.items()}

    def features(genomes: Genomes) -> NDArray[np.float64]:
        found = setting.costs_of(genomes)
        names = ("latency_ms", "params", "weight_bytes", "macs")
        return np.log(np.stack([found[name] for name in names], axis=1))

    return Problem(
        choices=setting.candidates.choices,
        objectives=tuple(
            Objective(name, is_maximised(name), known=name in columns)
            for name in request.objectives
        ),
        costs=costs,
        violation=setting.violation,
        features=features,
    )


def run_trials(
    studies: Studies,
    study: StudyRecord,
    request: SearchRequest,
    setting: Setting,
    equipment: Equipment,
    options: RunOptions,
    listener: Listener,
) -> dict[str, Any] | None:
    """Ask, evaluate, commit each trial as it arrives, until the study has its trials.

    It ends before them when the time of this run is over or the front no longer grows, as the
    options say, or when nothing is left to be evaluated.

    Returns:
        Of an end before the last trial, as plain data: the trials `after` which it came, how many
        were asked for as `of`, `by` what, and whether it is `final`: more trials cannot be had.

    Raises:
        StorageError: if a trial cannot be committed; a database that only does not answer is
            waited for.
        ExecutorError: if the workers cannot be started or reached.
    """
    data = equipment.data
    metric = data.metric
    begun = time.monotonic()
    past = studies.trials(study.id)
    standing = Standing(study, request.trials, past)
    ended_by: list[str] = []

    def record(found: Evaluated) -> None:
        trial = _record_of(found, setting, metric)
        waited(lambda: studies.add_trial(study.id, trial), listener)
        standing.add(trial, time.monotonic())
        listener(standing.event())

    def should_stop() -> bool:
        if options.time_s is not None and time.monotonic() - begun >= options.time_s:
            ended_by[:] = [f"{options.time_s:g} seconds are over"]
        elif options.flat is not None and options.flat.reached(standing.hypervolumes):
            ended_by[:] = [str(options.flat)]
        return bool(ended_by)

    look = request.first_look
    here = evaluating(equipment.evaluator, setting.candidates, data.validation, metric, look)
    work = work_of(equipment, threads_of(options.workers), look)
    with open_executor(options.executor, options.workers, here, work) as executor:
        trials = run_search(
            problem_of(request, setting),
            request.sampler,
            trials=request.trials,
            seed=request.seed,
            history=[_past(trial, metric) for trial in past],
            evaluate=executor,
            record=record,
            should_stop=should_stop,
        )
    if len(trials) >= request.trials:
        return None
    by = ended_by[0] if ended_by else NONE_LEFT
    ended = {"after": len(trials), "of": request.trials, "by": by, "final": not ended_by}
    if ended_by:  # the other end is logged by the loop
        listener(Event("note", ended_line(ended)))
    return ended


def waited(call: Callable[[], Result], listener: Listener) -> Result:
    """What a call to the database returns; one that does not answer is waited for, and that said.

    Raises:
        StorageError: if it is still away after two minutes, or any other fault.
    """

    def say(away: StorageUnavailable) -> None:
        listener(Event("note", f"waiting for the database: {away.message}"))

    return patiently(call, say)


def _record_of(found: Evaluated, setting: Setting, metric: Metric) -> TrialRecord:
    """A trial as it is stored, with every cost of its candidate."""
    examples = found.details.get(EXAMPLES)
    return TrialRecord(
        number=found.number,
        key=found.key,
        **setting.trial_fields(found.genome),
        state=found.state,
        reason=found.origin.get("reason"),
        quality=found.values.get(metric.name),
        quality_noise=found.details.get(NOISE),
        part_noise=found.noise if found.state == "partial" else None,
        examples=None if examples is None else round(examples),
        feasible=found.feasible,
        origin=found.origin,
        seconds=found.seconds,
        seconds_saved=found.details.get(SECONDS_SAVED),
    )


def _past(trial: TrialRecord, metric: Metric) -> Evaluated:
    """A stored trial as the search takes it."""
    return Evaluated(
        number=trial.number,
        genome=np.array(trial.genome, dtype=np.int64),
        key=trial.key,
        values={} if trial.quality is None else {metric.name: trial.quality},
        feasible=trial.feasible,
        state=trial.state,
        origin=trial.origin,
        seconds=trial.seconds,
        noise=trial.part_noise or 0.0,
    )


def with_test_quality(
    studies: Studies,
    trial: TrialRecord,
    equipment: Equipment,
    listener: Listener,
) -> TrialRecord:
    """A trial of the front with its quality on the test part, which no search saw."""
    if trial.quality_test is not None:
        return trial
    candidate = equipment.candidates.decode(np.array(trial.genome))
    data = equipment.data
    found, _ = equipment.evaluator.quality(candidate, data.test, data.metric)
    waited(lambda: studies.set_quality_test(trial.id, found), listener)
    return replace(trial, quality_test=found)
