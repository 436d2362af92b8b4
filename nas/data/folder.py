"""An image folder by path: `PATH/train/CLASS/*.png`, `PATH/val/...`, `PATH/test/...`."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nas.data.dataset import Dataset, Part, fingerprint
from nas.data.images import decode, image_preprocessing
from nas.data.reading import check_size, read_files
from nas.errors import UsageError

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
LAYOUT = "Lay images out as PATH/train/CLASS/*.png, PATH/val/CLASS/*.png and, if any, PATH/test."


def load_folder(root: Path, input_shape: tuple[int, ...]) -> Dataset:
    """The folder's images, resized to the space's input.

    The shorter side is resized and the centre cut out. Without a `test` part every second image
    of each class of `val`, in the order of names, becomes test.

    Args:
        root: of the folder.
        input_shape: (channels, height, width); one channel means grey, three colour.

    Raises:
        UsageError: if a part or class is missing, an image cannot be read, all together are too
            large for memory, or Pillow is not installed.
    """
    preprocessing = image_preprocessing(input_shape)
    missing = [part for part in ("train", "val") if not (root / part).is_dir()]
    if missing:
        raise UsageError(f"{root} has no {' and no '.join(missing)} folder.", LAYOUT)
    class_names = tuple(_classes(root / "train"))
    if len(class_names) < 2:
        raise UsageError(f"{root / 'train'} has fewer than two folders of images.", LAYOUT)
    parts = {part: _files(root / part, class_names) for part in ("train", "val", "test")}
    if not parts["test"]:
        parts["val"], parts["test"] = _halves(parts["val"])
    empty = [part for part, files in parts.items() if not files]
    if empty:
        raise UsageError(f"{root} has no images for {' and '.join(empty)}.", LAYOUT)
    check_size(str(root), sum(map(len, parts.values())), math.prod(input_shape))
    digest = hashlib.sha256()
    loaded = []
    for part, files in parts.items():
        pixels, hashes = _read(files, input_shape)
        for (path, _), content in zip(files, hashes, strict=True):
            digest.update(f"{part}/{path.relative_to(root).as_posix()}/{content}\n".encode())
        labels = torch.tensor([label for _, label in files], dtype=torch.int64)
        loaded.append(Part(torch.from_numpy(pixels), labels, preprocessing))
    shaped_by = {
        "classes": class_names,
        "content": digest.hexdigest(),
        "preprocessing": preprocessing,
    }
    train, validation, test = loaded
    return Dataset(
        str(root),
        train,
        validation,
        test,
        class_names,
        preprocessing,
        fingerprint(shaped_by),
    )


def _classes(part: Path) -> list[str]:
    """The folders that hold images; one without any is no class, for none would be learned."""
    return sorted(folder.name for folder in part.iterdir() if folder.is_dir() and _images(folder))


def _images(folder: Path) -> list[Path]:
    """A folder's images in the order of names; none of a hidden folder."""
    if folder.name.startswith("."):
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _files(part: Path, class_names: tuple[str, ...]) -> list[tuple[Path, int]]:
    """The part's images with their labels, in the order of names; nothing if there is no part."""
    if not part.is_dir():
        return []
    foreign = sorted(set(_classes(part)) - set(class_names))
    if foreign:
        raise UsageError(f"{part} has classes that train lacks: {', '.join(foreign)}.", LAYOUT)
    return [
        (path, label)
        for label, name in enumerate(class_names)
        if (part / name).is_dir()
        for path in _images(part / name)
    ]


def _halves(
    files: list[tuple[Path, int]],
) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Every second image of each class apart."""
    first: list[tuple[Path, int]] = []
    second: list[tuple[Path, int]] = []
    for label in sorted({label for _, label in files}):
        members = [file for file in files if file[1] == label]
        first += members[0::2]
        second += members[1::2]
    return first, second


def _read(
    files: list[tuple[Path, int]], input_shape: tuple[int, ...]
) -> tuple[NDArray[np.uint8], list[str]]:
    """The images and the hash of each file, decoded in workers."""
    pixels = np.empty((len(files), *input_shape), np.uint8)
    paths = [path for path, _ in files]
    hashes = read_files(paths, pixels, lambda path, raw: decode(path, raw, input_shape))
    return pixels, hashes
