"""Local workers: one process each, the supernet loaded once in each, threads divided."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import ExecutorError
from nas.executors.executor import Executor, Outcome
from nas.executors.work import Work

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
MAX_KILLED_STARTS = 3
"""Workers killed one after another before they are ready, after which there is no use."""

Candidate = tuple[int, NDArray[np.int64], float | None]


class _Worker:
    """A process and the candidate that it has; what it says goes to an inbox, None at its end."""

    def __init__(self, work: Work, inbox: queue.Queue[tuple[_Worker, Any]]) -> None:
        self.task: Candidate | None = None
        self.ready = False
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `stop`
        threads = str(work.threads)
        # What an interpreter's own start or a library prints must not mix with the outcomes.
        self._outcomes, outcomes = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nas.executors.worker", str(outcomes)],
            stdin=subprocess.PIPE,
            stdout=self.errors,
            stderr=self.errors,
            pass_fds=(outcomes,),
            text=True,
            env={
                **os.environ,
                **dict.fromkeys(_THREADS, threads),
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
        )
        os.close(outcomes)
        self.say({"factory": work.factory, "arguments": work.arguments, "threads": work.threads})
        threading.Thread(target=self._listen, args=(inbox,), daemon=True).start()

    def say(self, message: Any) -> None:
        """Write a line; a dead worker's is lost, and its end is noticed by the listener."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass

    def _listen(self, inbox: queue.Queue[tuple[_Worker, Any]]) -> None:
        with open(self._outcomes) as lines, suppress(ValueError):  # of a line cut by its death
            for line in lines:
                inbox.put((self, json.loads(line)))
        self.process.wait()
        inbox.put((self, None))

    def death(self) -> str:
        """Why it ended, as far as can be told."""
        code = self.process.returncode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"its worker was killed ({name})" + (
                ", perhaps for want of memory" if name == "SIGKILL" else ""
            )
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace").strip().splitlines()
        return f"its worker ended with code {code}" + (f": {said[-1]}" if said else "")

    def stop(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
        self.errors.close()


class LocalPool(Executor):
    """Candidates side by side in processes of their own.

    A worker that dies is replaced, and its candidate comes back as an outcome that may be tried
    again.

    Args:
        work: what each worker does.
        workers: how many.
    """

    def __init__(self, work: Work, workers: int) -> None:
        self.work = work
        self.capacity = workers
        self._inbox: queue.Queue[tuple[_Worker, Any]] = queue.Queue()
        self._waiting: deque[Candidate] = deque()
        self._workers: list[_Worker] = []
        self._killed_starts = 0
        self._fault: ExecutorError | None = None
        for _ in range(workers):
            self._start()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def _start(self) -> None:
        self._workers.append(_Worker(self.work, self._inbox))

    def submit(self, number: int, genome: NDArray[np.int64], goal: float | None = None) -> None:
        """Give it to an idle worker, or to the next that is."""
        self._waiting.append((number, genome, goal))
        self._hand_out()

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.ready and worker.task is None and self._waiting:
                worker.task = self._waiting.popleft()
                number, genome, goal = worker.task
                worker.say([number, [int(g) for g in genome], goal])

    def wait(self) -> list[Outcome]:
        """The next outcomes; workers that died meanwhile are replaced.

        What is finished is handed over before a fault is raised.
        """
        found: list[Outcome] = []
        while not found:
            if self._fault is not None:
                raise self._fault
            said = [self._inbox.get()]
            while not self._inbox.empty():
                said.append(self._inbox.get())
            for worker, message in said:
                try:
                    found += self._hear(worker, message)
                except ExecutorError as fault:
                    self._fault = self._fault or fault
            self._hand_out()
        return found

    def _hear(self, worker: _Worker, message: Any) -> list[Outcome]:
        if message is None:
            return self._bury(worker)
        if "broken" in message:
            raise ExecutorError(
                f"a worker cannot evaluate: {message['broken']}",
                "Try --workers 1, which evaluates in this process.",
            )
        if "ready" in message:
            worker.ready = True
            self._killed_starts = 0
            return []
        worker.task = None
        return [Outcome.from_json(message["outcome"])]

    def _bury(self, worker: _Worker) -> list[Outcome]:
        reason = worker.death()
        if not worker.ready:
            # One that is killed while it loads may have been in somebody's way.
            self._killed_starts += 1
            if worker.process.returncode >= 0 or self._killed_starts >= MAX_KILLED_STARTS:
                raise ExecutorError(
                    f"a worker did not start: {reason}.",
                    "Try fewer --workers: each holds the supernet and its libraries.",
                )
        self._workers.remove(worker)
        worker.stop()
        self._start()
        if worker.task is None:
            return []
        return [Outcome(worker.task[0], None, reason, again=True)]

    def close(self) -> None:
        """Kill the workers."""
        for worker in self._workers:
            worker.stop()
        self._workers.clear()
