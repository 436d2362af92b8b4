from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.base import clone

from hw_profiles.errors import UsageError
from predictors.accuracy import KINDS, AccuracyPredictor
from predictors.gaussian_process import GaussianProcess, Kernel
from predictors.genome_encoder import Encoder
from search_spaces.choices import Choice, ChoiceSet, Condition

DEPTH = Choice("depth", (1, 2, 3))
CHOICES = ChoiceSet(
    (
        DEPTH,
        *(
            Choice(f"{kind}{i}", (1, 2, 4), Condition("depth", frozenset(range(i + 1, 4))), ordinal)
            for i in range(3)
            for kind, ordinal in (("width", True), ("scheme", False))
        ),
    )
)


def accuracy(genomes):
    active = CHOICES.active(genomes)
    width = (active[:, 1::2] * np.sqrt(1.0 + genomes[:, 1::2])).sum(axis=1)
    toll = (active[:, 2::2] * np.array([0.0, 0.01, 0.04])[genomes[:, 2::2]]).sum(axis=1)
    return 0.95 - 0.6 * np.exp(-width / 2) - toll


def data(n, seed, noise=0.0):
    rng = np.random.default_rng(seed)
    genomes = CHOICES.sample(n, rng)
    return genomes, accuracy(genomes) + rng.normal(0, noise, n)


@pytest.mark.parametrize("maximise", [True, False])
def test_it_ranks_unseen_networks_and_knows_its_error(maximise):
    sign = 1 if maximise else -1
    genomes, y = data(80, 0, noise=0.004)
    model = AccuracyPredictor(CHOICES, maximise=maximise).fit(genomes, sign * y)
    unseen, _ = data(400, 1)
    mean, std = model.predict(unseen, return_std=True)
    error = (mean - sign * accuracy(unseen)) / std
    assert kendalltau(mean, sign * accuracy(unseen)).statistic > 0.9
    assert 0.4 < np.sqrt(np.mean(error**2)) < 2.5
    assert (std > 0).all()
    assert model.weights_.sum() == pytest.approx(1)
    assert len(model.rank_correlation_) == len(KINDS)
    optimistic, median = model.quantiles(unseen, np.array([1.0, 0.0]))
    assert (sign * (optimistic - median) > 0).all()


def test_noise_is_told_from_structure():
    quiet, loud = (
        AccuracyPredictor(CHOICES).fit(*data(100, 2, noise)).noise_std_ for noise in (0.0, 0.03)
    )
    assert loud > 3 * quiet


def test_noise_that_is_known_is_believed():
    genomes, y = data(80, 2)
    rng = np.random.default_rng(0)
    rough = np.arange(80) % 2 == 1
    noise = np.where(rough, 0.08, 0.0)
    seen = y + rng.normal(0, 1, 80) * noise
    unseen, _ = data(400, 3)

    def error(known):
        model = AccuracyPredictor(CHOICES).fit(genomes, seen, known)
        return np.abs(model.predict(unseen) - accuracy(unseen)).mean()

    assert error(noise) < 0.7 * error(None)
    plain = AccuracyPredictor(CHOICES).fit(genomes, seen)
    zero = AccuracyPredictor(CHOICES).fit(genomes, seen, np.zeros(80))
    assert np.array_equal(plain.predict(unseen), zero.predict(unseen))
    model = AccuracyPredictor(CHOICES).fit(genomes, seen, noise)
    before = model.predict(genomes[rough], True)[1]
    after = model.condition(genomes, y, np.zeros(80)).predict(genomes[rough], True)[1]
    assert (after < before).all()
    for wrong in (noise[:-1], -noise, np.full(80, np.nan)):
        with pytest.raises(UsageError, match="noise"):
            AccuracyPredictor(CHOICES).fit(genomes, seen, wrong)


def test_features_help_where_genes_say_little():
    rng = np.random.default_rng(0)
    genomes = CHOICES.sample(160, rng)
    hidden = rng.normal(size=160)
    y = 0.5 + 0.1 * np.tanh(hidden)
    rows = np.c_[genomes, hidden]
    alone = AccuracyPredictor(CHOICES).fit(genomes[:80], y[:80]).predict(genomes[80:])
    model = AccuracyPredictor(CHOICES).fit(rows[:80], y[:80])
    assert kendalltau(model.predict(rows[80:]), y[80:]).statistic > 0.9
    assert kendalltau(alone, y[80:]).statistic < 0.4


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(0, 1000))
def test_inactive_genes_change_nothing(n, seed):
    genomes, y = data(n, seed)
    model = AccuracyPredictor(CHOICES).fit(genomes, y)
    raw = np.random.default_rng(seed + 1).integers(0, 3, (20, len(CHOICES)))
    np.testing.assert_allclose(
        model.predict(raw), model.predict(CHOICES.canonical(raw)), rtol=1e-12
    )


def test_it_is_a_function_of_its_data():
    genomes, y = data(50, 3, 0.01)
    model = AccuracyPredictor(CHOICES).fit(genomes, y)
    again = clone(model).fit(genomes, y)
    unseen = CHOICES.sample(30, np.random.default_rng(5))
    assert (model.predict(unseen) == again.predict(unseen)).all()
    assert again.get_params()["maximise"] is True


