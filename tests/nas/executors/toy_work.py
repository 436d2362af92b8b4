"""Work for executors under test: a sum, and every way to go wrong."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from nas.executors.executor import Evaluate, EvaluationFailed

KILL, FAIL, EXHAUST, LEAVE, NAN = 7, 8, 9, 6, 5


def summing(seconds: float = 0.0, folder: str | None = None) -> Evaluate:
    """Sum of the genes; the first gene may ask for a fault, which a folder keeps to once."""

    def evaluate(genome, number, goal):
        first = int(genome[0])
        once = None if folder is None else Path(folder) / f"{number}"
        if first >= NAN and (once is None or not once.exists()):
            if once is not None:
                once.touch()
            if first == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            if first == LEAVE:
                print("left in a hurry", flush=True)
                os._exit(3)
            if first == FAIL:
                raise EvaluationFailed("no number")
            if first == EXHAUST:
                raise MemoryError("tried to allocate\n1 TiB")
            return {"sum": float("nan")}
        time.sleep(seconds)
        found = {"sum": float(genome.sum()), "pid": float(os.getpid())}
        return found if goal is None else {**found, "missing": goal - found["sum"]}

    return evaluate


def broken() -> Evaluate:
    """A factory that cannot make anything."""
    raise RuntimeError("no supernet here")


def late(folder: str) -> Evaluate:
    """A factory for the first process alone; the others' is broken once `go` is in the folder."""
    try:
        (Path(folder) / "first").touch(exist_ok=False)
    except FileExistsError:
        while not (Path(folder) / "go").exists():
            time.sleep(0.01)
        return broken()
    return summing()


def dying() -> Evaluate:
    """A factory whose process does not survive it."""
    os._exit(4)
