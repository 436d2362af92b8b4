"""What a long call tells its caller while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One step of progress.

    Attributes:
        stage: `note`, `study`, `profile`, `train`, `search`, `test`, `export` or `verify`.
        text: one line to show.
        done: of `total`, in the stage's own unit; None where there is nothing to count.
        total: what `done` runs up to.
        detail: further lines, for where there is room.
    """

    stage: str
    text: str
    done: float | None = None
    total: float | None = None
    detail: tuple[str, ...] = ()


Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """The listener of a caller that does not listen."""
