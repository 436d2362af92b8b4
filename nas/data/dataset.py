"""What a data set is: three parts of labelled examples, and how they become network input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nas.data.metric import ACCURACY, BITS_PER_BYTE, METRICS, Metric


@dataclass(frozen=True, eq=False)
class Part:
    """Labelled examples, kept as small integers and prepared when they are asked for.

    Attributes:
        stored: images uint8 (n, channels, height, width), waveforms int16 (n, samples), or text
            uint8 (n, length + 1), of which the first `length` bytes are input and the last
            `length` labels.
        labels: int64 (n,), indices into the data set's class names; of text, empty.
        preprocessing: of the data set.
        draws: examples made from one original; they are alike, so that only `len / draws` of
            them are independent for sure.
    """

    stored: Tensor
    labels: Tensor
    preprocessing: Mapping[str, Any]
    draws: int = 1

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def inputs(self) -> Tensor:
        """All examples as network input."""
        return prepare(self.stored, self.preprocessing)

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Network input and labels at these indices."""
        stored = self.stored[chosen]
        if self.preprocessing["kind"] == "tokens":
            return prepare(stored, self.preprocessing), stored[:, 1:].long()
        return prepare(stored, self.preprocessing), self.labels[chosen]


class LazyPart(Part):
    """A part that is made when its examples are first asked for: a search asks for no train part.

    Args:
        make: the examples as stored.
        labels: as of any part, one an example.
        preprocessing: of the data set.
    """

    def __init__(
        self, make: Callable[[], Tensor], labels: Tensor, preprocessing: Mapping[str, Any]
    ) -> None:
        self.__dict__.update(make=make, labels=labels, preprocessing=preprocessing)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def stored(self) -> Tensor:
        """Made now, if it is not there yet."""
        made: Tensor = self.__dict__["make"]()
        return made


def prepare(stored: Tensor, preprocessing: Mapping[str, Any]) -> Tensor:
    """Stored examples as network input.

    Images: float32 (n, channels, height, width), scaled and normalised by channel. Waveforms:
    float32 (n, samples), scaled. Tokens: int64 (n, length).
    """
    if preprocessing["kind"] == "tokens":
        return stored[:, :-1].long()
    scaled: Tensor = stored.float() * preprocessing["scale"]
    if preprocessing["kind"] == "waveform":
        return scaled
    mean = stored.new_tensor(preprocessing["mean"], dtype=torch.float32)
    std = stored.new_tensor(preprocessing["std"], dtype=torch.float32)
    normalised: Tensor = (scaled - mean[:, None, None]) / std[:, None, None]
    return normalised


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples for training, for the search (validation) and for the report (test).

    Attributes:
        name: as registered, or the path it was read from.
        train: what weights are fitted on.
        validation: what a search sees.
        test: what only the report sees.
        class_names: one name a label; of text, one a byte.
        preprocessing: what turns an example into network input, as JSON: `kind` (`image`,
            `waveform` or `tokens`), `input_shape`, `scale` of the stored integers, and for images
            `mean` and `std` of the scaled channels.
        fingerprint: hash of all that decides the examples, their split and their preprocessing.
        augmentation: name of what training does to a batch; see `nas.data.augment`.
        judged_by: name of a metric that a search asked for, instead of the data's own.
    """

    name: str
    train: Part
    validation: Part
    test: Part
    class_names: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    fingerprint: str
    augmentation: str = "none"
    judged_by: str | None = None

    @property
    def kind(self) -> str:
        """What an example is: `image`, `waveform` or `tokens`."""
        return str(self.preprocessing["kind"])

    @property
    def metric(self) -> Metric:
        """What a network is judged by on this data."""
        if self.judged_by is not None:
            return METRICS[self.judged_by]
        return BITS_PER_BYTE if self.kind == "tokens" else ACCURACY

    @property
    def n_classes(self) -> int:
        """Number of classes, or of different tokens."""
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        """Channels of an image; 1 of anything else."""
        return self.input_shape[0] if self.kind == "image" else 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example as network input."""
        return tuple(self.preprocessing["input_shape"])


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """Hash of a JSON-serialisable recipe, 16 hexadecimal digits.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
