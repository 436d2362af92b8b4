"""The trials of a study: asked for, evaluated, committed one by one."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nas.candidate import CandidateSpace
from nas.data.dataset import Dataset
from nas.data.metric import METRICS
from nas.engine.loop import Evaluated, EvaluationFailed, run_search
from nas.engine.problem import Objective, Problem
from nas.evaluation import EvaluationError, Evaluator
from nas.events import Event, Listener
from nas.request import SearchRequest
from nas.setting import Setting
from nas.storage.records import StudyRecord, TrialRecord
from nas.storage.studies import Studies
from nas.study import OBJECTIVES
from search_spaces.choices import Genomes


def problem_of(request: SearchRequest, setting: Setting) -> Problem:
    """The request as a search problem: costs are known, the quality is evaluated."""
    columns = {name: OBJECTIVES[name] for name in request.objectives}

    def costs(genomes: Genomes) -> dict[str, NDArray[np.float64]]:
        found = setting.costs_of(genomes)
        return {name: found[c] for name, (c, _) in columns.items() if name not in METRICS}

    def features(genomes: Genomes) -> NDArray[np.float64]:
        found = setting.costs_of(genomes)
        names = ("latency_ms", "params", "weight_bytes", "macs")
        return np.log(np.stack([found[name] for name in names], axis=1))

    return Problem(
        choices=setting.candidates.choices,
        objectives=tuple(
            Objective(name, more, known=name not in METRICS) for name, (_, more) in columns.items()
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
    evaluator: Evaluator,
    data: Dataset,
    listener: Listener,
) -> None:
    """Ask, evaluate, commit, until the study has its trials."""
    started: dict[int, float] = {}
    metric = data.metric
    found_noise: dict[int, float] = {}
    qualities: list[float] = []

    def evaluate(genome: NDArray[np.int64], number: int) -> dict[str, float]:
        started[number] = time.perf_counter()
        candidate = setting.candidates.decode(genome)
        try:
            value, found_noise[number] = evaluator.quality(candidate, data.validation, metric)
        except (EvaluationError, MemoryError) as error:
            raise EvaluationFailed(str(error) or type(error).__name__) from error
        return {metric.name: value}

    def record(found: Evaluated) -> None:
        candidate = setting.candidates.decode(found.genome)
        costs = {k: float(v[0]) for k, v in setting.costs_of(found.genome[None, :]).items()}
        begun = started.get(found.number, time.perf_counter())
        studies.add_trial(
            study.id,
            TrialRecord(
                number=found.number,
                key=found.key,
                genome=tuple(int(g) for g in found.genome),
                architecture=dict(candidate.architecture),
                policy=dict(candidate.policy),
                state=found.state,
                reason=found.origin.get("reason"),
                quality=found.values.get(metric.name),
                quality_noise=found_noise.get(found.number),
                latency_ms=costs["latency_ms"],
                latency_ms_upper=costs["latency_ms_upper"],
                memory_bytes=round(costs["memory_bytes"]),
                params=round(costs["params"]),
                weight_bytes=round(costs["weight_bytes"]),
                macs=round(costs["macs"]),
                feasible=found.feasible,
                origin=found.origin,
                seconds=time.perf_counter() - begun,
            ),
        )
        if metric.name in found.values:
            qualities.append(found.values[metric.name])
        text = f"trial {found.number + 1} of {request.trials}"
        if qualities:
            best = max(qualities) if metric.larger_is_better else min(qualities)
            text += f", best {metric.title} {metric.format(best)}"
        listener(Event("search", text, found.number + 1, request.trials))

    def past(trial: TrialRecord) -> Evaluated:
        values = {} if trial.quality is None else {metric.name: trial.quality}
        return Evaluated(
            number=trial.number,
            genome=np.array(trial.genome, dtype=np.int64),
            key=trial.key,
            values=values,
            feasible=trial.feasible,
            state=trial.state,
            origin=trial.origin,
        )

    run_search(
        problem_of(request, setting),
        request.sampler,
        trials=request.trials,
        seed=request.seed,
        history=[past(t) for t in studies.trials(study.id)],
        evaluate=evaluate,
        record=record,
    )


def with_test_quality(
    studies: Studies,
    trial: TrialRecord,
    candidates: CandidateSpace,
    evaluator: Evaluator,
    data: Dataset,
) -> TrialRecord:
    """A trial of the front with its quality on the test part, which no search saw."""
    if trial.quality_test is not None:
        return trial
    candidate = candidates.decode(np.array(trial.genome))
    found, _ = evaluator.quality(candidate, data.test, data.metric)
    studies.set_quality_test(trial.id, found)
    return replace(trial, quality_test=found)
