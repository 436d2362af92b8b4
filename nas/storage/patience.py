"""Waiting for a database that does not answer: a server that restarts, a lock that is held."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from nas.errors import StorageUnavailable

Result = TypeVar("Result")

PATIENCE_S = 120.0
PAUSE_S = 0.5


def patiently(
    call: Callable[[], Result],
    waiting: Callable[[StorageUnavailable], None] = lambda _: None,
    patience_s: float = PATIENCE_S,
) -> Result:
    """What a call returns, tried again as long as the database does not answer.

    Args:
        call: may be made twice: a connection can break after a commit and before its answer.
        waiting: told once, with what the database said.
        patience_s: since the first failure.

    Raises:
        StorageUnavailable: if it is still away then.
        StorageError: any other fault, at once.
    """
    since: float | None = None
    while True:
        try:
            return call()
        except StorageUnavailable as away:
            now = time.monotonic()
            if since is None:
                since = now
                waiting(away)
            if now - since > patience_s:
                raise
        time.sleep(PAUSE_S)
