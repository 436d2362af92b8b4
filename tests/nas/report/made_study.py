"""A study that was put together by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import search_spaces
from nas.candidate import CandidateSpace
from nas.storage.records import MeasurementRecord, StudyRecord, TrialRecord
from nas.study import Study

CANDIDATES = CandidateSpace(search_spaces.get("vit", "digits"), ("fp32", "int8"))
RECORD = StudyRecord(
    name="s", space="vit", preset="digits", target="cpu", runtime="onnxruntime", batch_size=1,
    data="digits-hard", objectives=["accuracy", "latency"], budgets=["latency<=1ms"], seed=0,
    sampler="guided", supernet_fingerprint="f", supernet_digest="d", version="0", id=1,
    request={
        "n_classes": 10, "in_channels": 1, "schemes": ["fp32", "int8"],
        "limits": [{"quantity": "latency", "limit": 1.0}],
    },
)  # fmt: skip


def trial(number: int, accuracy: float | None, latency: float, **more: object) -> TrialRecord:
    rng = np.random.default_rng(number)
    candidate = CANDIDATES.decode(CANDIDATES.choices.sample(1, rng)[0])
    made = TrialRecord(
        number=number, key=str(number), genome=(0,), architecture=dict(candidate.architecture),
        policy=dict(candidate.policy), quality=accuracy, latency_ms=latency,
        latency_ms_upper=1.1 * latency, memory_bytes=1000, params=2000, weight_bytes=500,
        macs=9, feasible=True, id=100 + number,
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


TRIALS = (
    trial(0, 0.9, 0.5),
    trial(1, 0.8, 0.2),
    trial(2, 0.7, 0.3),  # dominated by 1
    trial(3, 0.99, 0.9, feasible=False),
    trial(4, None, 0.1, state="failed", reason="no number"),
)
PARTIAL = trial(
    5, 0.95, 0.15, state="partial", quality_noise=0.02, part_noise=0.012, examples=1000,
    seconds=1.0, seconds_saved=3.0, origin={"kind": "exploit", "goal": 0.97},
)  # fmt: skip
MEASURED = MeasurementRecord(
    101, "latency_ms", 0.21, 0.01, 0.01, 9, 3, "this", "onnxruntime", "fp32", 1, 1, agreement=0.999
)
STUDY = Study(RECORD, TRIALS, (replace(MEASURED, value=0.4, id=1), replace(MEASURED, id=2)))
