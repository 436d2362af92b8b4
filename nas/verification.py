"""Predicted against real: the front's networks run and timed in the target's runtime."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from nas.data.dataset import Part
from nas.equipment import Equipment
from nas.errors import MeasureError
from nas.events import Event, Listener
from nas.export.onnx import check_quantized
from nas.export.subnet import run_onnx
from nas.profiling import Measured, measure_models
from nas.storage.records import MeasurementRecord
from nas.study import Study

#: Real and simulated decisions are compared on so many examples of the validation part, or on as
#: many as give so many decisions: a text has one a token.
AGREEMENT_EXAMPLES = 1000
AGREEMENT_DECISIONS = 10_000
PROCESSES = 4


Measure = Callable[[Sequence[onnx.ModelProto], int, int], Measured]
"""Models, threads and processes -> a timing of each model, in one session."""


def compared_inputs(part: Part) -> Tensor:
    """The examples of a part on which decisions are compared, as network input, (n, ...)."""
    decisions = part.batch(torch.arange(1))[1].numel()  # of an example
    enough = min(AGREEMENT_EXAMPLES, math.ceil(AGREEMENT_DECISIONS / decisions), len(part))
    return part.batch(torch.arange(enough))[0]


def verify_front(
    study: Study, equipment: Equipment, listener: Listener, measure: Measure | None = None
) -> list[MeasurementRecord]:
    """Run every exported network of a front for real.

    Its quantized operators must be in the graph that the session runs, its decisions are compared
    with the simulated ones, and it is timed in several processes beside the others.

    Args:
        study: whose front was exported.
        equipment: that it was evaluated with; the profile is of the machine that times, and its
            runtime and threads are used.
        listener: told of the progress.
        measure: times models elsewhere; here unless given. Decisions are compared here.

    Raises:
        MeasureError: if a network is not there or cannot be timed.
        ExportError: if an operator of a policy is missing.
    """
    candidates, evaluator, profile = equipment.candidates, equipment.evaluator, equipment.profile
    trials = {row.trial: row.exported for row in study.front}
    front = study.front_trials()
    paths = [Path(str(trials[t.number])) / "model.onnx" for t in front]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise MeasureError(
            f"{missing[0]} is not there.", f"Write it with `nas export {study.name}`."
        )
    agreements, models = [], []
    part, groups = equipment.data.validation, candidates.space.group_modules()
    inputs = compared_inputs(part)
    for done, (trial, path) in enumerate(zip(front, paths, strict=True)):
        listener(Event("verify", f"decisions of trial {trial.number}", done, 2 * len(front)))
        candidate = candidates.decode(np.array(trial.genome))
        models.append(onnx.load(path))
        check_quantized(models[-1], candidate.policy, groups, profile.runtime.name)
        simulated = evaluator.logits(candidate, part, len(inputs)).argmax(-1)
        fitted = candidates.space.fit_input(candidate.architecture, inputs)
        decided = run_onnx(path, fitted, evaluator.batch_size).argmax(-1)
        agreements.append(float((simulated == decided).double().mean()))

    def here(models: Sequence[onnx.ModelProto], threads: int, processes: int) -> Measured:
        return measure_models(
            models,
            threads=threads,
            processes=processes,
            progress=lambda text, share: listener(
                Event("verify", text, len(front) * (1 + share), 2 * len(front))
            ),
        )

    measured = (measure or here)(models, profile.runtime.threads, PROCESSES)
    anchor = profile.anchor
    slowness = measured.undisturbed_ms / anchor.undisturbed_ms if anchor else None
    listener(Event("verify", "done", 2 * len(front), 2 * len(front)))
    records = []
    for trial, timed, agreement in zip(front, measured.timings, agreements, strict=True):
        records.append(
            MeasurementRecord(
                trial_id=trial.id,
                quantity="latency_ms",
                value=timed.median_ms,
                spread_within=timed.spread_within * timed.median_ms,
                spread_between=timed.spread_between * timed.median_ms,
                repeats=timed.repeats,
                processes=timed.processes,
                device=profile.device.name,
                runtime=f"{profile.runtime.name} {profile.runtime.version}",
                precision=candidates.describe_policy(trial.policy),
                batch_size=study.record.batch_size,
                threads=profile.runtime.threads,
                agreement=agreement,
                slowness=slowness,
            )
        )
    return records
