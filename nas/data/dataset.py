"""What a data set is: three parts of labelled 8-bit images and how they become network input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """Labelled images, kept in 8 bits and normalised when they are asked for.

    Attributes:
        pixels: uint8, (n, channels, height, width).
        labels: int64, (n,), indices into the data set's class names.
        preprocessing: of the data set.
        draws: images made from one original; they are alike, so that only `len / draws` of them
            are independent for sure.
    """

    pixels: Tensor
    labels: Tensor
    preprocessing: Mapping[str, Any]
    draws: int = 1

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """All images as float32 network input, (n, channels, height, width)."""
        return normalise(self.pixels, self.preprocessing)

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images and labels at these indices."""
        return normalise(self.pixels[chosen], self.preprocessing), self.labels[chosen]


def normalise(pixels: Tensor, preprocessing: Mapping[str, Any]) -> Tensor:
    """uint8 (n, channels, height, width) -> float32 network input of that shape."""
    mean = pixels.new_tensor(preprocessing["mean"], dtype=torch.float32)
    std = pixels.new_tensor(preprocessing["std"], dtype=torch.float32)
    scaled = pixels.float() * preprocessing["scale"]
    normalised: Tensor = (scaled - mean[:, None, None]) / std[:, None, None]
    return normalised


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images for training, for the search (validation) and for the report (test).

    Attributes:
        name: as registered, or the folder's path.
        train: what weights are fitted on.
        validation: what a search sees.
        test: what only the report sees.
        class_names: one name a label.
        preprocessing: what turns an image into network input, as JSON: `input_shape`
            (channels, height, width), `scale`, and `mean` and `std` of the scaled channels.
        fingerprint: hash of all that decides the images, their split and their preprocessing.
    """

    name: str
    train: Part
    validation: Part
    test: Part
    class_names: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    fingerprint: str

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return self.input_shape[0]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        channels, height, width = self.preprocessing["input_shape"]
        return channels, height, width


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """Hash of a JSON-serialisable recipe, 16 hexadecimal digits.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
