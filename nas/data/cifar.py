"""CIFAR-10 and CIFAR-100 as published: the Python archives, or the folders that they hold.

Krizhevsky (2009), "Learning multiple layers of features from tiny images". The archives hold
pickles that Python 2 wrote. They are read by an unpickler that builds plain containers and nothing
else: the three names of numpy that they use stand for a class of this file that takes unsigned
bytes. Nothing is unpacked to disk.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nas.data.dataset import Dataset, Part, fingerprint
from nas.data.images import image_preprocessing, refit
from nas.data.reading import check_size, content_hash, hold_out, in_workers
from nas.errors import NasError, UsageError

SHAPE = (3, 32, 32)
SEED = 0  # of the images held out of train for validation
AUGMENTATION = "crop-flip"
MAX_MEMBER_BYTES = 2**28  # the largest published has 155 MB
# The names in the pickles.
NAMES = frozenset(
    {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
)
SUFFIXES = (".tar.gz", ".tgz", ".tar")
PUBLISHED = "Take the archive as published: https://www.cs.toronto.edu/~kriz/cifar.html."


@dataclass(frozen=True)
class Layout:
    """How one of the two sets is laid out.

    Attributes:
        name: of the set.
        folder: in the archive.
        train: files of training images.
        test: file of test images.
        meta: file of the classes' names.
        labels: key of the labels.
        names: key of the classes' names.
        statistics: mean and standard deviation by channel of the training images.
    """

    name: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: bytes
    names: bytes
    statistics: tuple[list[float], list[float]]

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that is read."""
        return (*self.train, self.test, self.meta)


LAYOUTS = (
    Layout(
        "CIFAR-10",
        "cifar-10-batches-py",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        "test_batch",
        "batches.meta",
        b"labels",
        b"label_names",
        ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    ),
    Layout(
        "CIFAR-100",
        "cifar-100-python",
        ("train",),
        "test",
        "meta",
        b"fine_labels",
        b"fine_label_names",
        ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
    ),
)


def is_cifar(path: Path) -> bool:
    """Whether a path is a tar archive, or a folder with CIFAR's files."""
    if path.is_file():
        return path.name.lower().endswith(SUFFIXES)
    return _in_folder(path) is not None


def load_cifar(path: Path, input_shape: tuple[int, ...]) -> Dataset:
    """The images, resized to the space's input where that differs.

    A tenth of the training images of each class, 5,000 in all, is validation.

    Args:
        path: the archive, the folder that it holds, or the folder around that.
        input_shape: (channels, height, width); one channel means grey, three colour.

    Raises:
        UsageError: if a file is missing, damaged or holds what no CIFAR archive does; or all
            together are too large for memory.
    """
    layout, contents = _from_archive(path) if path.is_file() else _from_folder(path)
    preprocessing = image_preprocessing(input_shape, layout.statistics)
    meta = read_pickle(contents[layout.meta], f"{path}: {layout.meta}")
    class_names = _class_names(meta, layout, path)
    read = [
        _batch(contents.pop(file), layout, len(class_names), f"{path}: {file}")
        for file in (*layout.train, layout.test)
    ]
    pixels = np.concatenate([images for images, _ in read[:-1]])
    labels = np.concatenate([each for _, each in read[:-1]])
    test_pixels, test_labels = read[-1]
    shaped_by = {
        "classes": class_names,
        "content": content_hash(pixels, labels, test_pixels, test_labels),
        "seed": SEED,
        "augmentation": AUGMENTATION,
        "preprocessing": preprocessing,
    }
    check_size(str(path), len(pixels) + len(test_pixels), math.prod(input_shape))
    stored = torch.from_numpy(_resized(pixels, input_shape))
    kept, apart = hold_out(labels, SEED)
    if not (len(kept) and len(apart) and len(test_labels)):
        raise UsageError(f"{path} has too few images for three parts.", PUBLISHED)
    train, validation = (
        Part(stored[chosen], torch.from_numpy(labels)[chosen], preprocessing)
        for chosen in (kept, apart)
    )
    test = Part(
        torch.from_numpy(_resized(test_pixels, input_shape)),
        torch.from_numpy(test_labels),
        preprocessing,
    )
    return Dataset(
        str(path),
        train,
        validation,
        test,
        class_names,
        preprocessing,
        fingerprint(shaped_by),
        AUGMENTATION,
    )


def _in_folder(path: Path) -> tuple[Layout, Path] | None:
    for layout in LAYOUTS:
        for folder in (path, path / layout.folder):
            if all((folder / file).is_file() for file in (layout.train[0], layout.meta)):
                return layout, folder
    return None


def _from_folder(path: Path) -> tuple[Layout, dict[str, bytes]]:
    found = _in_folder(path)
    if found is None:
        raise UsageError(f"{path} holds no CIFAR files.", PUBLISHED)
    layout, folder = found
    contents = {}
    for file in layout.files:
        try:
            with (folder / file).open("rb") as opened:
                contents[file] = opened.read(MAX_MEMBER_BYTES + 1)
        except OSError as error:
            raise UsageError(f"{folder / file} cannot be read ({error}).", PUBLISHED) from None
        _check_member(path, file, len(contents[file]))
    return layout, contents


