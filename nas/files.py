"""Whether a place can keep a file, where that is better known beforehand."""

from __future__ import annotations

import tempfile
from pathlib import Path

from nas.errors import ExportError


def require_writable(path: Path, option: str) -> None:
    """Refuse a place that cannot keep a file, before minutes of work for it.

    Raises:
        ExportError: naming the option that asked for it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            return
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written ({error.strerror}).", f"Choose another {option}."
        ) from None
