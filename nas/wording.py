"""Numbers of things in a message."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """How many of what.

    >>> counted(1, "network"), counted(2, "trial")
    ('1 network', '2 trials')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
