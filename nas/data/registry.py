"""Data sets by name or by path."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hw_profiles.plugins import load_plugins
from nas.errors import NotFoundError, UsageError, nearest

if TYPE_CHECKING:
    from nas.data.dataset import Dataset

Loader = Callable[..., "Dataset"]
# What an example of a kind is called in a message.
HUB = "hf:"  # what names a Hugging Face data set begins with
EXAMPLES = {"image": "images", "waveform": "waveforms", "tokens": "text"}


@dataclass(frozen=True)
class Registered:
    """A loader and the kind of its examples: `image`, `waveform` or `tokens`."""

    loader: Loader
    kind: str


_LOADERS: dict[str, Registered] = {}


def register_dataset(name: str, kind: str = "image") -> Callable[[Loader], Loader]:
    """Register a function that loads a data set.

    Where it has a parameter `input_shape`, it is given the space's, or None. The first line of
    its docstring is what `list_datasets` shows. A package outside this one registers by an entry
    point in the group `nas.datasets` that names a module with such a decorated function.

    Args:
        name: for `--data`.
        kind: of its examples: `image`, `waveform` or `tokens`.
    """

    def add(loader: Loader) -> Loader:
        _LOADERS[name] = Registered(loader, kind)
        return loader

    return add


def _loaders() -> dict[str, Registered]:
    import nas.data.digits
    import nas.data.pydoc
    import nas.data.vowels  # noqa: F401  # they register themselves

    load_plugins("nas.datasets", _LOADERS)
    return _LOADERS


def list_datasets() -> dict[str, str]:
    """Registered data sets: name -> what it is, in one line."""
    return {
        name: (registered.loader.__doc__ or "").strip().partition("\n")[0]
        for name, registered in sorted(_loaders().items())
    }


def full_name(name: str) -> str:
    """A data set's name, or its path from the root, which means the same in every folder."""
    if name in _loaders():
        return name
    prefix, path = (HUB, name.removeprefix(HUB)) if name.startswith(HUB) else ("", name)
    return prefix + os.path.abspath(path) if path and os.path.exists(path) else name


def load_dataset(
    name_or_path: str | Path,
    input_shape: tuple[int, ...] | None = None,
    kind: str | None = None,
) -> Dataset:
    """A registered data set, or the one at a path, as a space takes it.

    Args:
        name_or_path: a registered name, `hf:NAME_OR_PATH` of the Hugging Face hub's cache, or a
            path: an image folder or CIFAR archive for images, a Speech Commands folder for
            waveforms, a `.txt` file or a folder of them for text.
        input_shape: the space's: images (channels, height, width), waveforms (samples,), text
            (length,). Data at a path and text are fitted to it; other registered data must have
            it.
        kind: the space's input: `image`, `waveform` or `tokens`. None takes what a registered
            name has, and images at a path.

    Raises:
        NotFoundError: if there is neither such a name nor such a path.
        UsageError: if the data do not fit the space, or cannot be read.
    """
    name = full_name(str(name_or_path))
    loaders = _loaders()
    if name in loaders:
        return _load_registered(name, loaders, input_shape, kind)
    if name.startswith(HUB) or Path(name).exists():
        if input_shape is None:
            raise UsageError(f"{name} is fitted to a space's input.", "Name the space.")
        from nas.data.paths import load_path

        return load_path(name, input_shape, kind or "image")
    if os.sep in name or name.startswith("."):
        raise NotFoundError(
            f"there is no file or folder {name}.",
            f"Known data sets: {', '.join(sorted(loaders))}.",
        )
    raise nearest(name, loaders, "data set")


def _load_registered(
    name: str,
    loaders: dict[str, Registered],
    input_shape: tuple[int, ...] | None,
    kind: str | None,
) -> Dataset:
    """The registered data set, if the space takes it."""
    registered = loaders[name]
    if kind is not None and registered.kind != kind:
        fitting = sorted(each for each, known in loaders.items() if known.kind == kind)
        raise UsageError(
            f"{name} is {EXAMPLES[registered.kind]}, the space takes {EXAMPLES[kind]}.",
            f"Data sets that fit: {', '.join(fitting) or 'none'}; or a path.",
        )
    shaped = "input_shape" in inspect.signature(registered.loader).parameters
    data = registered.loader(input_shape=input_shape) if shaped else registered.loader()
    if input_shape is not None and tuple(input_shape) != data.input_shape:
        raise UsageError(
            f"{name} has {EXAMPLES[data.kind]} of {_times(data.input_shape)}, the space takes "
            f"{_times(input_shape)}.",
            "Choose another preset or give a path with --data.",
        )
    return data


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)
