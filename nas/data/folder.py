"""An image folder by path: `PATH/train/CLASS/*.png`, `PATH/val/...`, `PATH/test/...`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nas.data.dataset import Dataset, Part, fingerprint
from nas.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
MAX_BYTES = 4 * 2**30  # of all images in memory
LAYOUT = "Lay images out as PATH/train/CLASS/*.png, PATH/val/CLASS/*.png and, if any, PATH/test."
# Channel statistics of ImageNet, which the 224-pixel presets of the literature are trained with.
STATISTICS: Mapping[int, tuple[list[float], list[float]]] = {
    1: ([0.5], [0.5]),
    3: ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}


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
    channels, height, width = input_shape
    if channels not in STATISTICS:
        raise UsageError(f"images have 1 or 3 channels, not {channels}.", "Choose another space.")
    missing = [part for part in ("train", "val") if not (root / part).is_dir()]
    if missing:
        raise UsageError(f"{root} has no {' and no '.join(missing)} folder.", LAYOUT)
    class_names = tuple(_classes(root / "train"))
    if len(class_names) < 2:
        raise UsageError(f"{root / 'train'} has fewer than two class folders.", LAYOUT)
    parts = {part: _files(root / part, class_names) for part in ("train", "val", "test")}
    if not parts["test"]:
        parts["val"], parts["test"] = _halves(parts["val"])
    empty = [part for part, files in parts.items() if not files]
    if empty:
        raise UsageError(f"{root} has no images for {' and '.join(empty)}.", LAYOUT)
    needed = sum(map(len, parts.values())) * channels * height * width
    if needed > MAX_BYTES:
        raise UsageError(
            f"the images of {root} take {needed / 2**30:.1f} GiB at {height}x{width}.",
            f"Keep a subset of at most {MAX_BYTES / 2**30:.0f} GiB.",
        )
    mean, std = STATISTICS[channels]
    preprocessing: dict[str, Any] = {
        "input_shape": [channels, height, width],
        "resize": "shorter side, bicubic, centre crop",
        "scale": 1 / 255,
        "mean": mean,
        "std": std,
    }
    digest = hashlib.sha256()
    loaded = []
    for part, files in parts.items():
        pixels = np.empty((len(files), channels, height, width), np.uint8)
        for at, (path, _) in enumerate(files):
            content = path.read_bytes()
            digest.update(f"{part}/{path.relative_to(root).as_posix()}/{len(content)}\n".encode())
            digest.update(content)
            pixels[at] = _read(path, content, channels, height, width)
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
    return sorted(path.name for path in part.iterdir() if path.is_dir())


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
        for path in sorted((part / name).iterdir())
        if path.suffix.lower() in SUFFIXES
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


def _read(path: Path, content: bytes, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """One image as (channels, height, width)."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise UsageError(
            "image folders are read with Pillow, which is not installed.",
            "Install it: pip install 'frontier-nas[images]'.",
        ) from None
    import io

    try:
        with Image.open(io.BytesIO(content)) as image:
            plain = image.convert("L" if channels == 1 else "RGB")
            fitted = ImageOps.fit(plain, (width, height), Image.Resampling.BICUBIC)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UsageError(
            f"{path} cannot be read as an image ({error}).", "Remove or replace it."
        ) from None
    pixels = np.asarray(fitted, np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
