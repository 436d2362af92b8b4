import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nas.engine.pareto import gains, hypervolume, non_dominated
from nas.errors import UsageError

points = st.integers(1, 3).flatmap(
    lambda k: arrays(
        np.float64, st.tuples(st.integers(1, 12), st.just(k)), elements=st.integers(0, 6)
    )
)


@given(points)
def test_non_dominated_is_what_the_definition_says(values):
    maximise = [True, False, True][: values.shape[1]]
    worse = values * np.where(maximise, -1, 1)
    expected = [
        not any((other <= row).all() and (other < row).any() for other in worse) for row in worse
    ]
    assert non_dominated(values, maximise).tolist() == expected


def test_feasible_rows_come_first():
    values = np.array([[9.0], [5.0], [7.0]])
    assert non_dominated(values, [True], np.array([0.2, 0.0, -0.1])).tolist() == [
        False,
        False,
        True,
    ]
    assert non_dominated(values, [True], np.array([0.2, 0.1, 0.3])).tolist() == [False, True, False]
    assert non_dominated(np.empty((0, 1)), [True]).tolist() == []


@settings(max_examples=60)
@given(points, st.integers(0, 2**20))
def test_gain_is_the_growth_of_the_hypervolume(front, seed):
    k = front.shape[1]
    candidates = np.random.default_rng(seed).integers(0, 7, (5, k)).astype(float)
    worst = np.full(k, 5.0)
    minimise = [False] * k
    before = hypervolume(front, minimise, worst)
    after = [hypervolume(np.vstack([front, c]), minimise, worst) for c in candidates]
    np.testing.assert_allclose(gains(front, candidates, worst), np.array(after) - before, atol=1e-9)


def test_hypervolume_counts_nothing_beyond_the_reference():
    assert hypervolume(np.array([[0.9, 5.0], [0.1, 1.0]]), [True, False], [0.5, 4.0]) == 0.0
    assert hypervolume(np.array([[0.9, 2.0]]), [True, False], [0.5, 4.0]) == pytest.approx(0.8)


@pytest.mark.parametrize("values", [np.array([[np.nan, 1.0]]), np.zeros((2, 3)), np.zeros(2)])
def test_what_is_no_table_of_values_is_refused(values):
    with pytest.raises(UsageError, match="without NaN"):
        non_dominated(values, [True, False])
