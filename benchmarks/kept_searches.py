"""Finished searches in a folder, so that a run of many goes on where it ended.

One file a search, by sampler, evaluations and seed. Several runs may fill one folder at once, each
with seeds of its own. What is kept is of the code that ran: after a change, take a new folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from known_problems import Floats

from nas.errors import UsageError

PROBLEM = "problem.json"


class KeptSearches:
    """The searches of one problem in a folder.

    Args:
        folder: made where it is missing.
        problem: what tells the problem from another, as JSON.

    Raises:
        UsageError: if the folder holds searches of another problem.
        OSError: if it cannot be made or read.
    """

    def __init__(self, folder: Path, problem: Mapping[str, object]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        wanted = json.dumps(problem, sort_keys=True)
        own = folder / f"{PROBLEM}.{os.getpid()}"
        own.write_text(wanted, encoding="utf-8")
        try:
            os.link(own, folder / PROBLEM)  # whole, or not at all if another run was first
        except FileExistsError:
            if (folder / PROBLEM).read_text(encoding="utf-8") != wanted:
                raise UsageError(
                    f"{folder} holds searches of another problem.", "Give --keep a new folder."
                ) from None
        finally:
            own.unlink()

    def get(
        self, sampler: str, evaluations: int, seed: int, search: Callable[[], Floats]
    ) -> Floats:
        """Objectives of the trials of one search, (n, objectives), made where they are not kept.

        Raises:
            UsageError: if what is kept cannot be read.
        """
        path = self.folder / f"{sampler}-{evaluations}-seed{seed}.npy"
        if path.exists():
            try:
                kept: Floats = np.load(path, allow_pickle=False)
            except (ValueError, EOFError):
                raise UsageError(f"{path} is no kept search.", "Delete it.") from None
            return kept
        points = search()
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, points, allow_pickle=False)
        part.replace(path)
        return points
