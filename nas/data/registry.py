"""Data sets by name or by path."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import NotFoundError, UsageError, nearest

if TYPE_CHECKING:
    from nas.data.dataset import Dataset

Loader = Callable[[], "Dataset"]

_LOADERS: dict[str, Loader] = {}


def register_dataset(name: str) -> Callable[[Loader], Loader]:
    """Register a function without arguments that loads a data set.

    The first line of its docstring is what `list_datasets` shows. A package outside this one
    registers by an entry point in the group `nas.datasets` that names a module with such a
    decorated function.
    """

    def add(loader: Loader) -> Loader:
        _LOADERS[name] = loader
        return loader

    return add


def _loaders() -> dict[str, Loader]:
    import nas.data.digits  # noqa: F401  # registers itself

    for plugin in entry_points(group="nas.datasets"):
        if plugin.name not in _LOADERS:
            plugin.load()
    return _LOADERS


def list_datasets() -> dict[str, str]:
    """Registered data sets: name -> what it is, in one line."""
    return {
        name: (loader.__doc__ or "").strip().partition("\n")[0]
        for name, loader in sorted(_loaders().items())
    }


def load_dataset(name_or_path: str | Path, input_shape: tuple[int, ...] | None = None) -> Dataset:
    """A registered data set, or the image folder at a path.

    Args:
        name_or_path: a registered name, or a folder that holds `train/CLASS/*.png`, `val` and
            `test` alike (see `nas.data.folder`).
        input_shape: the space's (channels, height, width). Folders are resized to it; a
            registered data set must have it.

    Raises:
        NotFoundError: if there is neither such a name nor such a folder.
        UsageError: if the images do not fit the space, or the folder lacks a part.
    """
    name = str(name_or_path)
    loaders = _loaders()
    if name in loaders:
        data = loaders[name]()
        if input_shape is not None and tuple(input_shape) != data.input_shape:
            raise UsageError(
                f"{name} has images of {_times(data.input_shape)}, the space takes "
                f"{_times(input_shape)}.",
                "Choose another preset or give an image folder with --data.",
            )
        return data
    if Path(name).is_dir():
        from nas.data.folder import load_folder

        if input_shape is None:
            raise UsageError(
                f"the images of {name} are resized to a space's input.", "Name the space."
            )
        return load_folder(Path(name), input_shape)
    if os.sep in name or name.startswith("."):
        raise NotFoundError(
            f"there is no folder {name}.", f"Known data sets: {', '.join(sorted(loaders))}."
        )
    raise nearest(name, loaders, "data set")


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)
