"""A study that runs elsewhere, as it goes."""

from __future__ import annotations

import time

from nas.command_line import command
from nas.events import Listener, silent
from nas.paths import DEFAULT_STORAGE
from nas.report.standing import Standing
from nas.storage.database import open_database
from nas.storage.patience import patiently
from nas.storage.studies import Studies
from nas.study import ended_early, ended_line
from nas.wording import counted

EVERY_S = 1.0


def watch(
    name: str, storage: str = DEFAULT_STORAGE, listener: Listener = silent, every_s: float = EVERY_S
) -> list[str]:
    """Tell of a study's trials as they are committed, until it is done or nobody runs it.

    Args:
        name: of the study.
        storage: SQLAlchemy URL.
        listener: told of how the search stands.
        every_s: seconds between two looks.

    Returns:
        What to say at the end, line by line.

    Raises:
        NotFoundError: if there is no such study or no database.
        StorageError: if the database fails; one that only does not answer is waited for.
    """
    with open_database(storage, create=False) as database:
        studies = Studies(database)
        study = studies.find_study(name)
        id_ = study.id
        past = studies.trials(id_)
        standing = Standing(study, int(study.request["asked"]["trials"]), past)
        newest = max((trial.id for trial in past), default=0)
        if past:
            listener(standing.event())
        while True:
            # Who runs it is asked first: what was committed until then is seen below.
            holder = patiently(lambda: studies.holder(id_))
            since = newest
            new = patiently(lambda: studies.trials(id_, after_id=since))  # noqa: B023
            now = time.monotonic()  # of the look: nobody saw when each arrived
            for trial in sorted(new, key=lambda t: t.id):
                standing.add(trial, now)
                newest = trial.id
            if new:
                listener(standing.event())
            study = patiently(lambda: studies.find_study(name))
            standing.total = int(study.request["asked"]["trials"])
            if holder is None or standing.done >= standing.total:
                break
            time.sleep(every_s)
    done, total = standing.done, standing.total
    front = counted(len(standing.front), "network")
    lines = [f"{name}: {done} of {total} trials, {front} on the front"]
    ended = ended_early(study, done)
    if ended:
        lines.append(ended_line(ended))
    if done >= total or (ended and ended["final"]):
        lines.append(f"see the front with: {command(['pareto', name], storage)}")
    else:
        lines.append(f"nobody runs it; go on with: {command(['resume', name], storage)}")
    return lines
