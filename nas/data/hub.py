"""Hugging Face data sets, if `datasets` is installed: a local folder, or what its cache holds.

Nothing is downloaded and no code of a data set is run: `datasets` 4 and newer run none.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nas.data.dataset import Dataset, Part, fingerprint
from nas.data.images import decode, image_preprocessing
from nas.data.reading import check_size, content_hash, hold_out, in_workers
from nas.data.speech_commands import SECOND, read_wav, resampled, waveform_preprocessing
from nas.data.text import PARTS, load_texts
from nas.errors import UsageError

OLDEST = 4  # version that runs no code of a data set
SEED = 0  # of the examples held out of train where there is no validation
# Names of splits, best first.
SPLITS = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
# Class of the column's feature that holds an example, by kind.
FEATURES = {"image": "Image", "waveform": "Audio", "tokens": "Value"}
# Names of the columns that are preferred, best first.
PREFERRED = ("image", "img", "audio", "text", "label", "labels", "fine_label")
SUPPORTED = (
    "Columns are found by their features: one Image and one label, one Audio and one label, or "
    "one text."
)


def load_hub(name: str, input_shape: tuple[int, ...], kind: str) -> Dataset:
    """The data set of a folder or of the cache, fitted to the space's input.

    Without a validation split a tenth of each class of train is held out; without a test split
    every second example of validation is test. Text that lacks either is split anew by blocks.

    Args:
        name: a folder, or a name on the hub; after it may stand `:` and a configuration.
        input_shape: the space's.
        kind: the space's input: `image`, `waveform` or `tokens`.

    Raises:
        UsageError: if `datasets` is not installed or too old, the data are not on this machine,
            or have no such columns.
    """
    library = _library()
    splits = _splits(library, name)
    if kind == "tokens":
        return _text(name, splits, input_shape)
    column, label = _columns(name, splits["train"], kind)
    class_names = _class_names(name, splits["train"], label)
    # Encoded files come as they are and are decoded here, in workers.
    feature = getattr(library, FEATURES[kind])(decode=False)
    stored: dict[str, NDArray[Any]] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    size = math.prod(input_shape) if kind == "image" else 2 * max(input_shape[0], SECOND)
    check_size(name, sum(map(len, splits.values())), size)
    for part, split in splits.items():
        labels[part] = _labels(name, split[label], class_names, split.features[label])
        stored[part] = _decoded(name, split.cast_column(column, feature), column, input_shape, kind)
    content = content_hash(*(each for part in splits for each in (stored[part], labels[part])))
    _complete(stored, labels)
    empty = [part for part in PARTS if not len(labels[part])]
    if empty:
        raise UsageError(f"hf:{name} has no examples for {' and '.join(empty)}.", SUPPORTED)
    if kind == "image":
        preprocessing = image_preprocessing(input_shape)
    else:
        preprocessing = waveform_preprocessing(stored["train"])
    shaped_by = {
        "classes": class_names,
        "content": content,
        "splits": list(splits),
        "seed": SEED,
        "preprocessing": preprocessing,
    }
    train, validation, test = (
        Part(torch.from_numpy(stored[part]), torch.from_numpy(labels[part]), preprocessing)
        for part in PARTS
    )
    return Dataset(
        f"hf:{name}",
        train,
        validation,
        test,
        class_names,
        preprocessing,
        fingerprint(shaped_by),
    )


def _library() -> Any:
    try:
        library = importlib.import_module("datasets")
        version = int(library.__version__.split(".")[0])
    except ImportError:
        raise UsageError(
            "Hugging Face data sets are read with datasets, which is not installed.",
            f"Install it: pip install 'datasets>={OLDEST}'.",
        ) from None
    if version < OLDEST:
        raise UsageError(
            f"datasets {library.__version__} may run code of a data set.",
            f"Install a newer one: pip install 'datasets>={OLDEST}'.",
        )
    return library


@contextmanager
def _offline(library: Any) -> Iterator[None]:
    """Keep `datasets` and the hub's client from the network."""
    places = [library.config, importlib.import_module("huggingface_hub").constants]
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _splits(library: Any, name: str) -> dict[str, Any]:
    """The splits that there are, by part."""
    path, _, configuration = (name, "", "") if Path(name).is_dir() else name.partition(":")
    try:
        with _offline(library):
            if (Path(path) / "dataset_dict.json").is_file():  # saved to disk, all splits
                loaded = library.load_from_disk(path)
            elif (Path(path) / "state.json").is_file():  # or a single one
                loaded = {"train": library.load_from_disk(path)}
            else:
                loaded = library.load_dataset(path, configuration or None)
    except Exception as error:  # of many classes: its own, fsspec's, pyarrow's
        said = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"datasets finds no {path} on this machine that it can read ({said}).",
            'Give a folder, or download it first: python -c "import datasets; '
            f"datasets.load_dataset('{path}')\".",
        ) from None
    found = {
        part: next((loaded[each] for each in names if each in loaded), None)
        for part, names in SPLITS.items()
    }
    if found["train"] is None:
        raise UsageError(f"hf:{name} has no train split but {', '.join(loaded)}.", SUPPORTED)
    return {part: split for part, split in found.items() if split is not None}


