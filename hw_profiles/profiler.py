"""Timing many calls over several processes, with an anchor that tells when the machine drifts."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw_profiles.errors import MeasureError
from hw_profiles.op import Op
from hw_profiles.profile import OpTiming, Timing

#: A round is left out where the anchor was slower than its usual by this factor.
SLOW = 1.1
#: Copies of a small op in one call, so that the call itself weighs little.
COPIES = 8
_SMALL_MACS, _SMALL_ELEMENTS = 2_000_000, 200_000

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Job:
    """A call to time.

    Attributes:
        factory: `module:function` that makes the call in a worker.
        arguments: of the factory, plain data.
        budget_s: time for repeats in a round.
        copies: by which a reading is divided.
        hold: keep the call between rounds (networks, whose sessions are dear to open).
    """

    factory: str
    arguments: Mapping[str, Any]
    budget_s: float = 0.008
    copies: int = 1
    hold: bool = False


@dataclass(frozen=True)
class Reading:
    """What one process found for a job: seconds, and the relative spread of repeats."""

    seconds: float
    spread: float
    rounds: int


@dataclass(frozen=True)
class Readings:
    """All processes' readings.

    Attributes:
        jobs: for each job its readings, one a process; empty where time ran out before it.
        anchor: readings of the anchor in order, relative to their median.
        processes: that ran.
    """

    jobs: list[list[Reading]]
    anchor: list[float]
    processes: int


def op_job(op: Op, runtime: str, threads: int, budget_s: float = 0.006) -> Job:
    """The job that times an op: several copies of a small one."""
    small = op.macs <= _SMALL_MACS and op.reads + op.writes <= _SMALL_ELEMENTS
    copies = COPIES if small else 1
    arguments = {
        "kind": op.kind,
        "shape": list(op.shape),
        "precision": op.precision,
        "copies": copies,
        "threads": threads,
    }
    return Job(f"hw_profiles.runtimes.{runtime}:op_call", arguments, budget_s, copies)


def idle_job(runtime: str, threads: int) -> Job:
    """The job that times a call which computes nothing."""
    return Job(f"hw_profiles.runtimes.{runtime}:idle_call", {"threads": threads}, hold=True)


def model_job(path: Path, threads: int, budget_s: float = 0.012) -> Job:
    """The job that times an ONNX model file."""
    arguments = {"path": str(path), "threads": threads}
    factory = "hw_profiles.runtimes.onnxruntime:model_call"
    return Job(factory, arguments, budget_s, hold=True)


def measure(
    jobs: Sequence[Job],
    anchor: Job,
    *,
    processes: int = 3,
    rounds: int = 2,
    threads: int = 1,
    time_limit_s: float = 60.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Readings:
    """Time every job in several processes, one after another.

    Args:
        jobs: what to time.
        anchor: read between the jobs, all along.
        processes: drift between processes is larger than the spread inside one.
        rounds: of all jobs in each process, each in another order.
        threads: of each worker's own arithmetic libraries.
        time_limit_s: for all processes together.
        seed: of the orders.
        progress: told a line and the share done.

    Raises:
        MeasureError: if a worker fails.
    """
    request = {
        "jobs": [_as_json(job) for job in jobs],
        "anchor": _as_json(anchor),
        "rounds": rounds,
    }
    end = time.monotonic() + time_limit_s
    found: list[list[Reading]] = [[] for _ in jobs]
    anchors: list[float] = []
    for process in range(processes):
        if progress:
            progress(f"process {process + 1} of {processes}", process / processes)
        left = (end - time.monotonic()) / (processes - process)
        answer = _worker(request | {"seed": seed + process, "time_limit_s": left}, threads)
        usual = statistics.median(answer["anchor"])
        anchors += answer["anchor"]
        for readings, results in zip(found, answer["jobs"], strict=True):
            if results:
                readings.append(_reading(results, usual))
    overall = statistics.median(anchors)
    return Readings(found, [a / overall for a in anchors], processes)


def _as_json(job: Job) -> dict[str, Any]:
    return {
        "factory": job.factory,
        "arguments": dict(job.arguments),
        "budget_s": job.budget_s,
        "hold": job.hold,
    }


def _reading(results: list[list[float]], usual_anchor: float) -> Reading:
    """The median over the rounds in which the machine was not slow."""
    calm = [r for r in results if r[2] <= SLOW * usual_anchor] or results
    return Reading(
        statistics.median(r[0] for r in calm), statistics.median(r[1] for r in calm), len(calm)
    )


def _worker(request: dict[str, Any], threads: int) -> dict[str, Any]:
    """Run one worker process and read its answer."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "jobs.json", Path(folder) / "results.json"
        asked.write_text(json.dumps(request))
        command = [sys.executable, "-m", "hw_profiles.runtimes.worker", str(asked), str(answered)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not answered.exists():
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise MeasureError(
                f"a measuring process failed ({said}).", "Check the versions: `nas doctor`."
            )
        answer: dict[str, Any] = json.loads(answered.read_text())
    return answer


def timing(readings: Sequence[Reading], copies: int = 1, idle_s: float = 0.0) -> Timing:
    """Median over processes, in ms, of readings less the idle call, divided by the copies.

    Raises:
        ValueError: if there are no readings.
    """
    seconds = [max((r.seconds - idle_s) / copies, 1e-8) for r in readings]
    median = statistics.median(seconds)
    between = statistics.stdev(seconds) / median if len(seconds) > 1 else 0.0
    return Timing(
        median_ms=1e3 * median,
        spread_within=statistics.median(r.spread for r in readings),
        spread_between=between,
        repeats=sum(r.rounds for r in readings),
        processes=len(readings),
    )


def op_timings(
    ops: Sequence[Op], jobs: Sequence[Job], readings: Sequence[Sequence[Reading]], idle_s: float
) -> list[OpTiming]:
    """Timings of the ops that were reached before time ran out."""
    return [
        OpTiming(
            kind=op.kind,
            shape=op.shape,
            precision=op.precision,
            timing=timing(found, job.copies, idle_s),
        )
        for op, job, found in zip(ops, jobs, readings, strict=True)
        if found
    ]