def _from_archive(path: Path) -> tuple[Layout, dict[str, bytes]]:
    """The content of the members that a layout names, whatever else there is."""
    wanted = {f"{layout.folder}/{file}": layout for layout in LAYOUTS for file in layout.files}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:" if path.suffix.lower() == ".tar" else "r:gz") as archive:
            for member in archive:
                if member.name in wanted and member.isreg() and member.name not in found:
                    _check_member(path, member.name, member.size)
                    opened = archive.extractfile(member)
                    assert opened is not None  # of a regular file
                    found[member.name] = opened.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read as an archive ({error}).", PUBLISHED) from None
    for layout in LAYOUTS:
        contents = {
            file: found[f"{layout.folder}/{file}"]
            for file in layout.files
            if f"{layout.folder}/{file}" in found
        }
        missing = [file for file in layout.files if file not in contents]
        if contents and missing:
            raise UsageError(f"{path} lacks {', '.join(missing)} of {layout.name}.", PUBLISHED)
        if contents:
            return layout, contents
    raise UsageError(f"{path} holds no CIFAR files.", PUBLISHED)


def _check_member(path: Path, name: str, size: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise UsageError(f"{path}: {name} is larger than any file of CIFAR.", PUBLISHED)


# --- the restricted reader ----------------------------------------------------------------------


class _Bytes:
    """Stands for numpy's array and type in the pickles; takes an array of unsigned bytes."""

    array: NDArray[np.uint8] | None = None

    def __init__(self, *arguments: object) -> None:
        # An empty array is made as (class, (0,), "b"), the type as (code, aligned, copied).
        self.is_type = arguments[:1] == (b"u1",)

    def __setstate__(self, state: object) -> None:
        if self.is_type:  # (version, byte order, ...), and one byte has no order
            return
        match state:
            case (int(), (int(n), int(size)), _Bytes(is_type=True), False, bytes(raw)):
                self.array = np.frombuffer(raw, np.uint8).reshape(n, size)
            case _:
                raise pickle.UnpicklingError("an array that is not of unsigned bytes")


# What protocols 0 to 2 write of containers, whole numbers and byte strings, and of an array.
OPCODES = frozenset(
    [
        "PROTO",
        "MARK",
        "STOP",
        "EMPTY_DICT",
        "DICT",
        "EMPTY_LIST",
        "LIST",
        "EMPTY_TUPLE",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "APPEND",
        "APPENDS",
        "SETITEM",
        "SETITEMS",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "PUT",
        "BINPUT",
        "LONG_BINPUT",
        "GET",
        "BINGET",
        "LONG_BINGET",
        "GLOBAL",
        "REDUCE",
        "BUILD",
    ]
)


def _check_opcodes(content: bytes) -> None:
    """Refuse what the unpickler need not understand, before it reads anything.

    A number in the memo that is larger than what came before it would take memory without bound.
    """
    for at, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name == "GLOBAL":
            _check_name(*str(argument).split(" ", 1))
        elif opcode.name not in OPCODES:
            raise UsageError(f"holds {opcode.name}, which no CIFAR archive does.", PUBLISHED)
        elif opcode.name in ("PUT", "LONG_BINPUT") and not (
            isinstance(argument, int) and 0 <= argument <= at
        ):
            raise UsageError(f"counts to {argument}, which no CIFAR archive does.", PUBLISHED)


def _check_name(module: str, name: str) -> None:
    if (module, name) not in NAMES:
        shown = ascii(f"{module}.{name}")[1:-1][:80]
        raise UsageError(f"names {shown}, which no CIFAR archive does.", PUBLISHED)


class _Unpickler(pickle.Unpickler):
    """Builds containers, numbers, byte strings, and arrays of unsigned bytes."""

    def find_class(self, module: str, name: str) -> type[_Bytes]:
        """The stand-in for a name of numpy; no name is ever imported."""
        _check_name(module, name)
        return _Bytes


def read_pickle(content: bytes, where: str) -> dict[bytes, Any]:
    """The dictionary of one of CIFAR's files; strings stay bytes.

    Args:
        content: of the file.
        where: it is from, for the message.

    Raises:
        UsageError: if it is damaged, or holds anything but what CIFAR's files hold.
    """
    try:
        _check_opcodes(content)
        read = _Unpickler(io.BytesIO(content), fix_imports=False, encoding="bytes").load()
    except NasError as error:
        raise UsageError(f"{where} {error.message}", error.hint) from None
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        ImportError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{where} cannot be read ({said}).", PUBLISHED) from None
    if not isinstance(read, dict):
        raise UsageError(f"{where} holds no dictionary.", PUBLISHED)
    return read


def _class_names(meta: dict[bytes, Any], layout: Layout, path: Path) -> tuple[str, ...]:
    names = meta.get(layout.names)
    if not (
        isinstance(names, list) and len(names) > 1 and all(isinstance(n, bytes) for n in names)
    ):
        raise UsageError(f"{path}: {layout.meta} holds no names of classes.", PUBLISHED)
    return tuple(name.decode("utf-8", "replace") for name in names)


def _batch(
    content: bytes, layout: Layout, n_classes: int, where: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, 3, 32, 32) and labels of a file."""
    batch = read_pickle(content, where)
    data, labels = batch.get(b"data"), batch.get(layout.labels)
    if not (isinstance(data, _Bytes) and data.array is not None and isinstance(labels, list)):
        raise UsageError(f"{where} holds no images with labels.", PUBLISHED)
    if data.array.shape != (len(labels), math.prod(SHAPE)):
        raise UsageError(f"{where} has {len(labels)} labels for other images.", PUBLISHED)
    if not all(type(label) is int and 0 <= label < n_classes for label in labels):
        raise UsageError(f"{where} has labels that are none of the classes.", PUBLISHED)
    return data.array.reshape(-1, *SHAPE), np.array(labels, np.int64)


def _resized(pixels: NDArray[np.uint8], input_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if tuple(input_shape) == SHAPE:
        return np.array(pixels)  # a pickle's bytes are read-only, a tensor is not
    resized = np.empty((len(pixels), *input_shape), np.uint8)

    def fit(at: int) -> None:
        resized[at] = refit(pixels[at], input_shape)

    in_workers(fit, range(len(pixels)))
    return resized
