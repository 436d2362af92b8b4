"""Text as bytes: cut into windows in which every byte predicts the next."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.data.dataset import Dataset, Part, fingerprint
from nas.data.reading import check_size
from nas.errors import UsageError

BYTES = tuple(f"{byte:#04x}" for byte in range(256))
LENGTH = 64  # of a window where no space says another
TRAIN_OVERLAP = 4  # windows that share a byte: it is then learned in as many contexts
SPLIT_BLOCK = 4_096  # bytes of a file that stay together
PARTS = ("train", "validation", "test")
# Of 16 shares of the text, as of the digits: 10 train, 3 validation, 3 test.
SHARES = (10, 3, 3)


def windows(content: bytes, length: int, stride: int) -> Tensor:
    """All whole windows of a text.

    Args:
        content: the text.
        length: of a window's input in bytes; one byte more is kept, the last label.
        stride: bytes from one window to the next. With `length`, every byte but the first is a
            label exactly once.

    Returns:
        uint8, (n, length + 1); n is 0 if the text is shorter than a window.
    """
    text = np.frombuffer(content, np.uint8)
    if len(text) <= length:
        return torch.empty(0, length + 1, dtype=torch.uint8)
    cut = np.lib.stride_tricks.sliding_window_view(text, length + 1)[::stride]
    return torch.from_numpy(cut.copy())


def part_of(name: str, seed: int) -> str:
    """The part that a named piece of text belongs to: by a hash, whatever the other pieces are."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") % sum(SHARES)
    return PARTS[int(np.searchsorted(np.cumsum(SHARES), share, side="right"))]


def text_dataset(
    name: str, texts: Mapping[str, bytes], length: int, shaped_by: Mapping[str, Any]
) -> Dataset:
    """A data set of three texts.

    Validation and test are cut so that each byte is judged once; the windows of train overlap.

    Args:
        name: of the data set.
        texts: `train`, `validation` and `test`.
        length: of a window's input in bytes, at least 1.
        shaped_by: what decided the texts and their split, as JSON.

    Raises:
        UsageError: if a part is shorter than one window.
    """
    preprocessing: dict[str, Any] = {"kind": "tokens", "input_shape": [length], "tokens": "bytes"}
    parts: dict[str, Part] = {}
    for part in PARTS:
        overlap = min(TRAIN_OVERLAP, length) if part == "train" else 1
        cut = windows(texts[part], length, length // overlap)
        if not len(cut):
            raise UsageError(
                f"{name} has {len(texts[part])} bytes for {part}, a window takes {length + 1}.",
                "Give more text or a preset of a shorter context.",
            )
        parts[part] = Part(cut, torch.empty(0, dtype=torch.int64), preprocessing, overlap)
    recipe = {**shaped_by, "train_overlap": TRAIN_OVERLAP, "preprocessing": preprocessing}
    train, validation, test = (parts[part] for part in PARTS)
    return Dataset(name, train, validation, test, BYTES, preprocessing, fingerprint(recipe))


def window_length(input_shape: tuple[int, ...] | None) -> int:
    """The length that a space takes; `LENGTH` if there is none."""
    return LENGTH if input_shape is None else input_shape[0]


def is_text(path: Path) -> bool:
    """Whether a path is a `.txt` file or a folder that holds one, at any depth."""
    if path.is_file():
        return path.suffix.lower() == ".txt"
    return any(map(Path.is_file, path.rglob("*.txt")))


def load_text(path: Path, input_shape: tuple[int, ...] | None = None) -> Dataset:
    """A `.txt` file, or all of a folder, split by blocks of 4 KiB.

    A folder with `train.txt`, `validation.txt` (or `valid.txt`, `val.txt`) and `test.txt` keeps
    that split. Otherwise each file is cut into blocks, and a hash of the file's name and the
    block's number says which part a block belongs to.

    Args:
        path: the file or folder.
        input_shape: the space's (length,).

    Raises:
        UsageError: if there is no text, too little or too much of it, or a file cannot be read.
    """
    files = [path] if path.is_file() else sorted(filter(Path.is_file, path.rglob("*.txt")))
    root = path.parent if path.is_file() else path
    try:
        # Before it is read, for that may be more than this machine holds.
        _check_windows(str(path), sum(each.stat().st_size for each in files), input_shape)
        contents = {each.relative_to(root).as_posix(): each.read_bytes() for each in files}
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error}).", "Check its permissions.") from None
    if not any(contents.values()):
        raise UsageError(f"{path} holds no text.", "Give a .txt file or a folder of them.")
    return load_texts(str(path), contents, input_shape)


def load_texts(
    name: str, contents: Mapping[str, bytes], input_shape: tuple[int, ...] | None
) -> Dataset:
    """Files by name, split by their names or by blocks as `load_text` says."""
    _check_windows(name, sum(map(len, contents.values())), input_shape)
    texts = _official_split(contents) or _block_split(contents)
    digest = hashlib.sha256()
    for part in PARTS:
        digest.update(f"{part}/{len(texts[part])}\n".encode() + texts[part])
    shaped_by = {"content": digest.hexdigest()}
    return text_dataset(name, texts, window_length(input_shape), shaped_by)


def _check_windows(name: str, n_bytes: int, input_shape: tuple[int, ...] | None) -> None:
    """Refuse a text whose overlapping windows do not fit into memory."""
    length = window_length(input_shape)
    check_size(name, TRAIN_OVERLAP * n_bytes // length, length + 1)


def _official_split(contents: Mapping[str, bytes]) -> dict[str, bytes] | None:
    """The parts that the files' names say, if they name all three."""
    names = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
    found = {
        part: next((contents[f"{s}.txt"] for s in stems if f"{s}.txt" in contents), None)
        for part, stems in names.items()
    }
    whole = {part: text for part, text in found.items() if text is not None}
    return whole if len(whole) == len(PARTS) else None


def _block_split(contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """Blocks of each file by hash; of a short text, the last fifths are validation and test."""
    total = sum(map(len, contents.values()))
    if total < 64 * SPLIT_BLOCK:  # too few blocks for a hash to share them out well
        joined = b"\n".join(contents.values())
        cuts = (total * 3 // 5, total * 4 // 5)
        return dict(
            zip(PARTS, (joined[: cuts[0]], joined[cuts[0] : cuts[1]], joined[cuts[1] :]),
                strict=True)
        )  # fmt: skip
    texts = {part: bytearray() for part in PARTS}
    for name, content in contents.items():
        for at in range(0, len(content), SPLIT_BLOCK):
            part = part_of(f"{name}/{at // SPLIT_BLOCK}", seed=0)
            texts[part] += content[at : at + SPLIT_BLOCK]
    return {part: bytes(text) for part, text in texts.items()}
