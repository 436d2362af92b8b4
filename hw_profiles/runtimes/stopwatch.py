"""How long calls take: windows of them, warm-up until they are stable, medians with spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Protocol

Call = Callable[[], object]
#: Warm is a call whose last `STEADY_WINDOWS` windows differ by less than `STEADY`, after at least
#: `WARM_UP_S`; what has not got there by the `WARM_UP_MOST`th window is timed as it is.
STEADY_WINDOWS, STEADY, WARM_UP_S, WARM_UP_MOST = 3, 0.05, 0.002, 30
WARM_UP_RULE = (
    f"until the last {STEADY_WINDOWS} windows differ by less than {STEADY:.0%}, at least "
    f"{1e3 * WARM_UP_S:g} ms, at most {WARM_UP_MOST} windows"
)
#: Repeats of which a median is taken, whatever the time; calls of one window.
LEAST, MOST, MOST_CALLS = 3, 200, 10_000


class Stopwatch(Protocol):
    """What times calls.

    Attributes:
        title: what is used, in words.
        least_s: shortest window that it resolves well; 0 times every call by itself.
        first_s: time that the device needs to get from idle to its working clock.
    """

    title: str
    least_s: float
    first_s: float

    def now(self) -> float:
        """Seconds since some moment."""
        ...

    def window(self, call: Call, calls: int) -> float:
        """Seconds that so many calls take together."""
        ...


class HostStopwatch:
    """The host's clock around every call: for calls that return when their work is done."""

    title = "host clock around each call"
    least_s = 0.0
    first_s = 0.0

    def now(self) -> float:
        """The clock that windows are timed with."""
        return time.perf_counter()

    def window(self, call: Call, calls: int) -> float:
        """Seconds that so many calls take together."""
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - start


def calls_of_window(stopwatch: Stopwatch, seconds: float) -> int:
    """How many calls of that length make a window that is long enough."""
    return min(max(round(stopwatch.least_s / max(seconds, 1e-9)), 1), MOST_CALLS)


def warm_up(stopwatch: Stopwatch, call: Call, least_s: float = WARM_UP_S) -> int:
    """Call until the time of a window is stable, by the rule above.

    Returns:
        Calls of a window that is long enough for the stopwatch.
    """
    end = stopwatch.now() + least_s
    windows: list[float] = []
    calls = 1
    while True:
        took = stopwatch.window(call, calls)
        windows.append(took / calls)
        # the first calls may be a hundred times slower than the later ones
        calls = calls_of_window(stopwatch, windows[-1])
        if len(windows) < STEADY_WINDOWS or stopwatch.now() < end:
            continue
        last = windows[-STEADY_WINDOWS:]
        if max(last) - min(last) <= STEADY * statistics.median(last) or len(windows) > WARM_UP_MOST:
            return calls


def time_calls(
    stopwatch: Stopwatch, call: Call, budget_s: float, calls: int = 1, most: int = MOST
) -> tuple[float, float]:
    """Median seconds of a call and its relative spread (half the interquartile range).

    Args:
        stopwatch: that times windows.
        call: that is warm.
        budget_s: time after which no further window begins, once there are `LEAST`.
        calls: of a window.
        most: windows.
    """
    times: list[float] = []
    end = stopwatch.now() + budget_s
    while len(times) < LEAST or (len(times) < most and stopwatch.now() < end):
        times.append(stopwatch.window(call, calls) / calls)
    median = statistics.median(times)
    low, _, high = statistics.quantiles(times, n=4)
    # Between two events on an idle GPU the clock may not move at all.
    return median, (high - low) / 2 / median if median else 0.0
