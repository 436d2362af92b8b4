"""Timing many calls over several processes, corrected by an anchor for the machine's drift.

One fixed workload, the anchor, is read all along. Where the machine is slower for a while (a busy
neighbour, a lower clock), the anchor is so too, and readings are divided by its slowness: they are
those of the undisturbed machine.
"""

from __future__ import annotations

import bisect
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

import numpy as np

from hw_profiles.errors import MeasureError
from hw_profiles.op import Op
from hw_profiles.profile import OpTiming, Timing

#: Share of the anchor's readings that are faster than what counts as the undisturbed machine.
UNDISTURBED = 0.05
NETWORK_TURNS = 8
#: Anchor readings before and after a moment whose median is the speed of the machine then.
NEAR = 1
#: A reading weighs as the machine's slowness to minus this power: calm ones count most.
CALMNESS = 3
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
        budget_s: time for repeats in a turn.
        turns: readings in each process, spread over its time.
        copies: by which a reading is divided.
        hold: keep the call between turns, unless its memory is large.
    """

    factory: str
    arguments: Mapping[str, Any]
    budget_s: float = 0.006
    turns: int = 3
    copies: int = 1
    hold: bool = False


@dataclass(frozen=True)
class Reading:
    """What one process found for a job: seconds less drift, and the spread of repeats."""

    seconds: float
    spread: float
    turns: int


@dataclass(frozen=True)
class Readings:
    """All processes' readings.

    Attributes:
        jobs: for each job its readings, one a process; empty where time ran out before it.
        anchor: readings of the anchor in order, relative to the undisturbed machine.
        processes: that ran.
    """

    jobs: list[list[Reading]]
    anchor: list[float]
    processes: int


def op_job(op: Op, runtime: str, threads: int) -> Job:
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
    factory = f"hw_profiles.runtimes.{runtime}:op_call"
    return Job(factory, arguments, copies=copies, hold=small)


def idle_job(runtime: str, threads: int) -> Job:
    """The job that times a call which computes nothing."""
    return Job(f"hw_profiles.runtimes.{runtime}:idle_call", {"threads": threads}, hold=True)


def anchor_job(runtime: str, threads: int) -> Job:
    """The fixed mix of ops whose time tells how fast the machine is just now."""
    return Job(f"hw_profiles.runtimes.{runtime}:mix_call", {"threads": threads}, hold=True)


def network_job(factory: str, arguments: Mapping[str, Any]) -> Job:
    """The job that times a whole network, which a profile rests on most."""
    return Job(factory, arguments, budget_s=0.01, turns=NETWORK_TURNS, hold=True)


def model_job(path: Path, threads: int) -> Job:
    """The job that times an ONNX model file."""
    arguments = {"path": str(path), "threads": threads}
    return network_job("hw_profiles.runtimes.onnxruntime:model_call", arguments)


def measure(
    jobs: Sequence[Job],
    runtime: str,
    *,
    processes: int = 3,
    threads: int = 1,
    time_limit_s: float = 60.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Readings:
    """Time every job in several processes, one after another.

    Args:
        jobs: what to time.
        runtime: whose anchor is read between the jobs, all along.
        processes: drift between processes is larger than the spread inside one.
        threads: of each worker's own arithmetic libraries.
        time_limit_s: for all processes together.
        seed: of the orders of the jobs.
        progress: told a line and the share done.

    Raises:
        MeasureError: if a worker fails.
    """
    request = {
        "jobs": [_as_json(job) for job in jobs],
        "anchor": _as_json(anchor_job(runtime, threads)),
    }
    end = time.monotonic() + time_limit_s
    answers: list[dict[str, Any]] = []
    for process in range(processes):
        if progress:
            progress(f"process {process + 1} of {processes}", process / processes)
        left = (end - time.monotonic()) / (processes - process)
        answers.append(_worker(request | {"seed": seed + process, "time_limit_s": left}, threads))
    anchors = sorted(s for answer in answers for _, s in answer["anchor"])
    undisturbed = anchors[int(UNDISTURBED * (len(anchors) - 1))]
    found: list[list[Reading]] = [[] for _ in jobs]
    drift: list[float] = []
    for answer in answers:
        speed = _Speed(answer["anchor"], undisturbed)
        drift += speed.relative
        for readings, results in zip(found, answer["jobs"], strict=True):
            if results:
                slowness = [speed.at(when) for when, _, _ in results]
                readings.append(
                    Reading(
                        weighted_median(
                            [s / slow for slow, (_, s, _) in zip(slowness, results, strict=True)],
                            [max(slow, 1.0) ** -CALMNESS for slow in slowness],
                        ),
                        statistics.median(spread for _, _, spread in results),
                        len(results),
                    )
                )
    return Readings(found, drift, processes)


def weighted_median(values: Sequence[float], weights: Sequence[float]) -> float:
    """The median where each value counts as much as its weight, between values interpolated.

    >>> weighted_median([1.0, 2.0, 9.0], [1.0, 1.0, 1.0])
    2.0
    """
    order = np.argsort(values)
    sorted_weights = np.asarray(weights)[order]
    middles = np.cumsum(sorted_weights) - sorted_weights / 2
    return float(np.interp(sorted_weights.sum() / 2, middles, np.asarray(values)[order]))


class _Speed:
    """How slow the machine was at a moment, by the anchor, relative to undisturbed."""

    def __init__(self, readings: list[list[float]], undisturbed: float) -> None:
        self.times = [when for when, _ in readings]
        self.relative = [seconds / undisturbed for _, seconds in readings]

    def at(self, when: float) -> float:
        """The median over a few readings around the moment."""
        i = bisect.bisect(self.times, when)
        return statistics.median(self.relative[max(0, i - NEAR) : i + NEAR])


def _as_json(job: Job) -> dict[str, Any]:
    return {
        "factory": job.factory,
        "arguments": dict(job.arguments),
        "budget_s": job.budget_s,
        "turns": job.turns,
        "hold": job.hold,
    }


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
        repeats=sum(r.turns for r in readings),
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
