"""CIFAR: pickles as Python 2 wrote them are read, and no others."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.data import Dataset, load_dataset
from nas.data.cifar import read_pickle
from nas.errors import UsageError

SHAPE = (3, 32, 32)
PER_CLASS = 20  # training images of a class in the tests' archive


class Name:
    """A name that a pickle refers to."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self) -> None:
        """Only what can be called is written as a constructor."""


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes what Python 2 and its numpy wrote: strings are bytes, numpy's names the old ones."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def save_string(self, text: bytes) -> None:
        short = len(text) < 256
        head = pickle.SHORT_BINSTRING if short else pickle.BINSTRING
        self.write(head + struct.pack("<B" if short else "<i", len(text)) + text)
        self.memoize(text)

    def save_name(self, name: Name) -> None:
        self.write(pickle.GLOBAL + f"{name.module}\n{name.name}\n".encode())
        self.memoize(name)

    dispatch[bytes] = save_string
    dispatch[Name] = save_name

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            make = Name("numpy.core.multiarray", "_reconstruct")
            empty = (Name("numpy", "ndarray"), (0,), b"b")
            return make, empty, (1, value.shape, value.dtype, False, value.tobytes())
        if isinstance(value, np.dtype):
            code = value.str[1:].encode()
            order = value.str[:1].encode()
            state = (3, order, None, None, None, -1, -1, 0)
            return Name("numpy", "dtype"), (code, 0, 1), state
        return NotImplemented


def python2_pickle(value: object, protocol: int = 2) -> bytes:
    written = io.BytesIO()
    Python2Pickler(written, protocol).dump(value)
    return written.getvalue()


