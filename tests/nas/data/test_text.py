"""Text: cut so that nothing is lost or judged twice, and split without an overlap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nas.data import load_dataset
from nas.data.metric import BITS_PER_BYTE
from nas.data.text import PARTS, SPLIT_BLOCK, part_of, windows
from nas.errors import UsageError


def _bytes(tensor: Tensor) -> bytes:
    return tensor.flatten().numpy().astype(np.uint8).tobytes()


@given(content=st.binary(max_size=300), length=st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_every_byte_but_the_first_is_a_label_once(content: bytes, length: int) -> None:
    cut = windows(content, length, length)
    n = max(len(content) - 1, 0) // length
    assert cut.shape == (n, length + 1)
    assert _bytes(cut[:, 1:]) == content[1 : 1 + n * length]
    assert _bytes(cut[:, :-1]) == content[: n * length]


@given(name=st.text(max_size=20), seed=st.integers(0, 9))
def test_a_piece_keeps_its_part(name: str, seed: int) -> None:
    assert part_of(name, seed) == part_of(name, seed)
    assert part_of(name, seed) in PARTS


def test_pieces_are_shared_out_10_3_3() -> None:
    parts = [part_of(str(i), 0) for i in range(8_000)]
    shares = [parts.count(part) / len(parts) for part in PARTS]
    assert shares == pytest.approx([10 / 16, 3 / 16, 3 / 16], abs=0.02)


def test_a_file_by_path(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(bytes(range(256)) * 40)
    data = load_dataset(path, (32,), "tokens")
    assert data.metric is BITS_PER_BYTE
    assert data.n_classes == 256
    inputs, labels = data.train.batch(np.arange(3))
    assert inputs.shape == labels.shape == (3, 32)
    assert inputs[:, 1:].equal(labels[:, :-1])
    assert data.train.inputs[:3].equal(inputs)
    judged = _bytes(data.validation.stored[:, 1:])
    assert judged in path.read_bytes()
    assert len(judged) > 0.95 * (len(path.read_bytes()) // 5)


def test_named_parts_keep_their_text(tmp_path: Path) -> None:
    for name, letter in (("train", "a"), ("valid", "b"), ("test", "c")):
        (tmp_path / f"{name}.txt").write_text(letter * 100)
    data = load_dataset(tmp_path, (9,), "tokens")
    for part, letter in zip((data.train, data.validation, data.test), b"abc", strict=True):
        assert (part.stored == letter).all()


def test_long_files_are_split_by_blocks_without_an_overlap(tmp_path: Path) -> None:
    n = 200
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (n, SPLIT_BLOCK), dtype=np.uint8)
    (tmp_path / "deep").mkdir()
    (tmp_path / "one.txt").write_bytes(blocks[: n // 2].tobytes())
    (tmp_path / "deep" / "two.txt").write_bytes(blocks[n // 2 :].tobytes())
    data = load_dataset(tmp_path, (64,), "tokens")
    judged = [_bytes(part.stored[:, 1:]) for part in (data.validation, data.test)]
    # The first window of each overlapping four is a piece of train without repetition.
    judged.append(_bytes(data.train.stored[::4, 1:]))
    found = [{at for at, block in enumerate(blocks) if block[9:2_000].tobytes() in text}
             for text in judged]  # fmt: skip
    assert sum(map(len, found)) == len(set.union(*found)) == n
    assert min(map(len, found)) > n // 10


def test_fingerprint_is_of_the_text_and_the_length(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("abcdefgh" * 100)
    before = load_dataset(path, (8,), "tokens").fingerprint
    moved = path.rename(tmp_path / "other.txt")
    assert load_dataset(moved, (8,), "tokens").fingerprint == before
    assert load_dataset(moved, (9,), "tokens").fingerprint != before
    moved.write_text("abcdefgh" * 99 + "abcdefgi")
    assert load_dataset(moved, (8,), "tokens").fingerprint != before


def test_too_little_text(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("abc")
    with pytest.raises(UsageError, match="a window takes 65"):
        load_dataset(path, (64,), "tokens")
    path.write_text("")
    with pytest.raises(UsageError, match="holds no text"):
        load_dataset(path, (64,), "tokens")


def test_too_much_text_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(1100 * 2**20)  # of which nothing is on the disk
    with pytest.raises(UsageError, match=r"take 4\.4 GiB in memory"):
        load_dataset(path, (64,), "tokens")


def test_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "image.png").touch()
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path, tmp_path / "image.png"):
        with pytest.raises(UsageError, match="holds no text"):
            load_dataset(path, (64,), "tokens")


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [("image", (3, 8, 8), "neither a CIFAR archive nor"), ("waveform", (100,), "validation_list")],
)
def test_text_for_another_space(
    tmp_path: Path, kind: str, shape: tuple[int, ...], message: str
) -> None:
    path = tmp_path / "book.txt"
    path.write_text("abc")
    with pytest.raises(UsageError, match=message):
        load_dataset(path, shape, kind)
