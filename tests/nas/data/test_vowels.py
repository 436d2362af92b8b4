"""Vowels: voices that vary as said, no speaker in two parts, the same from the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import multivariate_normal
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nas.data import Dataset, load_dataset
from nas.data import vowels as module
from nas.data.vowels import RATE_HZ, SAMPLES, TABLE, Voices, make_vowels, speakers, synthesize
from nas.equipment import space_and_data
from nas.training.evaluate import quality
from nas.training.recipe_text import recipe_for
from nas.training.store import SHIPPED, find_supernet
from search_spaces.lighthubert.sizes import PRESETS

SMALL = Voices(train_speakers=60, validation_speakers=20, test_speakers=20)
# Steady voices without noise, of which a pitch can be measured.
STEADY = Voices(
    breath=0,
    contour=0,
    glide=0,
    loudness_db=0,
    shortest_s=0.2,
    noisiest_db=60,
    clearest_db=61,
    nearest_db=60,
    farthest_db=61,
)
FINER = 8  # lags between two samples at which an autocorrelation is looked at


@pytest.fixture(scope="module")
def small() -> Dataset:
    return make_vowels(SMALL)


def _pitch_hz(wave: NDArray[np.int16]) -> float:
    """From the first large peak of the autocorrelation."""
    centred = wave.astype(float) - wave.mean()
    spectrum = np.abs(np.fft.rfft(centred, 4 * SAMPLES)) ** 2
    alike = np.fft.irfft(spectrum, 4 * SAMPLES * FINER)[: RATE_HZ * FINER // 60]
    # Fewer products at a longer lag.
    alike *= SAMPLES / (SAMPLES - np.arange(len(alike)) / FINER)
    shortest = RATE_HZ * FINER // 500
    peaks = [
        lag
        for lag in range(shortest, len(alike) - 1)
        if alike[lag - 1] <= alike[lag] >= alike[lag + 1]
    ]
    largest = max(alike[lag] for lag in peaks)
    lag = next(lag for lag in peaks if alike[lag] > 0.96 * largest)
    return RATE_HZ * FINER / lag


def test_parts_are_16_bit_waveforms_of_every_vowel(small: Dataset) -> None:
    assert small.class_names == tuple(TABLE)
    for part, n in ((small.train, 60), (small.validation, 20), (small.test, 20)):
        assert part.stored.dtype == torch.int16
        assert part.stored.shape == (10 * n, SAMPLES)
        assert torch.bincount(part.labels).tolist() == [n] * 10
    assert 0.5 < float(small.train.inputs.std()) < 2


def test_no_speaker_is_in_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def recorded(*arguments: object) -> NDArray[np.float64]:
        drawn.append(speakers(*arguments))
        return drawn[-1]

    monkeypatch.setattr(module, "speakers", recorded)
    data = make_vowels(SMALL)
    assert not drawn  # before they are asked for
    parts = (data.train, data.validation, data.test)
    stored = torch.cat([part.stored for part in parts])
    assert [len(each) for each in drawn] == [60, 20, 20]
    voices = np.concatenate(drawn).reshape(100, -1)
    assert len(np.unique(voices, axis=0)) == 100
    for column in (0, 1, 2, 3):  # nor do two share a pitch or a formant
        assert len(np.unique(voices[:, column])) == 100
    assert len(stored.unique(dim=0)) == 1_000


def test_same_seed_gives_the_same(small: Dataset) -> None:
    again = make_vowels(SMALL)
    assert again.fingerprint == small.fingerprint
    for part in ("train", "validation", "test"):
        assert getattr(again, part).stored.equal(getattr(small, part).stored)
    other = make_vowels(replace(SMALL, seed=1))
    assert other.fingerprint != small.fingerprint
    assert not other.train.stored.equal(small.train.stored)


@given(
    period=st.integers(27, 88),  # in samples: the same everywhere, so that it can be measured
    vowel=st.sampled_from(sorted(TABLE)),
    group=st.integers(0, 2),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_a_voice_has_the_pitch_that_was_asked_for(
    period: int, vowel: str, group: int, seed: int
) -> None:
    pitch_hz = RATE_HZ / period
    target = np.array([[pitch_hz, *TABLE[vowel][group][1:]]], float)
    wave = synthesize(target, STEADY, np.random.default_rng(seed))[0]
    assert _pitch_hz(wave) == pytest.approx(pitch_hz, rel=0.03)


def test_the_pitch_that_is_heard_varies_among_speakers() -> None:
    rng = np.random.default_rng(0)
    targets = speakers(60, STEADY, rng)[:, 0]
    heard = np.array([_pitch_hz(wave) for wave in synthesize(targets, STEADY, rng)])
    assert np.median(np.abs(heard / targets[:, 0] - 1)) < 0.02
    assert heard.min() < 150
    assert heard.max() > 230
    assert np.log(heard).std() > 0.2


def test_formants_vary_about_the_published_ones() -> None:
    drawn = speakers(4_000, Voices(), np.random.default_rng(0))
    table = np.array(list(TABLE.values()), float)  # (vowels, groups, 4)
    mean = np.average(table, axis=1, weights=module.SHARES)
    assert np.abs(drawn.mean(axis=0) / mean - 1).max() < 0.03
    within = np.log(drawn[..., 1:]).std(axis=0)
    assert within.min() > 0.05


def test_pitch_and_formants_tell_nearly_every_vowel() -> None:
    """The most probable vowel, by the distribution that speakers are drawn from."""
    voices = Voices()
    drawn = np.log(speakers(500, voices, np.random.default_rng(0)))  # (speakers, vowels, 4)
    covariance = np.diag([voices.pitch**2, *[voices.accent**2] * 3])
    covariance[1:, 1:] += voices.tract**2
    likely = sum(
        share * multivariate_normal(np.zeros(4), covariance).pdf(drawn[:, :, None] - means)
        for share, means in zip(
            module.SHARES, np.log(list(TABLE.values())).transpose(1, 0, 2), strict=True
        )
    )
    assert (np.argmax(likely, axis=-1) == np.arange(len(TABLE))).mean() > 0.999


def test_a_vowel_sounds_where_its_formants_are() -> None:
    """A man's "heed" has its energy below 500 Hz, his "hod" about 730 and 1090 Hz."""
    targets = np.array([TABLE["heed"][0], TABLE["hod"][0]], float)
    waves = synthesize(targets, STEADY, np.random.default_rng(0)).astype(float)
    power = np.abs(np.fft.rfft(waves, axis=1)) ** 2
    hertz = np.fft.rfftfreq(SAMPLES, 1 / RATE_HZ)
    middle = power[:, (hertz > 600) & (hertz < 1_200)].sum(axis=1) / power.sum(axis=1)
    assert middle[0] < 0.05
    assert middle[1] > 0.5


