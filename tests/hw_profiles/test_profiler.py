"""The profiler: real small measurements, drift correction, and worker failures."""

from __future__ import annotations

import pytest

from hw_profiles.drift import Drift, slow_runs
from hw_profiles.errors import KilledError, MeasureError
from hw_profiles.harness import Harness
from hw_profiles.op import Op
from hw_profiles.profiler import (
    COPIES,
    Job,
    Reading,
    idle_job,
    measure,
    model_job,
    op_job,
    op_timings,
    timing,
    weighted_median,
)
from hw_profiles.runtimes.stopwatch import (
    WARM_UP_MOST,
    HostStopwatch,
    calls_of_window,
    time_calls,
    warm_up,
)
from hw_profiles.runtimes.worker import run

CPU = Harness()

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


@pytest.mark.parametrize("runtime", ["onnxruntime", "eager"])
def test_ops_are_measured_in_other_processes(runtime: str) -> None:
    ops = [op for op in OPS if runtime == "onnxruntime" or op.precision == "fp32"]
    harness = Harness(runtime)  # type: ignore[arg-type]
    jobs = [op_job(op, harness) for op in ops]
    told: list[float] = []
    found = measure(
        [idle_job(harness), *jobs],
        harness,
        processes=2,
        time_limit_s=30,
        progress=lambda text, share: told.append(share),
    )
    assert told == [0, 0.5]
    assert found.processes == 2
    assert len(found.anchor.relative) >= 10
    assert found.anchor.starts[0] == 0 < found.anchor.starts[1]
    assert found.anchor.times_s == sorted(found.anchor.times_s)
    assert 1e-3 < found.anchor.undisturbed_ms < 10
    assert found.timer == "host clock around each call"
    assert all(len(readings) == 2 for readings in found.jobs)
    timings = op_timings(ops, jobs, found.jobs[1:], idle_s=0.0)
    assert [t.op for t in timings] == ops
    for t in timings:
        assert 1e-5 < t.timing.median_ms < 50
        assert t.timing.processes == 2
        assert t.timing.repeats == 6


def test_time_that_is_up_leaves_jobs_without_readings() -> None:
    jobs = [op_job(OPS[0], CPU)] * 4
    found = measure(jobs, CPU, processes=1, time_limit_s=1e-9)
    assert found.jobs == [[], [], [], []]
    assert op_timings([OPS[0]] * 4, jobs, found.jobs, 0.0) == []


def test_a_worker_that_fails_is_told(tmp_path: pytest.TempPathFactory) -> None:
    missing = model_job(tmp_path / "no.onnx", CPU)  # type: ignore[operator]
    with pytest.raises(MeasureError, match="refuses the model"):
        measure([missing], CPU, processes=1)


def test_a_worker_that_a_signal_ends_is_told_apart() -> None:
    with pytest.raises(KilledError, match="ended by SIGABRT"):
        measure([Job("os:abort", {})], CPU, processes=1)


def test_each_job_has_its_turns_spread_over_the_rounds() -> None:
    def job(turns: int) -> dict[str, object]:
        factory = "hw_profiles.runtimes.onnxruntime:idle_call"
        return {"factory": factory, "arguments": {}, "budget_s": 1e-4, "turns": turns, "hold": True}

    answer = run({"jobs": [job(1), job(3), job(6)], "anchor": job(1), "seed": 0, "time_limit_s": 9})
    assert [len(readings) for readings in answer["jobs"]] == [1, 3, 6]
    assert answer["anchor"][0][0] < answer["jobs"][2][0][0]


class Script:
    """A stopwatch whose windows take what a test says, a call at a time."""

    title, first_s = "script", 0.0

    def __init__(self, seconds: list[float], least_s: float = 0.0) -> None:
        self.seconds, self.least_s = seconds, least_s
        self.windows: list[int] = []
        self.clock_s = 0.0

    def now(self) -> float:
        return self.clock_s

    def window(self, call: object, calls: int) -> float:
        took = calls * self.seconds[min(len(self.windows), len(self.seconds) - 1)]
        self.windows.append(calls)
        self.clock_s += took
        return took


