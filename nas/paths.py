"""Where the program keeps what it made, unless it is told otherwise."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

DEFAULT_STORAGE = "sqlite:///nas.db"
DEFAULT_OUT = Path("nas-out")


def cache_dir() -> Path:
    """The user's cache folder (`NAS_CACHE` moves it); it may not exist yet."""
    chosen = os.environ.get("NAS_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("frontier-nas", False)
