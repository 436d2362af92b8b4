"""Augmentation: parts of the input that came, drawn from the generator alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nas.data.augment import AUGMENTATIONS, augment
from nas.errors import NotFoundError


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(n: int = 64, height: int = 32, width: int = 32) -> Tensor:
    """Pixels that say where they are from, never 0."""
    numbers = torch.arange(1, n * 3 * height * width + 1, dtype=torch.float64)
    return numbers.reshape(n, 3, height, width)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_the_generator_alone_decides(name: str) -> None:
    inputs = torch.randn(8, 400) if name == "shift" else torch.randn(8, 3, 16, 24)
    kept = inputs.clone()
    once = augment(name, inputs, _generator())
    torch.manual_seed(5)
    torch.testing.assert_close(augment(name, inputs, _generator()), once, rtol=0, atol=0)
    assert inputs.equal(kept)
    assert once.shape == inputs.shape
    assert once.dtype == inputs.dtype
    assert once.equal(inputs) == (name == "none")
    if name != "none":
        assert not augment(name, inputs, _generator(1)).equal(once)


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_crop_flip_moves_whole_images(height: int, width: int, seed: int) -> None:
    images = _images(3, height, width)
    cut = augment("crop-flip", images, _generator(seed))
    for before, after in zip(images, cut, strict=True):
        shown = after[0] != 0
        rows, columns = shown.any(dim=1).nonzero()[:, 0], shown.any(dim=0).nonzero()[:, 0]
        inside = after[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert inside.shape[1] >= height - height // 8
        assert inside.shape[2] >= width - width // 8
        # Where the crop's first and last pixel come from, and all between in their order.
        first, last = (
            divmod(int(inside[0, at, at]) - int(before[0, 0, 0]), width) for at in (0, -1)
        )
        source = before[:, first[0] : last[0] + 1]
        left, right = sorted((first[1], last[1]))
        source = source[:, :, left : right + 1]
        assert inside.equal(source if first[1] <= last[1] else source.flip(2))


def test_crop_flip_draws_every_place_and_both_sides() -> None:
    images = torch.zeros(2_000, 1, 8, 8)
    images[:, :, 4, 4] = 1
    cut = augment("crop-flip", images, _generator())
    places = {tuple(place) for place in cut[:, 0].nonzero()[:, 1:].tolist()}
    # One pixel up or down; left or right of column 4, or of its mirror image, column 3.
    assert places == {(row, column) for row in (3, 4, 5) for column in (2, 3, 4, 5)}


def test_jitter_changes_brightness_and_contrast_of_each_image() -> None:
    images = torch.randn(500, 3, 8, 8)
    plain = augment("crop-flip", images, _generator())
    changed = augment("crop-flip-jitter", images, _generator())
    moved = (changed - plain).mean(dim=(1, 2, 3))
    ratio = changed.flatten(1).std(dim=1) / plain.flatten(1).std(dim=1)
    for drawn, centre in ((moved, 0.0), (ratio, 1.0)):
        assert float((drawn - centre).abs().max()) <= 0.2 + 1e-5
        assert float(drawn.std()) > 0.08
        assert abs(float(drawn.mean()) - centre) < 0.03


@given(samples=st.integers(1, 60), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_shift_keeps_the_order_and_fills_with_silence(samples: int, seed: int) -> None:
    waves = torch.arange(1.0, samples + 1).repeat(4, 1)
    for moved in augment("shift", waves, _generator(seed)):
        kept = moved[moved != 0]
        assert len(kept) >= samples - samples // 10
        assert kept.diff().eq(1).all()
        assert 1 in kept or samples in kept


def test_shift_goes_both_ways() -> None:
    waves = torch.arange(1.0, 101).repeat(500, 1)
    first = augment("shift", waves, _generator())[:, 50]
    assert {int(value) for value in first} == set(range(41, 62))


def test_unknown_augmentation_proposes_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="crop-flip"):
        augment("crop-flop", torch.zeros(1, 1, 8, 8), _generator())