def test_calls_are_repeated_within_their_bounds() -> None:
    calls: list[int] = []
    median, spread = time_calls(HostStopwatch(), lambda: calls.append(1), budget_s=0.0)
    assert len(calls) == 3
    assert median > 0
    assert spread >= 0
    calls.clear()
    time_calls(HostStopwatch(), lambda: calls.append(1), budget_s=60.0, most=7)
    assert len(calls) == 7


def test_windows_are_long_enough_for_the_stopwatch() -> None:
    script = Script([2e-6], least_s=1e-3)
    assert calls_of_window(script, 2e-6) == 500
    assert calls_of_window(HostStopwatch(), 2e-6) == 1
    median, spread = time_calls(script, list, 0.01, calls=500)
    assert median == pytest.approx(2e-6)
    assert spread == 0
    assert set(script.windows) == {500}


def test_a_call_that_takes_no_time_at_all_has_no_spread() -> None:
    assert time_calls(Script([0.0], least_s=0.0), list, 0.0) == (0.0, 0.0)


def test_a_call_is_warm_when_its_windows_agree() -> None:
    slowing_down = Script([0.9, 0.3, 0.1, 0.011, 0.0101, 0.01, 0.01, 0.01])
    warm_up(slowing_down, list)
    assert len(slowing_down.windows) == 7  # three within 5 %
    brief = Script([1e-5])
    warm_up(brief, list)
    assert sum(brief.windows) * 1e-5 >= 0.002
    restless = Script([0.01 * (1 + i % 2) for i in range(200)])
    warm_up(restless, list)
    assert len(restless.windows) == WARM_UP_MOST + 1


def test_a_first_window_that_compiles_does_not_set_their_length() -> None:
    script = Script([5.0, 1e-5], least_s=1e-3)
    assert warm_up(script, list) == 100


def test_speed_is_that_of_the_anchor_around_a_moment() -> None:
    drift = Drift([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [3.0, 2.0], [4.0, 2.0], [5.0, 2.0]], 1.0)
    assert drift.at(0.5) == 1.0
    assert drift.at(4.5) == 2.0
    assert drift.at(2.5) == 1.5
    assert drift.at(99.0) == 2.0
    assert [drift.slow(when) for when in (0.5, 2.5, 4.5, 99.0)] == [False, True, True, True]


def test_single_slow_readings_are_no_run() -> None:
    assert slow_runs([1.0, 1.5, 1.0, 1.5, 1.5, 1.0]) == [False] * 6
    assert slow_runs([1.5] * 3 + [1.0]) == [True] * 3 + [False]
    assert slow_runs([]) == []


def test_calm_readings_count_most() -> None:
    assert weighted_median([1.0, 1.0, 5.0, 5.0, 5.0], [1.0, 1.0, 0.1, 0.1, 0.1]) == 1.0
    assert weighted_median([3.0], [0.2]) == 3.0


def test_a_timing_is_the_median_over_processes_less_the_idle_call() -> None:
    readings = [Reading(s, 0.02, 3, 2) for s in (9e-3, 1e-3, 1.2e-3)]
    found = timing(readings, copies=8, idle_s=4e-4)
    assert found.median_ms == pytest.approx(0.1)
    assert (found.repeats, found.processes) == (9, 3)
    assert found.spread_between > 0.5
    assert not found.unstable
    assert timing(readings[:1]).spread_between == 0.0
    assert timing([Reading(1.0, 0.02, 3, 1)]).unstable


def test_a_large_op_is_timed_once_a_call() -> None:
    assert op_job(Op("linear", (197, 1024, 1024)), CPU).copies == 1
    assert isinstance(op_job(OPS[0], CPU), Job)
    assert op_job(OPS[0], CPU).copies == COPIES
