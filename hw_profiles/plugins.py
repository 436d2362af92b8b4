"""What other packages bring by entry points."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Any

from hw_profiles.errors import PluginError, first_line


@cache  # finding them looks into every package that is installed
def load_plugins(group: str) -> dict[str, Any]:
    """Load the entry points of a group, once a process: name -> what it names.

    Raises:
        PluginError: if one cannot be loaded.
    """
    found = {}
    for plugin in entry_points(group=group):
        try:
            found[plugin.name] = plugin.load()
        except Exception as error:  # whatever foreign code raises
            whose = f"{plugin.name} of package {plugin.dist.name if plugin.dist else '?'}"
            raise PluginError(
                f"plug-in {whose} cannot be loaded: {first_line(error)}.",
                "Update or uninstall it.",
            ) from error
    return found
