"""Device profiles by name: the shipped ones, plug-ins, and files."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from hw_profiles.errors import NotFoundError, nearest
from hw_profiles.plugins import load_plugins
from hw_profiles.profile import DeviceProfile, load_profile


def shipped() -> dict[str, Path]:
    """Name -> file of every profile that ships, and of those that plug-ins bring.

    A plug-in registers an entry point in the group `nas.devices`: a function without arguments
    that returns the path of its profile, under the device's name.
    """
    folder = Path(str(files("hw_profiles"))) / "data"
    found = {path.stem: path for path in sorted(folder.glob("*.json"))}
    brought = load_plugins("nas.devices", found, called=True)
    return found | {name: Path(path) for name, path in brought.items()}


def load(name: str, more: dict[str, Path] | None = None) -> DeviceProfile:
    """The profile of a name, or of a file where `name` is a path.

    Args:
        name: of a shipped device or one of `more`, or a path to a profile.
        more: further names and their files.

    Raises:
        NotFoundError: if there is neither such a device nor such a file.
        ProfileError: if the file is no profile.
    """
    known = {**shipped(), **(more or {})}
    if name in known:
        return load_profile(known[name])
    path = Path(os.path.expanduser(name))
    if os.path.exists(path) and not os.path.isdir(path):
        return load_profile(path)
    if path.suffix == ".json" or "/" in name:
        raise NotFoundError(
            f"there is no profile file {name}.", "Make one with `nas profile --out FILE`."
        )
    raise nearest(name, [*known, "cpu"], "target")
