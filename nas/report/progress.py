"""Progress on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from nas.events import Event, Listener

LINE_EVERY_S = 10.0
"""Seconds after which a stage has another plain line, however far it came."""


@contextmanager
def progress() -> Iterator[Listener]:
    """A listener that shows what it is told; bars are gone afterwards."""
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield _PlainLines()
        return
    with _Bars(console) as bars:
        yield bars


class _Bars(Progress):
    """A bar for each stage that runs, and under them the further lines of the last event."""

    def __init__(self, console: Console) -> None:
        self._stages: dict[str, TaskID] = {}
        self._detail: tuple[str, ...] = ()
        super().__init__(
            TextColumn("{task.fields[stage]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
        )

    def __call__(self, event: Event) -> None:
        if event.total is None:
            self.console.print(event.text, soft_wrap=True)
            return
        if event.stage not in self._stages:
            self._stages[event.stage] = self.add_task("", total=event.total, stage=event.stage)
        self.update(
            self._stages[event.stage],
            completed=event.done,
            total=event.total,
            description=event.text,
            visible=(event.done or 0) < event.total,
        )
        self._detail = event.detail

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        yield from (Text(f"  {line}", style="dim") for line in self._detail)


class _PlainLines:
    """For logs: every note, and a line at each tenth of a stage or each ten seconds."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[int, float]] = {}

    def __call__(self, event: Event) -> None:
        if event.total is None or event.done is None:
            print(event.text, file=sys.stderr, flush=True)
            return
        now, tenth = time.monotonic(), int(10 * event.done / event.total) if event.total else 10
        before, at = self._shown.get(event.stage, (-1, now))
        if tenth != before or now - at >= LINE_EVERY_S:
            self._shown[event.stage] = (tenth, now)
            share = 100 * event.done / max(event.total, 1e-9)
            print(f"{event.stage} {share:.0f}% {event.text}", file=sys.stderr, flush=True)
