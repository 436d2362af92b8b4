"""Who runs a study: one coordinator at a time, and a dead one's claim is taken over.

No clock is asked how old a claim is: clocks jump, and those of two hosts differ.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Connection, Delete, Update, select

from nas.command_line import command
from nas.errors import NotFoundError, StorageError
from nas.storage.database import Database
from nas.storage.models import Study
from nas.storage.records import utc_now

RENEWAL_S = 15.0
"""Between two signs of life of a coordinator that has no trial to commit."""
SILENCE_S = 60.0
"""After which a coordinator that nobody can look for, watched all the time, is dead."""
LOOK_S = 0.5
"""Between two looks."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that runs a study.

    Attributes:
        started: when the process began, in the system's own ticks since boot (a process id is
            used again, and clocks jump); empty where the system does not tell.
        since: when it claimed the study, ISO 8601 in UTC.
        process_table: which one its process id is of: the boot of the machine and the PID
            namespace; empty where the system does not tell, and of claims of older versions.
    """

    host: str
    pid: int
    started: str
    since: str
    process_table: str

    @classmethod
    def this_process(cls) -> Holder:
        """The calling process, as of now."""
        pid = os.getpid()
        since = utc_now().isoformat(timespec="seconds")
        return cls(socket.gethostname(), pid, _started(pid), since, _process_table())

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Holder:
        """From what `dataclasses.asdict` gave."""
        return cls(
            str(document["host"]),
            int(document["pid"]),
            str(document["started"]),
            str(document["since"]),
            str(document.get("process_table", "")),
        )

    def __str__(self) -> str:
        since = f"{datetime.fromisoformat(self.since):%Y-%m-%d %H:%M} UTC"
        return f"process {self.pid} on {self.host} (since {since})"

    def lives(self) -> bool | None:
        """Whether the process is there; None where it cannot be looked for from here.

        Containers and cloned machines may share a host name: only the same process table counts.
        So one that died with its machine is not known to be dead after the next boot either.
        """
        if (self.host, self.process_table) != (socket.gethostname(), _process_table()):
            return None
        try:
            if psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # it lives, under another user
            return True
        return _started(self.pid) == self.started


class Watch:
    """Looks at a claim again and again, until it is known whether its holder lives."""

    def __init__(self) -> None:
        self._sign: datetime | None = None
        self._since = 0.0

    def lives(self, holder: Holder, sign: datetime) -> bool | None:
        """Whether the holder does; None while that is not known.

        Args:
            holder: as the claim names it.
            sign: its last sign of life, by whatever clock: only a change of it counts.
        """
        lives = holder.lives()
        if lives is not None:
            return lives
        before, now = self._sign, time.monotonic()
        if before != sign:
            self._sign, self._since = sign, now
            return None if before is None else True
        return False if now - self._since >= SILENCE_S else None


def once_free(
    database: Database,
    study_id: int,
    token: str,
    change: Callable[[], Update | Delete],
    then: Callable[[Connection], None] = lambda connection: None,
) -> None:
    """Change a study that no coordinator but one's own runs.

    Args:
        database: where it is.
        study_id: of the study.
        token: of one's own claim.
        change: of studies; it is made of this one, if nothing happened to its claim meanwhile.
        then: is done in the same transaction.

    Raises:
        NotFoundError: there is no such study.
        StorageError: another coordinator lives; who and since when is said.
    """
    watch, told = Watch(), False
    seen = select(Study.name, Study.holder, Study.holder_token, Study.active_at)
    while True:
        with database.read() as connection:
            row = connection.execute(seen.where(Study.id == study_id)).one_or_none()
        if row is None:
            raise NotFoundError("the study does not exist any more.", "See `nas studies`.")
        free = row.holder is None or row.holder_token == token
        holder = None if free else Holder.from_json(row.holder)
        lives = holder is not None and watch.lives(holder, row.active_at)
        if lives:
            follow = command(["studies", "watch", row.name], database.url)
            raise StorageError(
                f"study {row.name!r} is being run by {holder}.",
                f"Follow it with `{follow}`; once it has ended, run this command again.",
            )
        if lives is None:
            if not told:
                text = "waiting up to %g s for a sign of life of %s, which holds study %r"
                logger.warning(text, SILENCE_S, holder, row.name)
            told = True
            time.sleep(LOOK_S)
            continue
        as_seen = (
            Study.id == study_id,
            Study.holder_token.is_not_distinct_from(row.holder_token),
            Study.active_at == row.active_at,
        )
        with database.write() as connection:
            if connection.execute(change().where(*as_seen)).rowcount == 1:
                then(connection)
                return


def _process_table() -> str:
    """The boot of this machine and the PID namespace of this process, where there are such."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]  # field 22; the name before ")" may hold spaces
