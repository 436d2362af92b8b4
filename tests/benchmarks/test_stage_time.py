"""Block costs are found, also of what was not seen, and the trees mend what is no sum."""

from __future__ import annotations

import numpy as np
import pytest
from models.stage_time import StageTime
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def _networks(n: int, seed: int, kernels: tuple[int, ...] = (3, 5)) -> Floats:
    """Choices of three stages, (n, 12)."""
    rng = np.random.default_rng(seed)
    stages = [
        np.column_stack(
            [
                rng.choice([1, 4, 6], n),
                rng.choice(kernels, n),
                rng.choice([1, 2, 3], n),
                rng.choice([0, 1], n),
            ]
        )
        for _ in range(3)
    ]
    return np.concatenate(stages, axis=1).astype(float)


def _time(networks: Floats) -> Floats:
    """Microseconds: blocks by their work, and a step of cost for wide blocks with squeeze."""
    total = np.full(len(networks), 20.0)
    for stage, scale in enumerate((4.0, 2.0, 1.0)):
        e, k, blocks, squeeze = networks[:, 4 * stage : 4 * stage + 4].T
        block = e * (1 + 0.02 * k**2) + 0.5 * squeeze * e + 0.7 * (squeeze * (e == 6))
        total += scale * block * (1.3 + (blocks - 1))
    return total


def test_a_sum_of_blocks_is_found() -> None:
    networks, new = _networks(800, 0), _networks(300, 1)
    model = StageTime(trees=30).fit(networks, _time(networks))
    assert np.max(np.abs(model.predict(new) / _time(new) - 1)) < 0.01


def test_disturbed_timings_do_not_count() -> None:
    networks, new = _networks(800, 0), _networks(300, 1)
    times = _time(networks)
    times[::40] *= 1.3
    model = StageTime(trees=30).fit(networks, times)
    assert np.mean(np.abs(model.predict(new) / _time(new) - 1)) < 0.01


def test_a_choice_that_was_not_seen_costs_what_its_work_says() -> None:
    networks, new = _networks(800, 0), _networks(300, 1, kernels=(7,))
    model = StageTime(trees=30).fit(networks, _time(networks))
    assert np.mean(np.abs(model.predict(new) / _time(new) - 1)) < 0.05


def test_trees_mend_what_is_no_sum() -> None:
    networks, new = _networks(2000, 0), _networks(300, 1)

    def overlapped(x: Floats) -> Floats:
        return _time(x) * np.where(x[:, 0] == x[:, 4], 0.95, 1.0)

    error = [
        np.mean(
            np.abs(
                StageTime(trees).fit(networks, overlapped(networks)).predict(new) / overlapped(new)
                - 1
            )
        )
        for trees in (1, 150)
    ]
    assert error[1] < 0.5 * error[0]


def test_the_same_rows_make_the_same_model() -> None:
    networks = _networks(200, 0)
    one, two = (StageTime(trees=20).fit(networks, _time(networks)) for _ in range(2))
    np.testing.assert_array_equal(one.predict(networks), two.predict(networks))


def test_columns_must_be_four_a_stage() -> None:
    with pytest.raises(ValueError, match="4 a stage"):
        StageTime().fit(np.ones((5, 6)), np.ones(5))


def test_times_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        StageTime().fit(_networks(5, 0), np.zeros(5))
