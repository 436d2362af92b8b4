"""Numbers of things and durations in a message."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """How many of what.

    >>> counted(1, "network"), counted(2, "trial")
    ('1 network', '2 trials')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def clock(seconds: float) -> str:
    """A duration as a clock shows it.

    >>> clock(61.4), clock(36_000)
    ('1:01', '10:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