def _archive(files: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()


def _pixels(labels: list[int], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Images whose first pixel is their label, so that a wrong pairing shows."""
    pixels = rng.integers(0, 256, (len(labels), 3_072), dtype=np.uint8)
    pixels[:, 0] = labels
    return pixels


def cifar10() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for i in range(1, 7):
        labels = rng.permutation(np.arange(10).repeat(PER_CLASS // 5)).tolist()
        name = f"data_batch_{i}" if i < 6 else "test_batch"
        batch = {
            b"batch_label": f"training batch {i} of 5".encode(),
            b"labels": labels,
            b"data": _pixels(labels, rng),
            b"filenames": [f"{at}.png".encode() for at in labels],
        }
        files[f"cifar-10-batches-py/{name}"] = python2_pickle(batch)
    names = [f"class {i}".encode() for i in range(10)]
    meta = {b"num_cases_per_batch": 10_000, b"label_names": names, b"num_vis": 3_072}
    files["cifar-10-batches-py/batches.meta"] = python2_pickle(meta)
    files["cifar-10-batches-py/readme.html"] = b"no pickle"
    return files


def cifar100() -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    files = {}
    for name, each in (("train", 12), ("test", 2)):
        labels = np.arange(100).repeat(each).tolist()
        batch = {
            b"coarse_labels": [label // 5 for label in labels],
            b"fine_labels": labels,
            b"data": _pixels(labels, rng),
        }
        files[f"cifar-100-python/{name}"] = python2_pickle(batch)
    fine = [f"fine {i}".encode() for i in range(100)]
    meta = {b"fine_label_names": fine, b"coarse_label_names": [b"coarse"] * 20}
    files["cifar-100-python/meta"] = python2_pickle(meta)
    return files


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return cifar10()


@pytest.fixture
def archive(tmp_path: Path, files: dict[str, bytes]) -> Path:
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(_archive(files))
    return path


def _each_image_has_its_label(data: Dataset) -> bool:
    return all(
        part.stored[:, 0, 0, 0].long().equal(part.labels)
        for part in (data.train, data.validation, data.test)
    )


def test_an_archive_is_read_and_a_tenth_of_each_class_held_out(archive: Path) -> None:
    before = sorted(archive.parent.iterdir())
    data = load_dataset(archive, SHAPE, "image")
    assert sorted(archive.parent.iterdir()) == before  # nothing is unpacked
    assert data.class_names == tuple(f"class {i}" for i in range(10))
    assert data.augmentation == "crop-flip"
    assert data.train.inputs.shape == (180, *SHAPE)
    assert torch.bincount(data.validation.labels).tolist() == [2] * 10
    assert torch.bincount(data.test.labels).tolist() == [PER_CLASS // 5] * 10
    assert _each_image_has_its_label(data)
    whole = torch.cat([data.train.stored, data.validation.stored]).flatten(1)
    assert len(whole.unique(dim=0)) == 200


def test_the_hundred_classes_are_the_fine_ones(tmp_path: Path) -> None:
    path = tmp_path / "cifar-100-python.tar.gz"
    path.write_bytes(_archive(cifar100()))
    data = load_dataset(path, SHAPE)
    assert data.class_names[42] == "fine 42"
    assert (len(data.train), len(data.validation), len(data.test)) == (1_000, 200, 200)
    assert _each_image_has_its_label(data)


def test_archive_and_folder_are_the_same_data(
    archive: Path, tmp_path: Path, files: dict[str, bytes]
) -> None:
    for name, content in files.items():
        path = tmp_path / "unpacked" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    packed = load_dataset(archive, SHAPE)
    for folder in (tmp_path / "unpacked", tmp_path / "unpacked" / "cifar-10-batches-py"):
        unpacked = load_dataset(folder, SHAPE)
        assert unpacked.fingerprint == packed.fingerprint
        assert unpacked.validation.stored.equal(packed.validation.stored)


def test_fingerprint_is_of_the_content_and_the_size(archive: Path, files: dict[str, bytes]) -> None:
    before = load_dataset(archive, SHAPE).fingerprint
    small = load_dataset(archive, (1, 16, 16))
    assert small.train.stored.shape == (180, 1, 16, 16)
    assert small.fingerprint != before
    name = "cifar-10-batches-py/test_batch"
    batch = pickle.loads(files[name], encoding="bytes")
    batch[b"data"][0, 5] ^= 1
    archive.write_bytes(_archive({**files, name: python2_pickle(batch)}))
    assert load_dataset(archive, SHAPE).fingerprint != before


def test_resized_images_are_those_of_pillow(archive: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    plain, large = load_dataset(archive, SHAPE), load_dataset(archive, (3, 48, 48))
    image = image_module.fromarray(plain.test.stored[3].permute(1, 2, 0).numpy())
    expected = np.asarray(image.resize((48, 48), image_module.Resampling.BICUBIC))
    assert np.array_equal(large.test.stored[3].permute(1, 2, 0).numpy(), expected)


# --- the restricted reader ----------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(), inner, max_size=4),
    max_leaves=12,
)


@given(
    value=st.dictionaries(st.binary(), VALUES, max_size=4),
    n=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_reads_what_pickle_reads(value: dict[bytes, Any], n: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 7), dtype=np.uint8)
    content = python2_pickle({**value, b"data": pixels})
    expected = pickle.loads(content, encoding="bytes")
    read = read_pickle(content, "here")
    array = read.pop(b"data").array
    assert np.array_equal(array, expected.pop(b"data"))
    assert array.dtype == np.uint8
    assert read == expected


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_a_command_is_refused(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "ran"
    content = pickle.dumps([Hostile(f"touch {marker}")], protocol)
    refused = r"names \w+\.system," if protocol < 4 else "holds (FRAME|SHORT_BINUNICODE|MEMOIZE),"
    with pytest.raises(UsageError, match=f"here {refused} which no CIFAR archive does"):
        read_pickle(content, "here")
    assert not marker.exists()
    pickle.loads(content)  # that it is really hostile
    assert marker.exists()


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_hostile_archive_is_refused(
    archive: Path, tmp_path: Path, files: dict[str, bytes], name: str
) -> None:
    marker = tmp_path / "ran"
    hostile = pickle.dumps(Hostile(f"touch {marker}"), 2)
    archive.write_bytes(_archive({**files, f"cifar-10-batches-py/{name}": hostile}))
    with pytest.raises(UsageError, match=rf"{name} names \w+\.system") as refused:
        load_dataset(archive, SHAPE)
    assert not marker.exists()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        ("builtins", "eval"),
        ("__builtin__", "getattr"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "scalar"),
        ("_codecs", "encode"),
        ("nas.data.cifar", "_Bytes"),
    ],
)
def test_other_names_are_refused(name: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match=r"which no CIFAR archive does"):
        read_pickle(python2_pickle({b"data": Name(*name)}), "here")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3), np.int64),
        np.zeros((2, 3), np.int8),
        np.zeros(3, np.uint8),
        np.zeros((1, 2, 3), np.uint8),
    ],
    ids=["int64", "int8", "one axis", "three axes"],
)
def test_other_arrays_are_refused(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(UsageError, match="here cannot be read"):
        read_pickle(python2_pickle({b"data": array}), "here")


def test_a_memo_that_would_fill_the_memory_is_refused() -> None:
    content = pickle.EMPTY_DICT + pickle.LONG_BINPUT + struct.pack("<I", 2**32 - 1) + pickle.STOP
    with pytest.raises(UsageError, match="counts to 4294967295"):
        read_pickle(content, "here")


def test_the_unpickler_itself_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second lock, if the first were open."""
    monkeypatch.setattr("nas.data.cifar._check_opcodes", lambda content: None)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(UsageError, match=r"names \w+\.system, which no CIFAR archive does"):
            read_pickle(pickle.dumps([Hostile("false")], protocol), "here")


def _refused_or_read(content: bytes) -> bool:
    """Whether it ends in a dictionary or in one clear line, and not in another error."""
    try:
        return isinstance(read_pickle(content, "here"), dict)
    except UsageError as error:
        return error.message.startswith("here") and "\n" not in error.message


@given(content=st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_noise_is_refused(content: bytes) -> None:
    assert _refused_or_read(content)


@given(at=st.integers(0, 10**6), change=st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_a_damaged_file_is_refused_or_read(at: int, change: int) -> None:
    content = bytearray(python2_pickle({b"data": np.ones((2, 9), np.uint8), b"labels": [1, 2]}))
    content[at % len(content)] ^= change
    assert _refused_or_read(bytes(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"labels": [0] * 39}, "39 labels"),
        ({b"labels": [10] * 40}, "none of the classes"),
        ({b"labels": [-1] * 40}, "none of the classes"),
        ({b"labels": [b"1"] * 40}, "none of the classes"),
        ({b"labels": None}, "no images with labels"),
        ({b"data": b"none"}, "no images with labels"),
        ({b"data": np.zeros((40, 3_071), np.uint8)}, "labels for other images"),
    ],
)
def test_batches_that_do_not_fit(
    archive: Path, files: dict[str, bytes], change: dict[bytes, Any], message: str
) -> None:
    name = "cifar-10-batches-py/data_batch_2"
    batch = pickle.loads(files[name], encoding="bytes") | change
    archive.write_bytes(_archive({**files, name: python2_pickle(batch)}))
    with pytest.raises(UsageError, match=message):
        load_dataset(archive, SHAPE)


def test_archives_that_are_none(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    whole = _archive(files)
    few = {name: content for name, content in files.items() if "batch_4" not in name}
    for content, message in (
        (b"no archive", "cannot be read as an archive"),
        (whole[: len(whole) // 2], "cannot be read as an archive"),
        (_archive({"README": b"nothing"}), "holds no CIFAR files"),
        (_archive(few), r"lacks data_batch_4 of CIFAR-10"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=message):
            load_dataset(path, SHAPE)


def test_a_link_in_an_archive_is_not_followed(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in files:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
            archive.addfile(member)
    with pytest.raises(UsageError, match="holds no CIFAR files"):
        load_dataset(path, SHAPE)
