"""A process that times calls: `python -m hw_profiles.runtimes.worker JOBS RESULTS`.

JOBS and RESULTS are JSON files. Each job names the function that makes its call, so that a worker
loads no more than the runtime that it measures: two runtimes' thread pools in one process disturb
each other. The process never shares its timings' machine state (memory layout, clock) with
another, which is why there are several.
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
WARM_UP_S = 0.004
WARM_UP_CALLS = 3
#: Time between readings of the anchor.
ANCHOR_EVERY_S = 0.2
ANCHOR_S = 0.01


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
        self.readings: list[float] = []
        self._next = 0.0
        warm_up(self.call)

    def read(self) -> float:
        """Seconds, read anew if the last reading is old."""
        if time.perf_counter() >= self._next:
            self.readings.append(time_calls(self.call, ANCHOR_S)[0])
            self._next = time.perf_counter() + ANCHOR_EVERY_S
        return self.readings[-1]


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Time every job in `rounds` rounds of a shuffled order.

    Returns:
        `jobs`: for each job a list of [median s, spread, anchor s] of its rounds, shorter where
        the time limit came first; `anchor`: all its readings, s.
    """
    end = time.perf_counter() + float(request["time_limit_s"])
    jobs = request["jobs"]
    anchor = _Anchor(request["anchor"])
    results: list[list[list[float]]] = [[] for _ in jobs]
    held: dict[int, Call] = {}
    shuffle = random.Random(int(request["seed"]))
    for _ in range(int(request["rounds"])):
        order = list(range(len(jobs)))
        shuffle.shuffle(order)
        for i in order:
            if time.perf_counter() > end:
                break
            job = jobs[i]
            call = held[i] if i in held else make_call(job)
            if job.get("hold"):
                held[i] = call
            warm_up(call)
            before = anchor.read()
            median, spread = time_calls(call, float(job["budget_s"]))
            results[i].append([median, spread, before])
    return {"jobs": results, "anchor": anchor.readings}


def main() -> None:
    """Read the request, measure, write the readings."""
    request, out = map(Path, sys.argv[1:3])
    out.write_text(json.dumps(run(json.loads(request.read_text()))))


if __name__ == "__main__":
    main()
