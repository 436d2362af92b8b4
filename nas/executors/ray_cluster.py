"""Actors of a Ray cluster, each holding the supernet; the extra `ray`.

Ray restarts an actor that is lost. Its candidate comes back as an outcome that may be tried again.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import ExecutorError, UsageError
from nas.executors.executor import Evaluate, Executor, Outcome, attempt, describe
from nas.executors.work import Work


def require_ray() -> None:
    """Check that Ray is there.

    Raises:
        UsageError: if it is not.
    """
    import importlib.util

    if importlib.util.find_spec("ray") is None:
        raise UsageError("Ray is not installed.", "pip install 'frontier-nas[ray]'")


def join() -> tuple[Any, bool]:
    """Ray, in the cluster of RAY_ADDRESS or in one of this machine; whether it was joined here.

    Raises:
        ExecutorError: if the cluster cannot be reached.
    """
    if _has_token():  # which a cluster may ask for; Ray sends it unasked to new ones alone
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    owned = not ray.is_initialized()
    here = threading.current_thread() is threading.main_thread()
    ended_by = signal.getsignal(signal.SIGTERM)
    try:
        if owned:
            ray.init(
                address=os.environ.get("RAY_ADDRESS"),
                log_to_driver=False,
                include_dashboard=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray raises many kinds
        raise ExecutorError(
            f"the Ray cluster cannot be reached: {describe(error)}",
            "Check RAY_ADDRESS, and RAY_AUTH_TOKEN if the cluster asks for a token, or unset "
            "RAY_ADDRESS for a cluster on this machine.",
        ) from None
    finally:
        if here:  # Ray puts an exit of its own there, which skips ours
            signal.signal(signal.SIGTERM, ended_by)
    return ray, owned


def _has_token() -> bool:
    """Whether there is a token where Ray looks for one."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")
    return "RAY_AUTH_TOKEN" in os.environ or os.path.isfile(os.path.expanduser(path))


class _Actor:
    """What runs on the cluster; it gets ready in its first run, as does one that is restarted.

    Args:
        work: how to evaluate.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._evaluate: Evaluate | None = None

    def placed(self) -> None:
        """Answers once the cluster has room for it."""

    def run(
        self, supernet: list[Any], number: int, genome: list[int], goal: float | None
    ) -> list[Any]:
        """An `Outcome` as plain data.

        Args:
            supernet: reference to its files, name -> content, for machines that have not got it.
                In a list, so that Ray hands on the reference; to a constructor it would do so with
                a warning.
            number: of the candidate.
            genome: its choices.
            goal: as `Executor.submit` takes it.
        """
        if self._evaluate is None:
            if self._work.supernet is not None:
                import ray

                from nas.training.store import receive_supernet

                receive_supernet(self._work.supernet.name, ray.get(supernet[0]))
            self._evaluate = self._work.build()
        return attempt(self._evaluate, number, np.array(genome, np.int64), goal).to_json()


class RayCluster(Executor):
    """Candidates side by side on a Ray cluster.

    Args:
        work: what each actor does; it asks Ray for as many CPUs as it has threads.
        workers: actors. Those that the cluster has no room for get no candidates until it has.

    Raises:
        ExecutorError: if the cluster cannot be reached, or no node of it holds even one actor.
    """

    def __init__(self, work: Work, workers: int) -> None:
        self.capacity = workers
        ray, self._owned = join()
        self._ray = ray
        self._require_room(work.threads)
        files = {} if work.supernet is None else _files(work)
        self._supernet = ray.put(files)
        actor = ray.remote(num_cpus=work.threads, max_restarts=-1)(_Actor)
        self._actors = [actor.remote(work) for _ in range(workers)]
        self._idle: deque[Any] = deque()
        self._unplaced = {actor.placed.remote(): actor for actor in self._actors}
        self._waiting: deque[tuple[int, list[int], float | None]] = deque()
        self._running: dict[Any, tuple[Any, int]] = {}

    def _require_room(self, threads: int) -> None:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        most = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
        if most < threads:
            self._leave()
            raise ExecutorError(
                f"no node of the Ray cluster has the {threads} CPUs of a worker: the largest has "
                f"{most:g}.",
                "Give more --workers, which share this machine's cores, or start a larger node.",
            )

    def submit(self, number: int, genome: NDArray[np.int64], goal: float | None = None) -> None:
        """Give it to an idle actor, or to the next that is."""
        self._waiting.append((number, [int(g) for g in genome], goal))
        self._hand_out()

    def _hand_out(self) -> None:
        while self._idle and self._waiting:
            actor, task = self._idle.popleft(), self._waiting.popleft()
            self._running[actor.run.remote([self._supernet], *task)] = (actor, task[0])

    def wait(self) -> list[Outcome]:
        """The next outcomes."""
        outcomes: list[Outcome] = []
        while not outcomes:
            awaited = [*self._running, *self._unplaced]
            for reference in self._ray.wait(awaited, num_returns=1)[0]:
                if reference in self._unplaced:
                    self._idle.append(self._unplaced.pop(reference))
                    continue
                actor, number = self._running.pop(reference)
                outcomes.append(self._outcome(reference, number))
                if outcomes[-1].values is None:  # perhaps lost, and its node with it
                    self._unplaced[actor.placed.remote()] = actor
                else:
                    self._idle.append(actor)
            self._hand_out()
        return outcomes

    def _outcome(self, reference: Any, number: int) -> Outcome:
        errors = self._ray.exceptions
        try:
            return Outcome.from_json(self._ray.get(reference))
        except (errors.RayActorError, errors.RayTaskError) as lost:
            # what evaluating raises is an outcome: this was getting ready, and would be so again
            if isinstance(lost, errors.RayTaskError) or "creation task" in str(lost):
                said = [line for line in str(lost).splitlines() if "Error" in line]
                raise ExecutorError(
                    f"a Ray actor cannot evaluate: {said[-1].strip() if said else lost}",
                    "Install the same versions, and the data, on every machine of the cluster.",
                ) from None
            return Outcome(number, None, f"its actor was lost ({type(lost).__name__})", again=True)
        except errors.RayError as error:
            return Outcome(number, None, describe(error), again=True)

    def close(self) -> None:
        """Kill the actors, and leave the cluster that was joined."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._leave()

    def _leave(self) -> None:
        if self._owned:
            self._ray.shutdown()


def _files(work: Work) -> dict[str, bytes]:
    assert work.supernet is not None
    names = ("config.json", "model.safetensors")
    return {name: (work.supernet / name).read_bytes() for name in names}
