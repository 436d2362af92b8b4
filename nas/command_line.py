"""Commands as a message gives them, to be typed as they stand."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from nas.paths import DEFAULT_STORAGE
from nas.storage.faults import hide_password


def command(words: Sequence[str], storage: str) -> str:
    """A command on a study, with where that is if it has to be said; a password is hidden.

    >>> command(["pareto", "vit-a100"], "sqlite:///other.db")
    'nas pareto vit-a100 --storage sqlite:///other.db'
    """
    where, usual = hide_password(storage), os.environ.get("NAS_STORAGE", DEFAULT_STORAGE)
    return shlex.join(["nas", *words, *(["--storage", where] * (where != hide_password(usual)))])
