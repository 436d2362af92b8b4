"""A process that times calls: `python -m hw_profiles.runtimes.worker REQUEST ANSWER`.

Both are JSON files. Each job names the function that makes its call, so that a worker loads no
more than the runtime that it measures: two runtimes' thread pools in one process disturb each
other. Memory layout and clock differ from process to process, which is why there are several.

The end of the standard input ends the worker, so that it never outlives the process that started
it, whatever killed that one.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hw_profiles.drift import RUN, Drift, undisturbed
from hw_profiles.runtimes.stopwatch import Call, HostStopwatch, Stopwatch, time_calls, warm_up

#: Time between readings of the anchor, and of one: a busy neighbour comes and goes in milliseconds.
ANCHOR_EVERY_S = 0.01
ANCHOR_S = 0.004
#: How often a reading that fell in a slow run is repeated, and the share of the time for it.
RETRIES, RETRY_SHARE = 2, 0.2

#: Makes what a job, or another part of a request, names.
Make = Callable[[dict[str, Any]], Any]


def make(job: dict[str, Any]) -> Any:
    """What a job's `factory`, `module:function`, makes of its `arguments`."""
    module, _, function = job["factory"].partition(":")
    return getattr(importlib.import_module(module), function)(**job["arguments"])


class _Anchor:
    """One fixed call, read again and again: how fast the machine is just now."""

    def __init__(self, call: Call, stopwatch: Stopwatch, reference_s: float | None) -> None:
        self.call = call
        self.stopwatch = stopwatch
        self.reference_s = reference_s
        self.readings: list[list[float]] = []
        self._next = 0.0
        self._calls = warm_up(stopwatch, call, stopwatch.first_s)

    def read(self) -> None:
        """Take a reading [time, seconds] if the last one is old."""
        now = self.stopwatch.now()
        if not self.readings or now >= self._next:
            seconds, _ = time_calls(self.stopwatch, self.call, ANCHOR_S, self._calls)
            self.readings.append([now, seconds])
            self._next = self.stopwatch.now() + ANCHOR_EVERY_S

    def drift(self) -> Drift:
        """As known so far: the reference of earlier processes counts too."""
        own = undisturbed([seconds for _, seconds in self.readings])
        return Drift(self.readings, min(own, self.reference_s or own))


class _Session:
    """The readings of all jobs in one process."""

    def __init__(self, request: dict[str, Any], stopwatch: Stopwatch, made: Make) -> None:
        self.jobs: list[dict[str, Any]] = request["jobs"]
        self.stopwatch = stopwatch
        self.make_call: Callable[[dict[str, Any]], Call] = made
        self.anchor = _Anchor(made(request["anchor"]), stopwatch, request.get("undisturbed_s"))
        limit = float(request["time_limit_s"])
        self.end = stopwatch.now() + limit  # the runtime is loaded by now
        self.retry_s = RETRY_SHARE * limit
        self.readings: list[list[list[float]]] = [[] for _ in self.jobs]
        self.held: dict[int, Call] = {}
        #: (job, turn) of readings that fell in slow runs -> how often they were repeated.
        self.pending: dict[tuple[int, int], int] = {}
        self.retried = 0

    def read(self, i: int) -> list[float]:
        """[time, seconds, spread] of a job."""
        job = self.jobs[i]
        call = self.held[i] if i in self.held else self.make_call(job)
        if job.get("hold"):
            self.held[i] = call
        self.anchor.read()
        calls = warm_up(self.stopwatch, call)
        when = self.stopwatch.now()
        return [when, *time_calls(self.stopwatch, call, float(job["budget_s"]), calls)]

    def is_over(self) -> bool:
        """Whether time is up."""
        return self.stopwatch.now() > self.end

    def round(self, order: list[int]) -> None:
        """Read jobs in an order, and note which of them a slow run disturbed."""
        new = []
        for i in order:
            if self.is_over():
                break
            self.readings[i].append(self.read(i))
            new.append((i, len(self.readings[i]) - 1))
        self.anchor.read()
        drift = self.anchor.drift()
        self.pending |= {(i, turn): 0 for i, turn in new if drift.slow(self.readings[i][turn][0])}

    def repeat(self, wait: bool = True) -> None:
        """Read again what a slow run disturbed; the calmer of the two readings stays.

        Args:
            wait: leave it for later while the run goes on.
        """
        if wait and all(self.anchor.drift().runs[-RUN:]):
            return
        for (i, turn), attempts in list(self.pending.items()):
            begin = self.stopwatch.now()
            if attempts >= RETRIES or self.retry_s <= 0 or begin > self.end:
                continue
            found = self.read(i)
            self.anchor.read()
            self.retried += 1
            self.retry_s -= self.stopwatch.now() - begin
            drift, old = self.anchor.drift(), self.readings[i][turn]
            if drift.at(found[0]) < drift.at(old[0]):
                self.readings[i][turn] = found
            self.pending[i, turn] = attempts + 1
            if not drift.slow(found[0]):
                del self.pending[i, turn]


