"""Timing many calls over several processes, corrected by an anchor for the machine's drift.

One fixed workload, the anchor, is read all along. Where the machine is slower for a while (a busy
neighbour, a lower clock), the anchor is so too, and readings are divided by its slowness: they are
those of the undisturbed machine. What fell in a long slow run is read again; what is still slow
then is marked.
"""

from __future__ import annotations

import json
import os
import signal
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
from numpy.typing import ArrayLike

from hw_profiles.drift import SLOW, Drift, undisturbed
from hw_profiles.errors import KilledError, MeasureError
from hw_profiles.harness import Harness
from hw_profiles.op import Op
from hw_profiles.profile import Anchor, Energy, OpTiming, PowerSource, Timing

NETWORK_TURNS = 8
#: A reading weighs as the machine's slowness to minus this power: calm ones count most. In a slow
#: run the anchor's slowness is not every call's: such a reading counts for less still.
CALMNESS, IN_SLOW_RUN = 3, 0.25
#: Share of calm readings below which a timing is marked unstable.
CALM = 0.5
#: Copies of a small op in one call on a CPU, so that the call itself weighs little.
COPIES = 8
_SMALL_MACS, _SMALL_ELEMENTS = 2_000_000, 200_000
#: On a GPU a graph of copies must outlast its own launch, by a fast GPU's sheet: seconds of a
#: graph, of a kernel's launch in it, MACs and elements a second, and bounds of the copies.
GRAPH_S, KERNEL_S, MACS_PER_S, ELEMENTS_PER_S, GRAPH_COPIES = 2e-4, 2e-6, 3e14, 1e12, (4, 64)
#: Elements of all copies of an op whose call is kept between turns.
_HELD_ELEMENTS = 8_000_000
#: Seconds and number of the windows that a call's energy is measured over.
ENERGY_S, ENERGY_WINDOWS = 1.5, 2

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
    """What one process found for a job.

    Attributes:
        seconds: of a call, less drift.
        spread: relative, of repeats.
        turns: readings that it rests on.
        calm: of them outside of slow runs.
    """

    seconds: float
    spread: float
    turns: int
    calm: int


@dataclass(frozen=True)
class Readings:
    """All processes' readings.

    Attributes:
        jobs: for each job its readings, one a process; empty where time ran out before it.
        anchor: readings of the anchor.
        processes: that ran.
        timer: what timed the calls.
        began_s: when the anchor was first read, on the stopwatch's clock.
    """

    jobs: list[list[Reading]]
    anchor: Anchor
    processes: int
    timer: str = ""
    began_s: float = 0.0


def op_job(op: Op, harness: Harness) -> Job:
    """The job that times an op: several copies of a small one."""
    elements = op.reads + op.writes
    if harness.kind == "cpu":
        small = op.macs <= _SMALL_MACS and elements <= _SMALL_ELEMENTS
        copies = COPIES if small else 1
    else:
        elements += op.weights
        seconds = KERNEL_S + op.macs / MACS_PER_S + elements / ELEMENTS_PER_S
        copies = int(np.clip(GRAPH_S / seconds, *GRAPH_COPIES))
        small = copies * elements <= _HELD_ELEMENTS
    arguments = {
        "kind": op.kind,
        "shape": list(op.shape),
        "precision": op.precision,
        "copies": copies,
        **harness.arguments,
    }
    return Job(f"{harness.module}:op_call", arguments, copies=copies, hold=small)


def idle_job(harness: Harness) -> Job:
    """The job that times a call which computes nothing."""
    return Job(f"{harness.module}:idle_call", harness.arguments, hold=True)


def anchor_job(harness: Harness) -> Job:
    """The fixed mix of ops whose time tells how fast the machine is just now."""
    return Job(f"{harness.module}:mix_call", harness.arguments, hold=True)


def network_job(factory: str, arguments: Mapping[str, Any]) -> Job:
    """The job that times a whole network, which a profile rests on most."""
    return Job(factory, arguments, budget_s=0.01, turns=NETWORK_TURNS, hold=True)


def model_job(path: Path, harness: Harness) -> Job:
    """The job that times an ONNX model file."""
    return network_job(f"{harness.module}:model_call", {"path": str(path), **harness.arguments})


# --- measuring ----------------------------------------------------------------------------------

#: Runs a request in a process of its own: (request, threads) -> answer.
Process = Callable[[dict[str, Any], int], dict[str, Any]]


def measure(
    jobs: Sequence[Job],
    harness: Harness,
    *,
    processes: int = 3,
    time_limit_s: float = 60.0,
    seed: int = 0,
    progress: Progress | None = None,
    process: Process | None = None,
) -> Readings:
    """Time every job in several processes, one after another.

    Args:
        jobs: what to time.
        harness: whose anchor is read between the jobs, all along.
        processes: drift between processes is larger than the spread inside one.
        time_limit_s: for all processes together.
        seed: of the orders of the jobs.
        progress: told a line and the share done.
        process: runs a request, in a real process unless given.

    Raises:
        MeasureError: if a worker fails.
    """
    request = {
        "jobs": [_as_json(job) for job in jobs],
        "anchor": _as_json(anchor_job(harness)),
        **harness.request,
    }
    process = process or run_process
    end = time.monotonic() + time_limit_s
    answers: list[dict[str, Any]] = []
    for i in range(processes):
        if progress:
            progress(f"process {i + 1} of {processes}", i / processes)
        before = [s for answer in answers for _, s in answer["anchor"]]
        request |= {
            "seed": seed + i,
            "time_limit_s": (end - time.monotonic()) / (processes - i),
            "undisturbed_s": undisturbed(before) if before else None,
        }
        answers.append(process(request, harness.threads))
    calmest = undisturbed([s for answer in answers for _, s in answer["anchor"]])
    found: list[list[Reading]] = [[] for _ in jobs]
    times: list[float] = []
    relative: list[float] = []
    starts: list[int] = []
    for answer in answers:
        drift = Drift(answer["anchor"], calmest)
        starts.append(len(times))
        times += drift.times
        relative += drift.relative
        for readings, results in zip(found, answer["jobs"], strict=True):
            if results:
                readings.append(_reading(results, drift))
    anchor = Anchor(
        undisturbed_ms=float(f"{1e3 * calmest:.5g}"),
        slow_above=SLOW,
        times_s=[round(t - times[0], 3) for t in times],
        relative=[round(r, 4) for r in relative],
        starts=starts,
        retried=sum(answer["retried"] for answer in answers),
    )
    return Readings(found, anchor, processes, answers[0]["timer"], times[0])


