"""The executors that a search can name."""

from __future__ import annotations

from hw_profiles.machine import this_cpu
from nas.errors import UsageError, nearest
from nas.executors.executor import Evaluate, Executor, InProcess
from nas.executors.work import Work

EXECUTORS = {
    "local": "in this process, or with --workers in processes of this machine",
    "ray": "actors of a Ray cluster: the one that RAY_ADDRESS names, or one made here",
}
MAX_WORKERS = 1024


def require_executor(name: str, workers: int) -> None:
    """Check what a user asked for, before anything is loaded.

    Raises:
        NotFoundError: if there is no such executor.
        UsageError: if it is not installed, or the number of workers is out of range.
    """
    if name not in EXECUTORS:
        raise nearest(name, EXECUTORS, "executor")
    if not 1 <= workers <= MAX_WORKERS:
        raise UsageError(f"--workers must be from 1 to {MAX_WORKERS:,}, not {workers:,}.", "")
    if name == "ray":
        from nas.executors.ray_cluster import require_ray

        require_ray()


def threads_of(workers: int) -> int:
    """Threads of each worker on this machine, whose cores they share."""
    return max((this_cpu().cores or 1) // workers, 1)


def open_executor(name: str, workers: int, here: Evaluate, work: Work) -> Executor:
    """An executor by name.

    Args:
        name: from `EXECUTORS`.
        workers: candidates at once.
        here: evaluates in this process.
        work: how another process does the same.

    Raises:
        ExecutorError: if the workers cannot be started.
    """
    if name == "ray":
        from nas.executors.ray_cluster import RayCluster

        return RayCluster(work, workers)
    if workers == 1:
        return InProcess(here)
    from nas.executors.pool import LocalPool

    return LocalPool(work, workers)
