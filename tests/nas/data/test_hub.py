"""Hugging Face data sets: a clear line where `datasets` is missing, folders where not."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nas.data import load_dataset
from nas.data.hub import _labels
from nas.errors import UsageError

SHAPE = (3, 8, 8)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    with pytest.raises(UsageError, match=r"not installed\. Install it: pip install 'datasets>=4'"):
        load_dataset("hf:uoft-cs/cifar10", SHAPE)


def test_a_library_that_runs_code_of_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(__version__="3.6.0"))
    with pytest.raises(UsageError, match=r"datasets 3\.6\.0 may run code"):
        load_dataset("hf:uoft-cs/cifar10", SHAPE)


def test_it_needs_a_space() -> None:
    with pytest.raises(UsageError, match="Name the space"):
        load_dataset("hf:uoft-cs/cifar10")


# --- where it is installed ----------------------------------------------------------------------


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    found = pytest.importorskip("datasets", minversion="4")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return found


def _images(library: Any, n: int, seed: int) -> Any:
    image_module = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(seed)
    encoded = []
    for at in range(n):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        pixels[:2, :2] = 100 * (at % 2)
        written = io.BytesIO()
        image_module.fromarray(pixels).save(written, "png")
        encoded.append({"bytes": written.getvalue(), "path": None})
    features = library.Features(
        {"label": library.ClassLabel(names=["dark", "light"]), "img": library.Image()}
    )
    columns = {"img": encoded, "label": [at % 2 for at in range(n)]}
    return library.Dataset.from_dict(columns, features=features)


def test_a_saved_folder_of_images(library: Any, tmp_path: Path) -> None:
    splits = {"train": _images(library, 40, 0), "test": _images(library, 10, 1)}
    library.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    data = load_dataset(f"hf:{tmp_path / 'saved'}", SHAPE, "image")
    assert data.class_names == ("dark", "light")
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 10)
    for part in (data.train, data.validation, data.test):
        assert (part.stored[:, 0, 0, 0] == 100 * part.labels).all()
    again = load_dataset(f"hf:{tmp_path / 'saved'}", SHAPE, "image")
    assert again.fingerprint == data.fingerprint
    assert load_dataset(f"hf:{tmp_path / 'saved'}", (1, 8, 8)).fingerprint != data.fingerprint


def test_a_split_may_have_its_classes_in_another_order() -> None:
    train, other = ("bird", "cat", "dog"), SimpleNamespace(names=["cat", "dog", "bird"])
    assert _labels("animals", [0, 1, 2, 0], train, other).tolist() == [1, 2, 0, 1]
    assert _labels("animals", ["dog", "bird"], train, object()).tolist() == [2, 0]
    with pytest.raises(UsageError, match="without a label of train's classes"):
        _labels("animals", [0, 1], train, SimpleNamespace(names=["cat", "cow"]))


def test_a_single_saved_split_is_train(library: Any, tmp_path: Path) -> None:
    _images(library, 40, 0).save_to_disk(tmp_path / "saved")
    data = load_dataset(f"hf:{tmp_path / 'saved'}", SHAPE, "image")
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 2, 2)


@pytest.mark.parametrize("what", ["none", "empty", "gone"])
def test_an_image_that_is_not_there_is_named(library: Any, tmp_path: Path, what: str) -> None:
    missing = {
        "none": None,
        "empty": {"bytes": b"", "path": None},
        "gone": {"bytes": None, "path": str(tmp_path / "gone.png")},
    }
    split = _images(library, 4, 0)
    encoded = [*split.cast_column("img", library.Image(decode=False))["img"][:3], missing[what]]
    columns = {"img": encoded, "label": split["label"][:4]}
    (tmp_path / "gone.png").write_bytes(encoded[0]["bytes"])
    (tmp_path / "rows").mkdir()
    saved = library.Dataset.from_dict(columns, features=split.features)
    saved.to_parquet(tmp_path / "rows" / "train.parquet")
    (tmp_path / "gone.png").unlink()
    with pytest.raises(UsageError, match=r"example 3 of hf:.* (is empty|cannot be read)"):
        load_dataset(f"hf:{tmp_path / 'rows'}", SHAPE, "image")


def test_a_folder_of_parquet_files_of_text(library: Any, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for split, letter in (("train", "a"), ("validation", "b"), ("test", "c")):
        lines = library.Dataset.from_dict({"text": [letter * 9] * 20})
        lines.to_parquet(folder / f"{split}.parquet")
    data = load_dataset(f"hf:{folder}", (16,), "tokens")
    assert set(data.validation.stored.unique().tolist()) == {ord("b"), ord("\n")}
    with pytest.raises(UsageError, match="no columns of image and label but text"):
        load_dataset(f"hf:{folder}", SHAPE, "image")


def test_waveforms_in_a_saved_folder(library: Any, tmp_path: Path) -> None:
    from scipy.io import wavfile

    encoded = []
    for at in range(20):
        written = io.BytesIO()
        wavfile.write(written, 16_000, np.full(16_000, 100 * (at % 2) + at, np.int16))
        encoded.append({"bytes": written.getvalue(), "path": None})
    encoded_as = {"bytes": library.Value("binary"), "path": library.Value("string")}
    features = library.Features({"audio": encoded_as, "label": library.Value("string")})
    names = ["high" if at % 2 else "low" for at in range(20)]
    split = library.Dataset.from_dict({"audio": encoded, "label": names}, features=features)
    split = split.cast_column("audio", library.Audio())
    saved = library.DatasetDict({"train": split, "validation": split.select(range(10))})
    saved.save_to_disk(tmp_path / "saved")
    data = load_dataset(f"hf:{tmp_path / 'saved'}", (16_000,), "waveform")
    assert data.class_names == ("high", "low")
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 5, 5)
    assert data.train.stored[:, 0].tolist() == [100 * (at % 2) + at for at in range(20)]
    assert data.train.labels.tolist() == [0 if at % 2 else 1 for at in range(20)]


def test_a_name_that_is_not_in_the_cache(library: Any) -> None:
    before = bool(library.config.HF_HUB_OFFLINE)
    with pytest.raises(UsageError, match="finds no nobody/nothing on this machine") as refused:
        load_dataset("hf:nobody/nothing", SHAPE)
    assert "\n" not in str(refused.value)
    assert bool(library.config.HF_HUB_OFFLINE) is before
