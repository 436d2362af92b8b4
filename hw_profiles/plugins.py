"""What other packages bring by entry points."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import entry_points
from typing import Any

from hw_profiles.errors import PluginError, first_line

_LOADED: dict[str, dict[str, Any]] = {}


def load_plugins(group: str, taken: Collection[str] = (), called: bool = False) -> dict[str, Any]:
    """Load the entry points of a group, once a process: name -> what it names.

    Args:
        group: of them.
        taken: names that this program has itself: what goes by one of them is left alone.
        called: whether each names a function whose result is wanted.

    Raises:
        PluginError: if one cannot be loaded.
    """
    if group not in _LOADED:  # finding them looks into every package that is installed
        found = {}
        for plugin in [p for p in entry_points(group=group) if p.name not in taken]:
            try:
                loaded = plugin.load()
                found[plugin.name] = loaded() if called else loaded
            except Exception as error:  # whatever foreign code raises
                whose = f"{plugin.name} of package {plugin.dist.name if plugin.dist else '?'}"
                raise PluginError(
                    f"plug-in {whose} cannot be loaded: {first_line(error)}.",
                    "Update or uninstall it.",
                ) from error
        _LOADED[group] = found
    return _LOADED[group]
