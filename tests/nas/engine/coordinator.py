"""A coordinator to be killed: a toy search, its trials in a database.

`python coordinator.py URL TRIALS KILLS`: forks a coordinator KILLS times and kills it after a
random time, with SIGKILL; then lets one run to the end.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable

import numpy as np
from search_problems import Layered, search

from nas.engine.loop import Evaluated
from nas.storage.database import open_database
from nas.storage.records import StudyRecord, TrialRecord
from nas.storage.studies import Studies

NAME = "killed"


def create(url: str) -> None:
    """Open the study."""
    with open_database(url) as database:
        Studies(database).create_study(
            StudyRecord(NAME, "toy", "", "toy", "", 1, "", [], [], 5, "guided", {}, "", "", "0")
        )


def coordinate(
    url: str, trials: int, before: Callable[[int], object] = lambda number: None
) -> None:
    """Claim the study and bring it to its trials; `before` is told each before it is evaluated."""
    toy = Layered(3, budget_ms=9.0)

    def evaluate(genome, number, goal):
        before(number)
        time.sleep(0.002)
        return toy.evaluate(genome, number, goal)

    with open_database(url) as database:
        studies = Studies(database)
        study = studies.find_study(NAME)
        with studies.claimed(study):

            def record(t: Evaluated) -> None:
                genome = tuple(int(g) for g in t.genome)
                quality = t.values["accuracy"]
                stored = TrialRecord(
                    t.number, t.key, genome, {}, {}, quality=quality, feasible=True,
                    origin=t.origin, seconds=t.seconds,
                )  # fmt: skip
                studies.add_trial(study.id, stored)

            history = [
                Evaluated(
                    t.number, np.array(t.genome, dtype=np.int64), t.key,
                    {"accuracy": float(t.quality or 0)}, True, "complete", t.origin,
                )
                for t in studies.trials(study.id)
            ]  # fmt: skip
            search(toy, "guided", trials, history=history, evaluate=evaluate, record=record)


def main(url: str, trials: int, kills: int) -> None:
    """Kill coordinators, then let one finish."""
    create(url)
    lot = random.Random(0)
    for kill in range(kills + 1):
        child = os.fork()
        if child == 0:
            coordinate(url, trials)
            os._exit(0)
        if kill < kills:
            time.sleep(lot.uniform(0.02, 0.25))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
