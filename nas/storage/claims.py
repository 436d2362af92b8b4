"""Who runs a study: one coordinator at a time, and a dead one's claim is taken over."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from nas.storage.records import utc_now

EXPIRY = timedelta(minutes=5)
"""A claim on another host that was not renewed for so long is void."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that runs a study.

    Attributes:
        started: when the process began, in the system's own ticks since boot (a process id is
            used again, and clocks jump); empty where the system does not tell.
        since: when it claimed the study, ISO 8601 in UTC.
    """

    host: str
    pid: int
    started: str
    since: str

    @classmethod
    def this_process(cls) -> Holder:
        """The calling process, as of now."""
        pid = os.getpid()
        since = utc_now().isoformat(timespec="seconds")
        return cls(socket.gethostname(), pid, _started(pid), since)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Holder:
        """From what `dataclasses.asdict` gave."""
        return cls(
            str(document["host"]),
            int(document["pid"]),
            str(document["started"]),
            str(document["since"]),
        )

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"

    def is_void(self, active_at: datetime) -> bool:
        """Whether the claim can be taken over.

        On this host the process itself tells; a live one keeps its claim for ever. Of another
        host only the age of the last renewal is known. An age below zero is that of a clock that
        jumped, so only its size counts.
        """
        if self.host != socket.gethostname():
            return abs(utc_now() - active_at) > EXPIRY
        try:
            if psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:  # it lives, under another user
            return False
        return _started(self.pid) != self.started


def _started(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]  # field 22; the name before ")" may hold spaces
