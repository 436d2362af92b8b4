"""A process that times calls: `python -m hw_profiles.runtimes.worker JOBS RESULTS`.

JOBS and RESULTS are JSON files. Each job names the function that makes its call, so that a worker
loads no more than the runtime that it measures: two runtimes' thread pools in one process disturb
each other. Memory layout and clock differ from process to process, which is why there are several.
"""

from __future__ import annotations

import importlib
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = Callable[[], object]
WARM_UP_S = 0.002
WARM_UP_CALLS = 3
#: Time between readings of the anchor, and of one: a busy neighbour comes and goes in milliseconds.
ANCHOR_EVERY_S = 0.01
ANCHOR_S = 0.004


def make_call(job: dict[str, Any]) -> Call:
    """The call of a job: `factory` is `module:function`, `arguments` are its own."""
    module, _, function = job["factory"].partition(":")
    call: Call = getattr(importlib.import_module(module), function)(**job["arguments"])
    return call


def time_calls(call: Call, budget_s: float, least: int = 3, most: int = 200) -> tuple[float, float]:
    """Median seconds of a call and its relative spread (half the interquartile range).

    Calls until the budget is spent, at least `least` and at most `most` times.
    """
    times: list[float] = []
    clock = time.perf_counter
    end = clock() + budget_s
    while len(times) < least or (len(times) < most and clock() < end):
        start = clock()
        call()
        times.append(clock() - start)
    median = statistics.median(times)
    low, _, high = statistics.quantiles(times, n=4)
    return median, (high - low) / 2 / median


def warm_up(call: Call) -> None:
    """Let allocations, caches and the clock settle."""
    end = time.perf_counter() + WARM_UP_S
    for i in range(30):
        call()
        if i + 1 >= WARM_UP_CALLS and time.perf_counter() > end:
            break


class _Anchor:
    """One fixed call, read again and again: how fast the machine is just now."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.call = make_call(job)
        self.readings: list[list[float]] = []
        self._next = 0.0
        warm_up(self.call)

    def read(self) -> None:
        """Take a reading [time, seconds] if the last one is old."""
        now = time.perf_counter()
        if now >= self._next:
            self.readings.append([now, time_calls(self.call, ANCHOR_S)[0]])
            self._next = time.perf_counter() + ANCHOR_EVERY_S


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Time every job as often as its `turns` say, in rounds of a shuffled order.

    Returns:
        `jobs`: for each job a list of [time, median s, spread] of its turns, shorter where the
        time limit came first; `anchor`: [time, s] of all its readings.
    """
    jobs = request["jobs"]
    anchor = _Anchor(request["anchor"])
    end = time.perf_counter() + float(request["time_limit_s"])  # the runtime is loaded by now
    results: list[list[list[float]]] = [[] for _ in jobs]
    held: dict[int, Call] = {}
    shuffle = random.Random(int(request["seed"]))
    rounds = max(int(job["turns"]) for job in jobs)
    for r in range(rounds):
        order = [i for i, job in enumerate(jobs) if r * job["turns"] % rounds < job["turns"]]
        shuffle.shuffle(order)
        for i in order:
            if time.perf_counter() > end:
                break
            job = jobs[i]
            call = held[i] if i in held else make_call(job)
            if job.get("hold"):
                held[i] = call
            anchor.read()
            warm_up(call)
            when = time.perf_counter()
            results[i].append([when, *time_calls(call, float(job["budget_s"]))])
    anchor.read()
    return {"jobs": results, "anchor": anchor.readings}


def main() -> None:
    """Read the request, measure, write the readings."""
    request, out = map(Path, sys.argv[1:3])
    out.write_text(json.dumps(run(json.loads(request.read_text()))))


if __name__ == "__main__":
    main()
