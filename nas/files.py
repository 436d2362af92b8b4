"""Whether a place can keep a file, where that is better known beforehand."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from nas.errors import ExportError


def require_writable(path: Path, option: str) -> None:
    """Refuse a place that cannot keep a file, before minutes of work for it; nothing is made there.

    Raises:
        ExportError: naming the option that asked for it.
    """
    if os.path.isdir(path):
        raise ExportError(f"{path} is a folder.", f"Name a file for {option}.")
    try:
        for folder in path.parents:  # the nearest that is there; those below it will be made
            with suppress(FileNotFoundError):
                folder.lstat()
                break
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written ({error.strerror}).", f"Choose another {option}."
        ) from None
