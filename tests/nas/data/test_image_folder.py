"""Image folders: resized, split, and refused with one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nas.data import load_dataset
from nas.errors import UsageError

Image = pytest.importorskip("PIL.Image")
SHAPE = (3, 16, 16)


def _fill(root: Path, parts: dict[str, int], classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    rng = np.random.default_rng(0)
    for part, n in parts.items():
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def test_images_are_resized_to_the_space(tmp_path: Path) -> None:
    data = load_dataset(_fill(tmp_path, {"train": 3, "val": 2, "test": 1}), SHAPE)
    assert data.class_names == ("cat", "dog")
    assert data.train.inputs.shape == (6, *SHAPE)
    assert (len(data.validation), len(data.test)) == (4, 2)
    assert data.in_channels == 3
    assert load_dataset(tmp_path, (1, 8, 8)).train.inputs.shape == (6, 1, 8, 8)


def test_missing_test_part_is_split_from_validation_by_class(tmp_path: Path) -> None:
    data = load_dataset(_fill(tmp_path, {"train": 1, "val": 4}), SHAPE)
    assert data.validation.labels.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert not data.validation.stored.equal(data.test.stored)


def test_fingerprint_is_of_the_content_and_the_size(tmp_path: Path) -> None:
    root = _fill(tmp_path, {"train": 1, "val": 2})
    before = load_dataset(root, SHAPE).fingerprint
    assert load_dataset(root, SHAPE).fingerprint == before
    assert load_dataset(root, (3, 8, 8)).fingerprint != before
    Image.new("RGB", (20, 30)).save(root / "train" / "cat" / "0.png")
    assert load_dataset(root, SHAPE).fingerprint != before


@pytest.mark.parametrize("missing", ["train", "val"])
def test_missing_part(tmp_path: Path, missing: str) -> None:
    parts = {"train": 1, "val": 2}
    del parts[missing]
    with pytest.raises(UsageError, match=f"no {missing} folder"):
        load_dataset(_fill(tmp_path, parts), SHAPE)


def test_foreign_class(tmp_path: Path) -> None:
    _fill(tmp_path, {"train": 1})
    _fill(tmp_path, {"val": 2}, ("cat", "cow"))
    with pytest.raises(UsageError, match="classes that train lacks: cow"):
        load_dataset(tmp_path, SHAPE)


def test_unreadable_image(tmp_path: Path) -> None:
    root = _fill(tmp_path, {"train": 1, "val": 2})
    (root / "val" / "dog" / "1.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"1\.png cannot be read as an image \(no format"):
        load_dataset(root, SHAPE)


@pytest.mark.parametrize("kept", [20, 40, 60])
def test_truncated_image(tmp_path: Path, kept: int) -> None:
    root = _fill(tmp_path, {"train": 1, "val": 2})
    image = root / "val" / "dog" / "1.png"
    image.write_bytes(image.read_bytes()[:kept])
    with pytest.raises(UsageError, match=r"1\.png cannot be read as an image"):
        load_dataset(root, SHAPE)


def test_folder_needs_a_space(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Name the space"):
        load_dataset(_fill(tmp_path, {"train": 1, "val": 2}))


def test_a_class_has_images_to_learn(tmp_path: Path) -> None:
    """A hidden folder and one without images are no classes; nor is one of validation alone."""
    root = _fill(tmp_path, {"train": 3, "val": 2})
    before = load_dataset(root, SHAPE)
    for name in ("train/.ipynb_checkpoints", "val/.ipynb_checkpoints", "train/cow", "val/cow"):
        (root / name).mkdir()
        (root / name / "notes.txt").write_text("none")
    Image.new("RGB", (20, 30)).save(root / "train" / ".ipynb_checkpoints" / "0.png")
    data = load_dataset(root, SHAPE)
    assert (data.class_names, data.fingerprint) == (("cat", "dog"), before.fingerprint)
    Image.new("RGB", (20, 30)).save(root / "val" / "cow" / "0.png")
    with pytest.raises(UsageError, match="classes that train lacks: cow"):
        load_dataset(root, SHAPE)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_16_bits_keep_their_upper_half(tmp_path: Path, channels: int) -> None:
    root = _fill(tmp_path, {"train": 1, "val": 2})
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(grey * 257).save(root / "train" / "cat" / "0.png")
    stored = load_dataset(root, (channels, 16, 16)).train.stored[0]
    assert (stored.numpy() == grey).all()