def test_conditioning_takes_observations_without_a_new_fit():
    genomes, y = data(60, 4)
    model = AccuracyPredictor(CHOICES).fit(genomes[:40], y[:40])
    before = model.predict(genomes[40:], return_std=True)
    model.condition(genomes, y)
    after = model.predict(genomes[40:], return_std=True)
    assert np.abs(after[0] - y[40:]).mean() < np.abs(before[0] - y[40:]).mean()
    assert after[1].mean() < before[1].mean()


def test_many_rows_are_all_used():
    genomes, y = data(400, 10, noise=0.02)
    few = AccuracyPredictor(CHOICES).fit(genomes[:250], y[:250])
    many = AccuracyPredictor(CHOICES).fit(genomes, y)
    unseen, _ = data(300, 11)
    error = [np.abs(m.predict(unseen) - accuracy(unseen)).mean() for m in (many, few)]
    assert error[0] < error[1]
    assert many.predict(unseen, True)[1].mean() < few.predict(unseen, True)[1].mean()


@pytest.mark.parametrize("y", [[0.5, 0.5, 0.5, 0.5], [0.9, 0.9, 0.9, 0.1]])
def test_degenerate_responses_are_predicted_finitely(y):
    genomes, _ = data(4, 6)
    mean, std = AccuracyPredictor(CHOICES).fit(genomes, np.array(y)).predict(genomes, True)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    np.testing.assert_allclose(mean, y, atol=0.2)


@pytest.mark.parametrize(("kind", "free"), [("ard", 14), ("shared", 16), ("linear", 8)])
def test_gradient_of_the_fit_is_right(kind, free):
    genomes, y = data(25, 7, 0.01)
    rows = genomes.astype(float)
    encoder = Encoder.of(CHOICES, rows)
    x, standard = encoder(rows), (y - y.mean()) / y.std()
    model = GaussianProcess(kind, encoder.groups(), encoder.families())
    model.prepare(x)
    point, small = 0.3 * np.sin(np.arange(free)), 1e-5 * np.eye(free)
    for extra in (0.0, np.linspace(0, 0.3, 25)):
        _, gradient = model.loss(point, standard, extra)
        numeric = [
            (model.loss(point + s, standard, extra)[0] - model.loss(point - s, standard, extra)[0])
            / 2e-5
            for s in small
        ]
        np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4)


def test_leave_one_out_is_what_leaving_one_out_gives():
    genomes, y = data(20, 8, 0.01)
    rows = genomes.astype(float)
    encoder = Encoder.of(CHOICES, rows)
    x, standard = encoder(rows), (y - y.mean()) / y.std()
    model = GaussianProcess("shared", encoder.groups(), encoder.families()).fit(x, standard)
    left_out = model.left_out_[3]
    keep = np.arange(20) != 3
    model.condition(x[keep], standard[keep])
    assert model.predict(x[3:4])[0][0] == pytest.approx(left_out, rel=1e-6)


@pytest.mark.parametrize("kind", get_args(Kernel))
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(0, 1000), st.floats(0, 0.5))
def test_rows_added_at_any_pace_are_rows_taken_at_once(kind, cut, seed, known):
    genomes, y = data(30, seed, 0.01)
    rows = genomes.astype(float)
    encoder = Encoder.of(CHOICES, rows[:10])
    x, standard = encoder(rows), (y - y.mean()) / y.std()
    unseen = encoder(data(15, seed + 1)[0].astype(float))
    extra = np.linspace(0, known, 30)

    def predicted(*numbers):
        model = GaussianProcess(kind, encoder.groups(), encoder.families())
        model.fit(x[:10], standard[:10], extra[:10])
        for n in numbers:
            model.condition(x[:n], standard[:n], extra[:n])
        return np.stack(model.predict(unseen))

    together = predicted(30)
    np.testing.assert_array_equal(predicted(*range(10, 30, cut), 30), together)
    np.testing.assert_allclose(predicted(cut, 30), together, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(predicted(1, 30), together, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", get_args(Kernel))
def test_rows_taken_already_take_another_variance(kind):
    genomes, y = data(30, 6)
    encoder = Encoder.of(CHOICES, genomes.astype(float))
    x, standard = encoder(genomes.astype(float)), (y - y.mean()) / y.std()
    known = np.full(30, 0.3)
    model = GaussianProcess(kind, encoder.groups(), encoder.families()).fit(x, standard)
    before = np.stack(model.predict(x))
    after = np.stack(model.condition(x, standard, known).predict(x))
    assert (after[1] > before[1]).all()
    anew = model.condition(x[:1], standard[:1], known[:1]).condition(x, standard, known)
    np.testing.assert_allclose(np.stack(anew.predict(x)), after, rtol=1e-6, atol=1e-8)


def test_wrong_rows_are_refused():
    genomes, y = data(10, 9)
    model = AccuracyPredictor(CHOICES).fit(genomes, y)
    with pytest.raises(UsageError, match="fitted on 7 columns"):
        model.predict(np.c_[genomes, y])
    with pytest.raises(UsageError, match="genes first"):
        model.predict(genomes[:, :3])
    with pytest.raises(UsageError, match="finite response"):
        AccuracyPredictor(CHOICES).fit(genomes, np.where(y > 0, np.nan, y))
    with pytest.raises(UsageError, match="two or more"):
        AccuracyPredictor(CHOICES).fit(genomes[:1], y[:1])
