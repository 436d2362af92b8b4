"""Ten American English vowels, synthesized: voices as Peterson and Barney (1952) measured them.

Every speaker is a man, woman or child whose vocal tract is a little longer or shorter than the
average, and says each vowel once, as in `h_d`: a glottal pulse train through a cascade of three
resonators that glide into and out of the vowel (Fant, 1960; Klatt, 1980), with breath,
background noise and another voice that is less loud. No speaker is in two parts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from nas.data.dataset import Dataset, LazyPart, fingerprint
from nas.data.registry import register_dataset

Array = NDArray[np.float64]

RATE_HZ = 8_000
SAMPLES = 1_600  # 0.2 s
FRAME = 40  # samples, 5 ms, of which the resonators stay the same
SCALE = 1 / 4_096  # int16 to about unit variance
LEVEL = 4_096  # root mean square of an utterance of average loudness, as int16
CHUNK = 2_000  # utterances at once, so that a step in time stays in the cache
# Table II of Peterson and Barney (1952), "Control methods used in a study of the vowels",
# J. Acoust. Soc. Am. 24(2), 175-184: averages in Hz of F0, F1, F2, F3 of 33 men, 28 women and
# 15 children.
TABLE: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "heed": ((136, 270, 2290, 3010), (235, 310, 2790, 3310), (272, 370, 3200, 3730)),
    "hid": ((135, 390, 1990, 2550), (232, 430, 2480, 3070), (269, 530, 2730, 3600)),
    "head": ((130, 530, 1840, 2480), (223, 610, 2330, 2990), (260, 690, 2610, 3570)),
    "had": ((127, 660, 1720, 2410), (210, 860, 2050, 2850), (251, 1010, 2320, 3320)),
    "hod": ((124, 730, 1090, 2440), (212, 850, 1220, 2810), (256, 1030, 1370, 3170)),
    "hawed": ((129, 570, 840, 2410), (216, 590, 920, 2710), (263, 680, 1060, 3180)),
    "hood": ((137, 440, 1020, 2240), (232, 470, 1160, 2680), (276, 560, 1410, 3310)),
    "who'd": ((141, 300, 870, 2240), (231, 370, 950, 2670), (274, 430, 1170, 3260)),
    "hud": ((130, 640, 1190, 2390), (221, 760, 1400, 2780), (261, 850, 1590, 3360)),
    "heard": ((133, 490, 1350, 1690), (218, 500, 1640, 1960), (261, 560, 1820, 2160)),
}
SHARES = (33 / 76, 28 / 76, 15 / 76)  # men, women, children among the speakers of the study
BANDWIDTHS_HZ = (60.0, 90.0, 150.0)  # of F1, F2, F3 (Klatt, 1980)
HIGHEST_HZ = 3_900.0  # a formant stays below half the sampling rate


@dataclass(frozen=True)
class Voices:
    """How speakers and their utterances vary: standard deviations unless said otherwise.

    Formants vary together far more than each by itself, so that F0 and the three of them tell the
    vowel nearly always: what a network misses is its own fault, hardly the label's.

    Attributes:
        version: of the code that synthesizes.
        seed: of everything.
        tract: of the logarithm of all a speaker's formants together.
        accent: of the logarithm of each formant of each vowel of a speaker.
        pitch: of the logarithm of a speaker's F0.
        bandwidth: of the logarithm of a speaker's bandwidths.
        glide: of the logarithmic change of a formant from the onset to the middle, and from there
            to the end.
        breath: the loudest breath against the pulses, uniform from none.
        contour: of the logarithmic change of F0 over the utterance.
        shortest_s: the shortest voiced part; the longest fills the utterance, uniform between.
        loudness_db: of the level.
        noisiest_db: the lowest ratio of the voice to the background noise.
        clearest_db: the highest, uniform between.
        nearest_db: the lowest ratio of the voice to another one that is heard too.
        farthest_db: the highest, uniform between.
        train_speakers: in the train part.
        validation_speakers: in the validation part.
        test_speakers: in the test part.
    """

    version: int = 3
    seed: int = 0
    tract: float = 0.08
    accent: float = 0.015
    pitch: float = 0.15
    bandwidth: float = 0.25
    glide: float = 0.08
    breath: float = 0.1
    contour: float = 0.12
    shortest_s: float = 0.08
    loudness_db: float = 4.0
    noisiest_db: float = 15.0
    clearest_db: float = 30.0
    nearest_db: float = 15.0
    farthest_db: float = 25.0
    train_speakers: int = 8_000
    validation_speakers: int = 500
    test_speakers: int = 500


def speakers(n: int, voices: Voices, rng: np.random.Generator) -> Array:
    """F0, F1, F2, F3 in Hz with which each speaker says each vowel: (n, vowels, 4)."""
    table = np.array(list(TABLE.values()), np.float64)  # (vowels, groups, 4)
    group = rng.choice(len(SHARES), n, p=SHARES)
    average = table[:, group].transpose(1, 0, 2)
    varied = np.empty_like(average)
    varied[..., 0] = average[..., 0] * np.exp(rng.normal(0, voices.pitch, (n, 1)))
    tract = rng.normal(0, voices.tract, (n, 1, 1))
    accent = rng.normal(0, voices.accent, (n, len(TABLE), 3))
    varied[..., 1:] = average[..., 1:] * np.exp(tract + accent)
    return varied


def synthesize(targets: Array, voices: Voices, rng: np.random.Generator) -> NDArray[np.int16]:
    """One utterance for each row of F0, F1, F2, F3 in Hz: (n, 4) -> (n, SAMPLES)."""
    v, n = voices, len(targets)
    time_s = (np.arange(SAMPLES) / RATE_HZ)[:, None]
    voiced_s = rng.uniform(v.shortest_s, SAMPLES / RATE_HZ, n)
    onset_s = rng.uniform(0, 1, n) * (SAMPLES / RATE_HZ - voiced_s)
    progress = (time_s - onset_s) / voiced_s  # 0 where the voice begins, 1 where it ends

    pitch_hz = targets[:, 0] * np.exp(rng.normal(0, v.contour, n) * (progress - 0.5))
    phase = np.cumsum(pitch_hz / RATE_HZ, axis=0) + rng.uniform(0, 1, n)
    source = _pulses(phase % 1, rng.uniform(0.45, 0.75, n))
    source += rng.uniform(0, v.breath, n) * rng.standard_normal((SAMPLES, n))
    source *= np.sqrt(np.clip(np.minimum(progress, 1 - progress) * 8, 0, 1))

    middle = progress[FRAME // 2 :: FRAME, :, None] - 0.5  # (frames, n, 1)
    onglide, offglide = rng.normal(0, v.glide, (2, n, 3))
    bend = np.where(middle < 0, onglide, offglide) * (2 * np.abs(middle)).clip(0, 1) ** 2
    formants_hz = np.minimum(targets[:, 1:] * np.exp(bend), HIGHEST_HZ)
    bandwidths_hz = np.array(BANDWIDTHS_HZ) * np.exp(rng.normal(0, v.bandwidth, (n, 1)))
    voice = _resonate(source, formants_hz, bandwidths_hz)
    voice /= np.sqrt((voice**2).sum(axis=0) / (voiced_s * RATE_HZ))

    background = _coloured(rng.standard_normal((SAMPLES, n)), rng.uniform(0, 0.95, n))
    background *= 10 ** (-rng.uniform(v.noisiest_db, v.clearest_db, n) / 20)
    others = voice[:, rng.permutation(n)]  # of the same part
    background += others * 10 ** (-rng.uniform(v.nearest_db, v.farthest_db, n) / 20)
    loudness = LEVEL * 10 ** (rng.normal(0, v.loudness_db, n) / 20)
    return np.round((voice + background) * loudness).clip(-32_768, 32_767).astype(np.int16).T


def _pulses(cycle: Array, open_share: Array) -> Array:
    """The derivative of the glottal flow at a phase of 0..1 (the pulse of Klatt and Klatt, 1990).

    The flow rises as t^2 (T - t) while the glottis is open, and its abrupt end excites the tract.
    """
    relative = cycle / open_share
    return np.where(relative < 1, 2 * relative - 3 * relative**2, 0.0)


def _resonate(source: Array, formants_hz: Array, bandwidths_hz: Array) -> Array:
    """The source (samples, n) through a cascade of resonators of unit gain at 0 Hz.

    Python steps through time, numpy through the utterances.

    Args:
        source: (samples, n); overwritten.
        formants_hz: (frames, n, formants).
        bandwidths_hz: (n, formants).
    """
    decay = np.exp(-np.pi * bandwidths_hz / RATE_HZ)
    for formant in range(formants_hz.shape[2]):
        second = -(decay[:, formant] ** 2)
        last, before = np.zeros((2, source.shape[1]))
        for frame, centre_hz in enumerate(formants_hz[..., formant]):
            first = 2 * decay[:, formant] * np.cos(2 * np.pi * centre_hz / RATE_HZ)
            gain = 1 - first - second
            for now in source[frame * FRAME : (frame + 1) * FRAME]:
                now *= gain
                now += first * last
                now += second * before
                before, last = last, now
    return source


def _coloured(white: Array, memory: Array) -> Array:
    """White noise (samples, n) with less of the high frequencies, of unit variance."""
    innovation = np.sqrt(1 - memory**2)
    last = white[0]
    for now in white[1:]:
        now *= innovation
        now += memory * last
        last = now
    return white


def _spoken(voices: Voices, stream: int, n: int) -> torch.Tensor:
    """Each vowel by each of n speakers: int16 (n * vowels, SAMPLES)."""
    rng = np.random.default_rng([voices.seed, stream])
    targets = speakers(n, voices, rng).reshape(-1, 4)
    spoken = [
        synthesize(targets[at : at + CHUNK], voices, rng) for at in range(0, len(targets), CHUNK)
    ]
    return torch.from_numpy(np.concatenate(spoken))


def make_vowels(voices: Voices) -> Dataset:
    """The data set for these voices."""
    preprocessing = {
        "kind": "waveform",
        "input_shape": [SAMPLES],
        "rate_hz": RATE_HZ,
        "scale": SCALE,
    }
    parts = []
    counts = (voices.train_speakers, voices.validation_speakers, voices.test_speakers)
    for stream, n in enumerate(counts):
        labels = torch.arange(len(TABLE)).repeat(n)
        parts.append(LazyPart(partial(_spoken, voices, stream, n), labels, preprocessing))
    shaped_by = {"name": "vowels", "recipe": asdict(voices), "preprocessing": preprocessing}
    train, validation, test = parts
    return Dataset(
        "vowels", train, validation, test, tuple(TABLE), preprocessing, fingerprint(shaped_by)
    )


@register_dataset("vowels", kind="waveform")
def vowels() -> Dataset:
    """Ten English vowels, synthesized for 9,000 speakers from published formant measurements."""
    return make_vowels(Voices())
