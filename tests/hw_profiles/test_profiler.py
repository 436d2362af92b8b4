"""The profiler: real small measurements, drift correction, and worker failures."""

from __future__ import annotations

import pytest

from hw_profiles.errors import MeasureError
from hw_profiles.op import Op
from hw_profiles.profiler import (
    COPIES,
    Job,
    Reading,
    _Speed,
    idle_job,
    measure,
    model_job,
    op_job,
    op_timings,
    timing,
    weighted_median,
)
from hw_profiles.runtimes.worker import run, time_calls

OPS = [
    Op("linear", (17, 64, 64)),
    Op("linear", (17, 16, 48), "int8"),
    Op("linear", (17, 24, 48), "int4_wo"),
    Op("attention", (1, 2, 17, 17, 16)),
    Op("layer_norm", (17, 64)),
    Op("gelu", (17, 64)),
    Op("add", (17, 64)),
    Op("copy", (17, 64)),
    Op("conv2d", (1, 1, 8, 8, 16, 2, 2, 0, 1)),
    Op("conv2d", (1, 16, 8, 8, 16, 3, 1, 1, 16)),
    Op("conv1d", (1, 8, 100, 8, 3, 2, 0, 1)),
    Op("embedding", (17, 256, 64)),
]


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_ops_are_measured_in_other_processes(runtime: str) -> None:
    ops = [op for op in OPS if runtime == "onnxruntime" or op.precision == "fp32"]
    jobs = [op_job(op, runtime, 1) for op in ops]
    told: list[float] = []
    found = measure(
        [idle_job(runtime, 1), *jobs],
        runtime,
        processes=2,
        time_limit_s=30,
        progress=lambda text, share: told.append(share),
    )
    assert told == [0, 0.5]
    assert found.processes == 2
    assert len(found.anchor) >= 10
    assert all(len(readings) == 2 for readings in found.jobs)
    timings = op_timings(ops, jobs, found.jobs[1:], idle_s=0.0)
    assert [t.op for t in timings] == ops
    for t in timings:
        assert 1e-5 < t.timing.median_ms < 50
        assert t.timing.processes == 2
        assert t.timing.repeats == 6


def test_time_that_is_up_leaves_jobs_without_readings() -> None:
    jobs = [op_job(OPS[0], "onnxruntime", 1)] * 4
    found = measure(jobs, "onnxruntime", processes=1, time_limit_s=1e-9)
    assert found.jobs == [[], [], [], []]
    assert op_timings([OPS[0]] * 4, jobs, found.jobs, 0.0) == []


def test_a_worker_that_fails_is_told(tmp_path: pytest.TempPathFactory) -> None:
    missing = model_job(tmp_path / "no.onnx", 1)  # type: ignore[operator]
    with pytest.raises(MeasureError, match="refuses the model"):
        measure([missing], "onnxruntime", processes=1)


def test_each_job_has_its_turns_spread_over_the_rounds() -> None:
    def job(turns: int) -> dict[str, object]:
        factory = "hw_profiles.runtimes.onnxruntime:idle_call"
        return {"factory": factory, "arguments": {}, "budget_s": 1e-4, "turns": turns, "hold": True}

    answer = run({"jobs": [job(1), job(3), job(6)], "anchor": job(1), "seed": 0, "time_limit_s": 9})
    assert [len(readings) for readings in answer["jobs"]] == [1, 3, 6]
    assert answer["anchor"][0][0] < answer["jobs"][2][0][0]


def test_calls_are_repeated_within_their_bounds() -> None:
    calls: list[int] = []
    median, spread = time_calls(lambda: calls.append(1), budget_s=0.0, least=5)
    assert len(calls) == 5
    assert median > 0
    assert spread >= 0
    calls.clear()
    time_calls(lambda: calls.append(1), budget_s=60.0, most=7)
    assert len(calls) == 7


def test_speed_is_that_of_the_anchor_around_a_moment() -> None:
    speed = _Speed([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [3.0, 2.0], [4.0, 2.0], [5.0, 2.0]], 1.0)
    assert speed.at(0.5) == 1.0
    assert speed.at(4.5) == 2.0
    assert speed.at(2.5) == 1.5
    assert speed.at(99.0) == 2.0


def test_calm_readings_count_most() -> None:
    assert weighted_median([1.0, 1.0, 5.0, 5.0, 5.0], [1.0, 1.0, 0.1, 0.1, 0.1]) == 1.0
    assert weighted_median([3.0], [0.2]) == 3.0


def test_a_timing_is_the_median_over_processes_less_the_idle_call() -> None:
    readings = [Reading(s, 0.02, 3) for s in (9e-3, 1e-3, 1.2e-3)]
    found = timing(readings, copies=COPIES, idle_s=4e-4)
    assert found.median_ms == pytest.approx(0.1)
    assert (found.repeats, found.processes) == (9, 3)
    assert found.spread_between > 0.5
    assert timing(readings[:1]).spread_between == 0.0


def test_a_large_op_is_timed_once_a_call() -> None:
    assert op_job(Op("linear", (197, 1024, 1024)), "onnxruntime", 1).copies == 1
    assert isinstance(op_job(OPS[0], "onnxruntime", 1), Job)
    assert op_job(OPS[0], "onnxruntime", 1).copies == COPIES
