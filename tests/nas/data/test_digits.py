"""The digits: split by original, drawn alike from one seed, hard enough."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from nas.data import Dataset, load_dataset
from nas.data.digits import Corruption, draw, make_digits, split_by_original

SMALL = Corruption(train_draws=2, validation_draws=1, test_draws=1)


@pytest.fixture(scope="module")
def hard() -> Dataset:
    return load_dataset("digits-hard")


def test_split_takes_each_original_once_and_balances_the_classes() -> None:
    labels = load_digits().target
    parts = split_by_original(labels, seed=0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    for part in parts:
        counts = np.bincount(labels[part], minlength=10)
        assert counts.min() > 0.9 * counts.max()


def test_validation_and_test_have_at_least_4000_images(hard: Dataset) -> None:
    assert len(hard.validation) >= 4_000
    assert len(hard.test) >= 4_000
    assert len(hard.train) > 100_000


def test_parts_are_8_bit_images_with_int64_labels(hard: Dataset) -> None:
    for part in (hard.train, hard.validation, hard.test):
        assert part.stored.dtype == torch.uint8
        assert part.stored.shape == (len(part), 1, 8, 8)
        assert part.labels.dtype == torch.int64
        assert part.labels.unique().tolist() == list(range(10))


def test_network_input_is_about_standard(hard: Dataset) -> None:
    images = hard.validation.inputs
    assert images.dtype == torch.float32
    assert abs(float(images.mean())) < 0.3
    assert 0.8 < float(images.std()) < 1.2
    chosen = torch.tensor([5, 2])
    batch, labels = hard.validation.batch(chosen)
    torch.testing.assert_close(batch, images[chosen])
    assert labels.equal(hard.validation.labels[chosen])


def test_same_recipe_draws_the_same() -> None:
    one, two = make_digits("digits-hard", SMALL), make_digits("digits-hard", SMALL)
    assert one.fingerprint == two.fingerprint
    assert one.train.stored.equal(two.train.stored)
    assert one.test.stored.equal(two.test.stored)


@given(
    field=st.sampled_from(["seed", "rotation_degrees", "noise", "test_draws"]),
    change=st.integers(1, 5),
)
@settings(max_examples=6, deadline=None)
def test_fingerprint_changes_with_the_recipe(field: str, change: int) -> None:
    other = replace(SMALL, **{field: getattr(SMALL, field) + change})
    changed, plain = make_digits("digits-hard", other), make_digits("digits-hard", SMALL)
    assert changed.fingerprint != plain.fingerprint


def test_draws_differ_between_streams_and_from_each_other() -> None:
    original = (load_digits().images[:1] / 16).astype(np.float32)
    one = draw(original, 3, SMALL, stream=0)
    assert not one[0].equal(one[1])
    assert not one.equal(draw(original, 3, SMALL, stream=1))


def test_no_corruption_redraws_the_original() -> None:
    originals = (load_digits().images[:20] / 16).astype(np.float32)
    none = Corruption(rotation_degrees=0, scale=1, stretch=1, shift_pixels=0, contrast=1, noise=0)
    drawn = draw(originals, 1, none, stream=0)[:, 0].numpy()
    assert np.abs(drawn - originals * 255).max() <= 1


def test_clean_digits_are_the_originals() -> None:
    clean = load_dataset("digits", (1, 8, 8))
    assert len(clean.train) + len(clean.validation) + len(clean.test) == 1_797
    assert clean.train.stored.max() == 255
    assert clean.fingerprint != load_dataset("digits-hard").fingerprint
