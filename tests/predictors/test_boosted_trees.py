import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from predictors.accuracy import KINDS, AccuracyPredictor
from predictors.boosted_trees import CHUNK, FOLDS, BoostedTrees
from search_spaces.choices import Choice, ChoiceSet


def data(n, seed, columns=8, noise=0.0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (n, columns)).astype(float)
    y = x[:, 0] + x[:, 1] + 3.0 * (x[:, 2] > 1) * (x[:, 3] > 1)
    return x, (y + rng.normal(0, noise, n) - 3.7) / 2


def test_they_rank_unseen_rows_and_know_their_error():
    x, y = data(200, 0, noise=0.3)
    unseen, true = data(2 * CHUNK + 7, 1)
    model = BoostedTrees().fit(x, y)
    mean, std = model.predict(unseen)
    assert mean.shape == std.shape == (len(unseen),)
    assert kendalltau(mean, true).statistic > 0.85
    assert 0.4 < np.sqrt(np.mean(((mean - true) / std) ** 2)) < 1.2
    np.testing.assert_array_equal(model.predict(unseen[300:310])[0], mean[300:310])
    again = BoostedTrees().fit(x, y)
    np.testing.assert_array_equal(again.predict(unseen)[0], mean)
    before = model.predict(unseen)[0]
    np.testing.assert_array_equal(model.condition(unseen, true).predict(unseen)[0], before)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(0, 1000), st.floats(-5, 5), st.data())
def test_a_response_left_out_was_not_seen(n, seed, shift, draw):
    x, y = data(n, seed)
    row = draw.draw(st.integers(0, n - 1))
    moved = y.copy()
    moved[row] += shift
    before, after = (BoostedTrees().fit(x, each).left_out_ for each in (y, moved))
    fold = np.arange(n) % min(FOLDS, n) == row % min(FOLDS, n)
    np.testing.assert_array_equal(after[fold], before[fold])


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(0, 1000))
def test_predictions_stay_within_what_was_seen(n, seed):
    x, y = data(n, seed)
    mean = BoostedTrees().fit(x, y).predict(data(50, seed + 1)[0])[0]
    slack = np.ptp(y) / 2 + 1e-9
    assert (mean > y.min() - slack).all()
    assert (mean < y.max() + slack).all()


def test_known_noise_counts_for_less():
    x, y = data(300, 2)
    rng = np.random.default_rng(0)
    rough = np.where(np.arange(300) % 2 == 1, 2.0, 0.0)
    unseen, true = data(400, 3)
    seen = y + rng.normal(0, 1, 300) * rough
    told, untold = (BoostedTrees().fit(x, seen, known) for known in (rough**2, 0.0))
    error = [np.abs(m.predict(unseen)[0] - true).mean() for m in (told, untold)]
    assert error[0] < 0.8 * error[1]
    assert told.log_density_ > untold.log_density_


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_rows_and_columns_that_do_not_vary(n):
    mean, std = BoostedTrees().fit(np.ones((n, 3)), np.full(n, 0.5)).predict(np.zeros((4, 3)))
    np.testing.assert_allclose(mean, 0.5 if n > 1 else 0.0)
    assert np.isfinite(std).all()


def test_they_have_a_say_where_they_know_better():
    """Jumps where two of many genes meet, which no smooth kernel takes for likely."""
    choices = ChoiceSet(tuple(Choice(f"{chr(97 + i)}gene", (1, 2, 3, 4)) for i in range(20)))
    rng = np.random.default_rng(4)
    genomes, unseen = choices.sample(300, rng), choices.sample(300, rng)

    def response(g):
        return ((g[:, 0:8:2] > 1) & (g[:, 1:8:2] > 1)).sum(axis=1).astype(float)

    noise = rng.normal(0, 0.05, len(genomes))
    with_trees, without = (
        AccuracyPredictor(choices, kinds=kinds).fit(genomes, response(genomes) + noise)
        for kinds in (KINDS, KINDS[:-1])
    )
    assert KINDS[-1] == "boosted"
    assert with_trees.weights_[-1] > 0.5
    error = [np.abs(m.predict(unseen) - response(unseen)).mean() for m in (with_trees, without)]
    assert error[0] < 0.8 * error[1]
    # In any order, the trees last to be fitted or not.
    turned = AccuracyPredictor(choices, kinds=KINDS[::-1]).fit(genomes, response(genomes) + noise)
    np.testing.assert_allclose(turned.weights_, with_trees.weights_[::-1])
