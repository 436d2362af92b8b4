"""The columns of work say what a translation does."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from models.translation import FEATURES, translation_work

SIZES = np.array([[512.0, 6, 1024, 4, 640, 3, 2048, 4, 4, 2]])


def test_one_row_a_network() -> None:
    work = translation_work(np.repeat(SIZES, 7, axis=0))
    assert work.shape == (7, 25)
    assert np.isfinite(work).all()


def test_work_of_decoder_layers_grows_with_their_number() -> None:
    deeper = SIZES.copy()
    deeper[:, FEATURES.index("decoder_layer_num")] *= 2
    np.testing.assert_allclose(
        translation_work(deeper)[:, :15], 2 * translation_work(SIZES)[:, :15]
    )


@given(st.integers(0, len(FEATURES) - 1), st.floats(1.1, 4.0))
def test_every_size_counts(feature: int, factor: float) -> None:
    larger = SIZES.copy()
    larger[:, feature] *= factor
    assert np.any(translation_work(larger) != translation_work(SIZES))