def _reading(results: Sequence[Sequence[float]], drift: Drift) -> Reading:
    """Of one job in one process, from its [time, seconds, spread]."""
    slowness = [drift.at(when) for when, _, _ in results]
    slow = [drift.slow(when) for when, _, _ in results]
    return Reading(
        weighted_median(
            [s / by for by, (_, s, _) in zip(slowness, results, strict=True)],
            [
                max(by, 1.0) ** -CALMNESS * (IN_SLOW_RUN if in_run else 1.0)
                for by, in_run in zip(slowness, slow, strict=True)
            ],
        ),
        statistics.median(spread for _, _, spread in results),
        len(results),
        len(results) - sum(slow),
    )


def measure_energy(
    jobs: Sequence[Job],
    harness: Harness,
    *,
    time_limit_s: float,
    seconds: float = ENERGY_S,
    process: Process | None = None,
) -> tuple[PowerSource, list[Energy | None]]:
    """Energy of each job's call, in their order, until time is up.

    Returns:
        Where the figures come from, and one for each job; None where it was not measured.

    Raises:
        MeasureError: if the worker fails.
    """
    request = {
        "jobs": [_as_json(job) for job in jobs],
        "seconds": seconds,
        "windows": ENERGY_WINDOWS,
        "time_limit_s": time_limit_s,
        **harness.energy_request,
    }
    answer = (process or run_process)(request, harness.threads)
    idle = answer["idle_w"]
    source = PowerSource(
        method=answer["method"],
        idle_w=None if idle is None else round(max(idle, 0.0), 2),
        why_not=answer["why_not"],
    )
    found = [None if e is None else Energy(**e) for e in answer["jobs"]]
    return source, found + [None] * (len(jobs) - len(found))


def weighted_median(values: ArrayLike, weights: ArrayLike) -> float:
    """The median where each value counts as much as its weight, between values interpolated.

    >>> weighted_median([1.0, 2.0, 9.0], [1.0, 1.0, 1.0])
    2.0
    """
    order = np.argsort(values)
    sorted_weights = np.asarray(weights)[order]
    middles = np.cumsum(sorted_weights) - sorted_weights / 2
    return float(np.interp(sorted_weights.sum() / 2, middles, np.asarray(values)[order]))


def _as_json(job: Job) -> dict[str, Any]:
    return {
        "factory": job.factory,
        "arguments": dict(job.arguments),
        "budget_s": job.budget_s,
        "turns": job.turns,
        "copies": job.copies,
        "hold": job.hold,
    }


def run_process(request: dict[str, Any], threads: int) -> dict[str, Any]:
    """Run one worker process and read its answer.

    Raises:
        KilledError: if a signal ends it.
        MeasureError: if it fails.
    """
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as NVML, which tells name, power and energy, numbers
    }
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "jobs.json", Path(folder) / "results.json"
        asked.write_text(json.dumps(request))
        command = [sys.executable, "-m", "hw_profiles.runtimes.worker", str(asked), str(answered)]
        watched, held = os.pipe()  # the worker's standard input ends with this process
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=watched,
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            os.close(watched)
            os.close(held)
        if done.returncode < 0:
            raise KilledError(
                f"a measuring process was ended by {signal.Signals(-done.returncode).name}.",
                "Measure again; if it ends so again, look whether memory is short.",
            )
        if done.returncode != 0 or not answered.exists():
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise MeasureError(
                f"a measuring process failed ({said}).", "Check the versions: `nas doctor`."
            )
        answer: dict[str, Any] = json.loads(answered.read_text())
    return answer


def timing(readings: Sequence[Reading], copies: int = 1, idle_s: float = 0.0) -> Timing:
    """Median over processes, in ms, of readings less the idle call, divided by the copies.

    Marked unstable where most readings fell in slow runs and could not be repeated.

    Raises:
        ValueError: if there are no readings.
    """
    seconds = [max((r.seconds - idle_s) / copies, 1e-8) for r in readings]
    median = statistics.median(seconds)
    between = statistics.stdev(seconds) / median if len(seconds) > 1 else 0.0
    turns = sum(r.turns for r in readings)
    return Timing(
        median_ms=float(f"{1e3 * median:.6g}"),
        spread_within=round(statistics.median(r.spread for r in readings), 5),
        spread_between=round(between, 5),
        repeats=turns,
        processes=len(readings),
        unstable=sum(r.calm for r in readings) < CALM * turns,
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
