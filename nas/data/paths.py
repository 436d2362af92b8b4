"""Data at a path: what lies there, by the kind of example that the space takes."""

from __future__ import annotations

from pathlib import Path

from nas.data.dataset import Dataset
from nas.data.registry import HUB
from nas.errors import UsageError


def load_path(name: str, input_shape: tuple[int, ...], kind: str) -> Dataset:
    """The data at a path that exists, or those of `hf:NAME_OR_FOLDER`.

    Args:
        name: the path, or `hf:` and what follows.
        input_shape: the space's.
        kind: the space's input: `image`, `waveform` or `tokens`.

    Raises:
        UsageError: if there lies nothing of that kind, or it cannot be read.
    """
    if name.startswith(HUB):
        from nas.data.hub import load_hub

        return load_hub(name.removeprefix(HUB), input_shape, kind)
    path = Path(name)
    if kind == "tokens":
        from nas.data.text import is_text, load_text

        if not is_text(path):
            raise UsageError(
                f"{path} holds no text, which the space takes.",
                "Give a .txt file or a folder of them.",
            )
        return load_text(path, input_shape)
    if kind == "waveform":
        from nas.data.speech_commands import load_speech_commands

        return load_speech_commands(path, input_shape)
    from nas.data.cifar import is_cifar, load_cifar
    from nas.data.folder import LAYOUT, load_folder

    if is_cifar(path):
        return load_cifar(path, input_shape)
    if not path.is_dir():
        raise UsageError(
            f"{path} is neither a CIFAR archive nor a folder of images.",
            f"Give cifar-10-python.tar.gz or cifar-100-python.tar.gz as published. {LAYOUT}",
        )
    return load_folder(path, input_shape)