def test_durations_vary_between_the_shortest_and_the_whole() -> None:
    voices = replace(STEADY, shortest_s=0.08)
    targets = speakers(40, voices, np.random.default_rng(0)).reshape(-1, 4)
    waves = synthesize(targets, voices, np.random.default_rng(1)).astype(float)
    loud = np.sqrt((waves.reshape(len(waves), -1, 40) ** 2).mean(axis=2))  # of 5 ms each
    seconds = (loud > 0.1 * loud.max(axis=1, keepdims=True)).sum(axis=1) * 40 / RATE_HZ
    assert np.quantile(seconds, 0.02) > 0.06
    assert np.quantile(seconds, 0.1) < 0.11
    assert np.quantile(seconds, 0.9) > 0.17


def test_a_simple_reader_is_better_than_chance_and_far_from_perfect(small: Dataset) -> None:
    def bands(waves: torch.Tensor) -> NDArray[np.float64]:
        power = np.abs(np.fft.rfft(waves.numpy().astype(float), axis=1)) ** 2
        return np.log(power[:, :800].reshape(len(waves), 40, 20).mean(axis=2) + 1)

    reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    reader.fit(bands(small.train.stored), small.train.labels)
    right = reader.score(bands(small.validation.stored), small.validation.labels)
    assert 0.4 < right < 0.95


def test_the_registered_data_set_is_large_enough_to_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []

    def recorded(voices: Voices) -> Dataset:
        made.append(voices)
        return make_vowels(SMALL)

    monkeypatch.setattr(module, "make_vowels", recorded)
    assert load_dataset("vowels", (SAMPLES,), "waveform").kind == "waveform"
    assert made[0].validation_speakers * len(TABLE) >= 4_000
    assert made[0].test_speakers * len(TABLE) >= 4_000


def test_the_supernet_that_ships_ranks_the_widths() -> None:
    space, data = space_and_data("lighthubert")
    assert data.name == "vowels"
    shipped = find_supernet(space, data, recipe_for(space, None), 0, folders=(SHIPPED,))
    assert shipped is not None
    widths = [
        quality(shipped.network, {**space.largest(), "embed": width}, data.validation, data.metric)
        for width in PRESETS["vowels"].embed
    ]
    assert np.diff(widths).min() > 0.015  # three standard errors of 4,096 examples
