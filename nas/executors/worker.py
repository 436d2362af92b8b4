"""A local worker: `python -m nas.executors.worker DESCRIPTOR`, JSON lines in and out.

They come in by standard input and go out by the descriptor. First line in: factory, arguments and
threads. Then genomes and their goals in, outcomes out, one a line. The end of the input ends the
worker, so that it never outlives its coordinator, whatever killed that one.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import Any, TextIO

import numpy as np

from nas.executors.executor import attempt, describe
from nas.executors.work import Work


def _listen(inbox: queue.Queue[Any]) -> None:
    """Pass on what comes in, also while the main thread evaluates."""
    for line in sys.stdin:
        inbox.put(json.loads(line))
    os._exit(0)


def _say(out: TextIO, message: Any) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def serve(descriptor: int) -> None:
    """Evaluate until the input ends; `descriptor` is what the outcomes go to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle
    os.set_inheritable(descriptor, False)  # its end is the worker's, whatever that has started
    out = os.fdopen(descriptor, "w")
    inbox: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_listen, args=(inbox,), daemon=True).start()
    try:
        first = inbox.get()
        evaluate = Work(first["factory"], first["arguments"], first["threads"]).build()
    except Exception as error:  # said to the coordinator, which ends the search with it
        _say(out, {"broken": describe(error)})
        return
    _say(out, {"ready": os.getpid()})
    while True:
        number, genome, goal = inbox.get()
        outcome = attempt(evaluate, number, np.array(genome, np.int64), goal)
        _say(out, {"outcome": outcome.to_json()})


if __name__ == "__main__":
    serve(int(sys.argv[1]))
