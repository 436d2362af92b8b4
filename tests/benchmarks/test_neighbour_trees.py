"""A grid whose cells err together along one size, as metered tables do."""

from __future__ import annotations

import itertools

import numpy as np
from models.neighbour_trees import NeighbourTrees
from numpy.typing import NDArray

from predictors import metrics
from predictors.op_time import Array

SIZES = [2.0**i for i in range(4, 12)]


def _grid(seed: int) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Rows (m, n, k, group), a quantity that drifts from line to line, and what is kept out."""
    rng = np.random.default_rng(seed)
    X = np.array(list(itertools.product(SIZES, SIZES, SIZES, (0.0, 1.0))))
    line = np.unique(X[:, [0, 1, 3]], axis=0, return_inverse=True)[1].ravel()
    drift = rng.normal(0, 0.4, line.max() + 1)[line]
    y = 100 * np.exp(drift) * X[:, 2] ** 0.1
    return X, y, rng.random(len(X)) < 0.2


def test_readings_follow_their_neighbours() -> None:
    X, y, out = _grid(0)
    model = NeighbourTrees(max_iter=60).fit(X[~out], y[~out])
    assert metrics.mape(y[out], model.predict(X[out])) < 6.0
    assert metrics.mape(y[out], np.exp(model.far_.predict(model._features(X[out])))) > 15.0


def test_a_shape_far_from_all_is_predicted_from_its_features() -> None:
    X, y, _ = _grid(1)
    model = NeighbourTrees(max_iter=30).fit(X, y)
    lonely = np.array([[33.0, 77.0, 512.0, 0.0]])
    expected = np.exp(model.far_.predict(model._features(lonely)))
    np.testing.assert_allclose(model.predict(lonely), expected)


def test_a_row_is_no_neighbour_of_its_own() -> None:
    X = np.array([[16.0, 16, 16, 0], [16, 16, 64, 0], [16, 32, 16, 0], [16, 16, 64, 1]])
    model = NeighbourTrees(max_iter=2).fit(X, np.array([1.0, 2.0, 4.0, 8.0]))
    first = model._neighbours(X)[0]
    m, n, k = first[:4], first[4:8], first[8:]
    assert np.isnan(m).all()
    np.testing.assert_allclose(n, [np.nan, np.nan, np.log(4.0), 1.0])
    np.testing.assert_allclose(k, [np.nan, np.nan, np.log(2.0), 2.0, *[np.nan] * 4])
