"""Curves for TensorBoard, if it is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol


class Log(Protocol):
    """Takes figures by name at a step of the training."""

    def __call__(self, figures: Mapping[str, float], step: int) -> None: ...


@contextlib.contextmanager
def open_log(folder: Path | None) -> Iterator[Log]:
    """A log that writes event files to a folder, or one that drops what it is told.

    Args:
        folder: for the event files; None writes nothing, and so does a missing `tensorboard`.
    """
    try:
        if folder is None:
            raise ImportError
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield lambda figures, step: None
        return
    writer = SummaryWriter(str(folder))
    try:

        def write(figures: Mapping[str, float], step: int) -> None:
            for name, figure in figures.items():
                writer.add_scalar(name, figure, step)

        yield write
    finally:
        writer.close()