def _columns(name: str, split: Any, kind: str) -> tuple[str, str]:
    """The columns of the examples and of their labels."""
    examples = _of_feature(split.features, FEATURES[kind])
    labels = _of_feature(split.features, "ClassLabel") or [
        each for each in _of_feature(split.features, "Value") if each in PREFERRED
    ]
    if not (examples and labels):
        raise UsageError(
            f"hf:{name} has no columns of {kind} and label but {', '.join(split.features)}.",
            SUPPORTED,
        )
    return examples[0], labels[0]


def _of_feature(features: Mapping[str, Any], wanted: str) -> list[str]:
    """Columns whose feature has this class, the preferred names first."""
    found = [each for each, feature in features.items() if type(feature).__name__ == wanted]
    order = {each: at for at, each in enumerate(PREFERRED)}
    return sorted(found, key=lambda each: order.get(each, len(order)))


def _class_names(name: str, split: Any, column: str) -> tuple[str, ...]:
    feature = split.features[column]
    names = getattr(feature, "names", None) or sorted({str(each) for each in split[column]})
    if len(names) < 2:
        raise UsageError(f"hf:{name} has fewer than two classes.", SUPPORTED)
    return tuple(names)


def _labels(
    name: str, values: Any, class_names: tuple[str, ...], feature: Any
) -> NDArray[np.int64]:
    """Indices into the names, which are of the train split.

    A ClassLabel's values are indices into names of its own, in another order perhaps.
    """
    at = {each: i for i, each in enumerate(class_names)}
    named = hasattr(feature, "names")
    known: dict[Any, int] = at
    if named:
        known = {i: at.get(each, -1) for i, each in enumerate(feature.names)}
    labels = np.array([known.get(v if named else str(v), -1) for v in values], np.int64)
    if (labels < 0).any():
        raise UsageError(f"hf:{name} has examples without a label of train's classes.", SUPPORTED)
    return labels


def _decoded(
    name: str, split: Any, column: str, input_shape: tuple[int, ...], kind: str
) -> NDArray[Any]:
    """All examples of a split as they are stored."""
    image = kind == "image"
    stored = np.empty(
        (len(split), *(input_shape if image else (SECOND,))), np.uint8 if image else np.int16
    )

    def read(at: int) -> None:
        where = f"example {at} of hf:{name}"
        content = _content(where, split[at][column] or {})
        stored[at] = decode(where, content, input_shape) if image else read_wav(where, content)

    in_workers(read, range(len(split)))
    return stored if image else resampled(stored, input_shape[0])


def _content(where: str, encoded: Mapping[str, Any]) -> bytes:
    """An encoded file, kept in the data set or beside it.

    Raises:
        UsageError: if it is kept nowhere.
    """
    content, path = encoded.get("bytes"), encoded.get("path")
    try:
        found: bytes | None = Path(path).read_bytes() if content is None and path else content
    except OSError as error:
        raise UsageError(f"{where} cannot be read ({error}).", "Restore or remove it.") from None
    if not found:
        raise UsageError(f"{where} is empty.", "Remove it: the data set's `filter` does that.")
    return found


def _complete(stored: dict[str, NDArray[Any]], labels: dict[str, NDArray[np.int64]]) -> None:
    """Make the parts that are missing."""
    if "validation" not in labels:
        kept, apart = hold_out(labels["train"], SEED)
        for parts in (stored, labels):
            parts["validation"] = parts["train"][apart.numpy()]
            parts["train"] = parts["train"][kept.numpy()]
    if "test" not in labels:
        for parts in (stored, labels):
            parts["validation"], parts["test"] = parts["validation"][::2], parts["validation"][1::2]


def _text(name: str, splits: Mapping[str, Any], input_shape: tuple[int, ...]) -> Dataset:
    columns = [
        each
        for each in _of_feature(splits["train"].features, "Value")
        if splits["train"].features[each].dtype in ("string", "large_string")
    ]
    if not columns:
        raise UsageError(
            f"hf:{name} has no column of text but {', '.join(splits['train'].features)}.",
            SUPPORTED,
        )
    texts = {
        f"{part}.txt": "\n".join(each or "" for each in split[columns[0]]).encode()
        for part, split in splits.items()
    }
    return load_texts(f"hf:{name}", texts, input_shape)
