"""What an executor is, and the one that evaluates in this process."""

from __future__ import annotations

import gc
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Evaluate = Callable[[NDArray[np.int64], int, float | None], dict[str, float]]
"""Genome (genes,), trial number and goal -> costly objectives, and figures beside them.

The goal is the costly objective that is worth a whole evaluation; None if any is. One that cannot
be reached may be given up early, with an estimate: `PART_NOISE` is then among the figures.
"""

PART_NOISE = "part_noise"
"""A figure of an evaluation on a part of the data alone: the standard error of its objective as an
estimate of the one on all of them."""

REASON_LENGTH = 200


class EvaluationFailed(Exception):  # a verdict on a candidate, not on the program
    """A candidate that has no usable number, however often it is tried; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What became of one submitted candidate.

    Attributes:
        number: of its trial.
        values: costly objectives and figures beside them; None if the evaluation failed.
        reason: why it failed, one line.
        again: whether another try may succeed.
        seconds: wall time where it was evaluated.
    """

    number: int
    values: dict[str, float] | None
    reason: str = ""
    again: bool = False
    seconds: float = 0.0

    def to_json(self) -> list[Any]:
        """Plain data for a pipe."""
        values: dict[str, float | None] | None = None
        if self.values is not None:
            values = {k: v if math.isfinite(v) else None for k, v in self.values.items()}
        return [self.number, values, self.reason, self.again, self.seconds]

    @classmethod
    def from_json(cls, fields: list[Any]) -> Outcome:
        """From what `to_json` gave."""
        number, values, reason, again, seconds = fields
        if values is not None:
            values = {k: math.nan if v is None else float(v) for k, v in values.items()}
        return cls(int(number), values, str(reason), bool(again), float(seconds))


def attempt(
    evaluate: Evaluate, number: int, genome: NDArray[np.int64], goal: float | None
) -> Outcome:
    """Evaluate one candidate; whatever goes wrong with it becomes a reason."""
    begun = time.perf_counter()
    try:
        values = {k: float(v) for k, v in evaluate(genome.copy(), number, goal).items()}
        return Outcome(number, values, seconds=time.perf_counter() - begun)
    except EvaluationFailed as failure:
        reason, again = str(failure) or "no reason given", False
    except Exception as error:  # of any library: a candidate must not end a study
        reason, again = describe(error), True
    if again:
        release_memory()
    return Outcome(number, None, _one_line(reason), again, time.perf_counter() - begun)


def describe(error: BaseException) -> str:
    """An error in one line."""
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        return _one_line(f"out of memory: {error}".removesuffix(": "))
    return _one_line(f"{kind}: {error}".removesuffix(": "))


def _one_line(text: str) -> str:
    # A database takes neither half a character, as of a file's name, nor a zero byte.
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0").split())
    return line if len(line) <= REASON_LENGTH else f"{line[: REASON_LENGTH - 3]}..."


def release_memory() -> None:
    """Give back what a failed evaluation still holds, before the next one."""
    gc.collect()
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


class Executor(ABC):
    """Evaluates candidates side by side. Use as a context manager, or `close()` it.

    Attributes:
        capacity: candidates that are worth submitting at once.
    """

    capacity: int = 1

    @abstractmethod
    def submit(self, number: int, genome: NDArray[np.int64], goal: float | None = None) -> None:
        """Take a candidate and its goal; its outcome comes from `wait`, in any order."""

    @abstractmethod
    def wait(self) -> list[Outcome]:
        """Block until something is finished; a lost worker's candidate is an outcome too.

        Raises:
            ExecutorError: if nothing can be evaluated any more.
        """

    def close(self) -> None:
        """Stop at once; what is under way is dropped."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class InProcess(Executor):
    """One candidate at a time, here.

    Args:
        evaluate: does it.
    """

    def __init__(self, evaluate: Evaluate) -> None:
        self.evaluate = evaluate
        self._waiting: deque[tuple[int, NDArray[np.int64], float | None]] = deque()

    def submit(self, number: int, genome: NDArray[np.int64], goal: float | None = None) -> None:
        """Keep it until `wait`."""
        self._waiting.append((number, genome, goal))

    def wait(self) -> list[Outcome]:
        """Evaluate the next one."""
        return [attempt(self.evaluate, *self._waiting.popleft())]
