"""Handwritten digits of 8x8 pixels: clean, and drawn many times under a seeded corruption.

The 1,797 originals are the test part of the UCI set "Optical Recognition of Handwritten Digits"
(Alpaydin and Kaynak, 1998) that scikit-learn bundles. Clean, nearly every subnet reads 99 % of
them; corrupted, small subnets and shallow ones fall behind.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from nas.data.dataset import Dataset, Part, fingerprint
from nas.data.registry import register_dataset

SIZE = 8
SCALE = 1 / 255


@dataclass(frozen=True)
class Corruption:
    """How an original is redrawn: all values uniform within these limits, the noise normal.

    Attributes:
        version: of the code that splits and draws.
        seed: of the split and of the draws.
        rotation_degrees: to either side.
        scale: largest enlargement, and one over the strongest reduction (log-uniform).
        stretch: largest ratio of width to height, and one over the smallest.
        shift_pixels: in either direction, for each axis.
        contrast: lowest; the lost range is filled with a random grey level.
        noise: standard deviation, white being 1.
        train_draws: draws of each training original.
        validation_draws: draws of each validation original.
        test_draws: draws of each test original.
    """

    version: int = 2
    seed: int = 0
    rotation_degrees: float = 40.0
    scale: float = 1.2
    stretch: float = 1.15
    shift_pixels: float = 1.0
    contrast: float = 0.5
    noise: float = 0.06
    train_draws: int = 128
    validation_draws: int = 12
    test_draws: int = 12


def draw(
    originals: NDArray[np.float32], draws: int, corruption: Corruption, stream: int
) -> torch.Tensor:
    """Redraw each original a number of times.

    Args:
        originals: (n, 8, 8) in 0..1.
        draws: of each.
        corruption: its strength and seed.
        stream: random stream, so that the parts of a data set differ.

    Returns:
        uint8, (n * draws, 1, 8, 8); the draws of one original lie together.
    """
    c = corruption
    rng = np.random.default_rng([c.seed, stream])
    n = len(originals) * draws
    angle = rng.uniform(-1, 1, n) * math.radians(c.rotation_degrees)
    zoom = np.exp(rng.uniform(-1, 1, n) * math.log(c.scale))
    stretch = np.exp(rng.uniform(-0.5, 0.5, n) * math.log(c.stretch))
    shift = rng.uniform(-1, 1, (2, n)) * c.shift_pixels / (SIZE / 2)
    contrast = rng.uniform(c.contrast, 1, n)
    black = rng.uniform(0, 1, n) * (1 - contrast)
    noise = rng.standard_normal((n, SIZE, SIZE), dtype=np.float32) * c.noise

    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    rows = (
        (cosine / stretch, -sine * stretch, shift[0]),
        (sine / stretch, cosine * stretch, shift[1]),
    )
    theta = np.stack([np.stack(row, axis=-1) for row in rows], axis=1).astype(np.float32)
    drawn = torch.empty(n, 1, SIZE, SIZE, dtype=torch.uint8)
    images = torch.from_numpy(originals)[:, None].repeat_interleave(draws, dim=0)
    for start in range(0, n, 16_384):  # a float copy of all at once would be large
        at = slice(start, start + 16_384)
        grid = F.affine_grid(
            torch.from_numpy(theta[at]), [len(theta[at]), 1, SIZE, SIZE], align_corners=False
        )
        ink = F.grid_sample(images[at], grid, mode="bicubic", align_corners=False).clamp(0, 1)
        span = torch.from_numpy(contrast.astype(np.float32))[at, None, None, None]
        floor = torch.from_numpy(black.astype(np.float32))[at, None, None, None]
        grey = ink * span + floor + torch.from_numpy(noise)[at, None]
        drawn[at] = grey.mul(255).round().clamp(0, 255).to(torch.uint8)
    return drawn


def split_by_original(labels: NDArray[Any], seed: int) -> tuple[NDArray[np.int64], ...]:
    """Indices of the originals for train (5/8), validation and test (3/16 each), by class."""
    rng = np.random.default_rng(seed)
    parts: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        cuts = [len(members) * 5 // 8, len(members) * 13 // 16]
        for part, chosen in zip(parts, np.split(members, cuts), strict=True):
            part.append(chosen)
    return tuple(np.sort(np.concatenate(part)) for part in parts)


def make_digits(name: str, corruption: Corruption | None) -> Dataset:
    """The data set at a strength of corruption; None leaves the originals as they are."""
    bundled = load_digits()
    originals = (bundled.images / 16).astype(np.float32)
    labels = bundled.target.astype(np.int64)
    recipe = {} if corruption is None else asdict(corruption)
    seed = 0 if corruption is None else corruption.seed
    preprocessing = {
        "kind": "image",
        "input_shape": [1, SIZE, SIZE],
        "scale": SCALE,
        "mean": [0.4],
        "std": [0.3],
    }
    parts = []
    for stream, chosen in enumerate(split_by_original(labels, seed)):
        if corruption is None:
            draws = 1
            pixels = torch.from_numpy(originals[chosen, None] * 255).round().to(torch.uint8)
        else:
            c = corruption
            draws = (c.train_draws, c.validation_draws, c.test_draws)[stream]
            pixels = draw(originals[chosen], draws, c, stream)
        repeated = torch.from_numpy(labels[chosen].repeat(draws))
        parts.append(Part(pixels, repeated, preprocessing, draws))
    train, validation, test = parts
    shaped_by = {"name": name, "recipe": recipe, "seed": seed, "preprocessing": preprocessing}
    return Dataset(
        name,
        train,
        validation,
        test,
        tuple(str(digit) for digit in range(10)),
        preprocessing,
        fingerprint(shaped_by),
    )


@register_dataset("digits")
def digits() -> Dataset:
    """Scikit-learn's 1,797 handwritten digits, clean: too easy to rank subnets."""
    return make_digits("digits", None)


@register_dataset("digits-hard")
def digits_hard() -> Dataset:
    """Handwritten digits redrawn many times: rotated, scaled, shifted, faded and noisy."""
    return make_digits("digits-hard", Corruption())
