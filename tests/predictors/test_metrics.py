"""Metrics on values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from predictors import metrics

MEASURED = np.array([1.0, 2.0, 4.0, 8.0])
PREDICTED = np.array([1.1, 2.0, 3.0, 8.4])  # off by 10, 0, 25 and 5 percent


def test_errors_are_relative_to_the_measured_values() -> None:
    assert metrics.mape(MEASURED, PREDICTED) == pytest.approx(10.0)
    assert metrics.median_error(MEASURED, PREDICTED) == pytest.approx(7.5)


def test_rank_correlation_ignores_scale_and_is_zero_for_a_constant() -> None:
    assert metrics.kendall_tau(MEASURED, PREDICTED**3) == 1.0
    assert metrics.kendall_tau(MEASURED, np.ones(4)) == 0.0


def test_coverage() -> None:
    assert metrics.coverage(MEASURED, PREDICTED) == 0.75


@pytest.mark.parametrize(("measured", "predicted"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0])])
def test_values_without_a_relative_error_are_refused(
    measured: list[float], predicted: list[float]
) -> None:
    with pytest.raises(ValueError, match=r"measured|arrays"):
        metrics.mape(measured, predicted)