def run(
    request: dict[str, Any], stopwatch: Stopwatch | None = None, made: Make = make
) -> dict[str, Any]:
    """Time every job as often as its `turns` say, in rounds of a shuffled order.

    Readings that fell in a run of slow anchor readings are repeated once the machine is calm, at
    most `RETRIES` times each and for `RETRY_SHARE` of the time.

    Args:
        request: `jobs`, `anchor`, `seed`, `time_limit_s`; `stopwatch` names what times (the
            host's clock unless given), `undisturbed_s` is the anchor's time in earlier processes.
        stopwatch: instead of the one that is named.
        made: makes the call of a job.

    Returns:
        `jobs`: for each job a list of [time, median s, spread] of its turns, shorter where the
        time limit came first; `anchor`: [time, s] of all its readings; `retried`: readings that
        were repeated; `timer`: what timed.
    """
    named = request.get("stopwatch")
    watch: Stopwatch = stopwatch or (made(named) if named else HostStopwatch())
    session = _Session(request, watch, made)
    shuffle = random.Random(int(request["seed"]))
    jobs = session.jobs
    rounds = max(int(job["turns"]) for job in jobs)
    for r in range(rounds):
        order = [i for i, job in enumerate(jobs) if r * job["turns"] % rounds < job["turns"]]
        shuffle.shuffle(order)
        session.round(order)
        session.repeat()
    for _ in range(RETRIES):
        session.repeat(wait=False)
    session.anchor.read()
    return {
        "jobs": session.readings,
        "anchor": session.anchor.readings,
        "retried": session.retried,
        "timer": watch.title,
    }


def run_energy(
    request: dict[str, Any], stopwatch: Stopwatch | None = None, made: Make = make
) -> dict[str, Any]:
    """Energy of each job's call, in their order, until time is up.

    Args:
        request: `jobs`, `meter` (a factory of an `EnergyMeter`), `windows`, `seconds` of each,
            `time_limit_s`, and `synchronize`, a factory of what waits for calls that return early.
        stopwatch: instead of the host's.
        made: makes the meter and the calls.

    Returns:
        `jobs`: for each job an energy figure or None, shorter where the time limit came first;
        `idle_w`; `method`; `why_not`.
    """
    clock = stopwatch or HostStopwatch()
    end = clock.now() + float(request["time_limit_s"])
    synchronize = made(request["synchronize"]) if request.get("synchronize") else None
    found: list[dict[str, float] | None] = []
    if synchronize is not None:
        synchronize()  # a device that a process holds open idles at more
    with made(request["meter"]) as meter:
        idle_w = meter.idle_w(float(request["seconds"]))
        for job in request["jobs"]:
            if not meter.available or clock.now() > end:
                break
            call = made(job)
            warm_up(clock, call)
            energy = meter.measure(
                call, float(request["seconds"]), int(request["windows"]), synchronize
            )
            found.append(None if energy is None else energy.scaled(1 / job["copies"]).as_json())
        return {
            "jobs": found,
            "idle_w": idle_w,
            "method": meter.method,
            "why_not": meter.why_not,
        }


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    """Read the request, measure, write the answer."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    asked, answered = map(Path, sys.argv[1:3])
    request = json.loads(asked.read_text())
    answer = run_energy(request) if "meter" in request else run(request)
    answered.write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
