"""Speech Commands: the published split, one second each, at the space's number of samples."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.io import wavfile

from nas.data import load_dataset
from nas.data.speech_commands import RATE_HZ, SECOND, read_wav, resampled
from nas.errors import UsageError

WORDS = ("yes", "no", "up")
SHAPE = (SECOND,)


def _wav(wave: NDArray[np.generic], rate_hz: int = RATE_HZ) -> bytes:
    written = io.BytesIO()
    wavfile.write(written, rate_hz, wave)
    return written.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six files a word: 0 is validation, 1 is test; each begins with its word and its number."""
    rng = np.random.default_rng(0)
    for label, word in enumerate(sorted(WORDS)):
        (tmp_path / word).mkdir()
        for i in range(6):
            wave = rng.normal(0, 1_000, SECOND).astype(np.int16)
            wave[:2] = label, i
            (tmp_path / word / f"{i}_nohash_0.wav").write_bytes(_wav(wave))
    (tmp_path / "_background_noise_").mkdir()
    (tmp_path / "_background_noise_" / "hum.wav").write_bytes(_wav(np.zeros(9, np.int16)))
    for i, name in enumerate(("validation_list.txt", "testing_list.txt")):
        (tmp_path / name).write_text("".join(f"{word}/{i}_nohash_0.wav\n" for word in WORDS))
    return tmp_path


def test_the_lists_say_which_part_a_file_is_of(root: Path) -> None:
    data = load_dataset(root, SHAPE, "waveform")
    assert data.class_names == ("no", "up", "yes")
    assert data.augmentation == "shift"
    numbers = {
        part: sorted(getattr(data, part).stored[:, 1].tolist())
        for part in ("train", "validation", "test")
    }
    assert numbers == {
        "train": sorted([2, 3, 4, 5] * 3),
        "validation": [0, 0, 0],
        "test": [1, 1, 1],
    }
    for part in (data.train, data.validation, data.test):
        assert part.stored[:, 0].long().equal(part.labels)


def test_a_list_with_a_byte_order_mark_is_read_whole(root: Path) -> None:
    before = load_dataset(root, (16_000,), "waveform")
    for name in ("validation_list.txt", "testing_list.txt"):
        lines = (root / name).read_text().splitlines()
        (root / name).write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    again = load_dataset(root, (16_000,), "waveform")
    assert again.fingerprint == before.fingerprint


def test_network_input_has_unit_power(root: Path) -> None:
    inputs = load_dataset(root, SHAPE, "waveform").train.inputs
    assert inputs.shape == (12, SECOND)
    assert float(inputs.square().mean()) == pytest.approx(1, rel=1e-3)


def test_waveforms_are_resampled_to_the_space(root: Path) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(SECOND) / SECOND) * 8_000
    (root / "yes" / "1_nohash_0.wav").write_bytes(_wav(tone.astype(np.int16)))
    data = load_dataset(root, (4_000,), "waveform")
    assert data.input_shape == (4_000,)
    wave = data.test.stored[2].numpy().astype(float)
    expected = np.sin(2 * np.pi * 440 * np.arange(4_000) / 4_000) * 8_000
    assert np.abs(wave - expected)[100:-100].max() < 80
    assert data.fingerprint != load_dataset(root, SHAPE, "waveform").fingerprint


def test_fingerprint_is_of_content_and_split(root: Path) -> None:
    before = load_dataset(root, SHAPE, "waveform").fingerprint
    assert load_dataset(root, SHAPE, "waveform").fingerprint == before
    listed = root / "testing_list.txt"
    listed.write_text(listed.read_text() + "yes/5_nohash_0.wav\n")
    resplit = load_dataset(root, SHAPE, "waveform").fingerprint
    assert resplit != before
    (root / "no" / "3_nohash_0.wav").write_bytes(_wav(np.ones(SECOND, np.int16)))
    assert load_dataset(root, SHAPE, "waveform").fingerprint != resplit


@given(n=st.integers(0, 3 * SECOND), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_wav_is_cut_or_ends_in_silence(n: int, seed: int) -> None:
    wave = np.random.default_rng(seed).integers(-32_768, 32_768, n).astype(np.int16)
    read = read_wav("here", _wav(wave))
    assert read.shape == (SECOND,)
    assert np.array_equal(read[:n], wave[:SECOND])
    assert not read[n:].any()


@given(samples=st.integers(10, 2_000), level=st.integers(-32_768, 32_767))
@settings(max_examples=40, deadline=None)
def test_resampling_keeps_the_level_within_16_bits(samples: int, level: int) -> None:
    waves = np.full((2, 1_000), level, np.int16)
    out = resampled(waves, samples)
    assert out.shape == (2, samples)
    middle = out[:, samples // 4 : -samples // 4].astype(int)
    assert np.abs(middle - level).max() <= 2 + abs(level) // 10


def _refused_or_read(content: bytes) -> bool:
    """Whether it ends in one second or in one clear line, and not in another error."""
    try:
        return read_wav("here", content).shape == (SECOND,)
    except UsageError as error:
        return error.message.startswith("here") and "\n" not in error.message


@given(at=st.integers(0, 10**6), change=st.integers(1, 255), cut=st.integers(0, 200))
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_wav_is_refused_or_read(at: int, change: int, cut: int) -> None:
    content = bytearray(_wav(np.arange(60, dtype=np.int16)))
    content[at % 44] ^= change
    assert _refused_or_read(bytes(content[: len(content) - cut]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_wav(np.zeros(8_000, np.int16), 8_000), "8000 Hz"),
        (_wav(np.zeros((9, 2), np.int16)), "2 channels"),
        (_wav(np.zeros(9, np.float32)), "float32"),
        (b"no wav", "cannot be read as a wav file"),
        (b"", "cannot be read as a wav file"),
    ],
    ids=["rate", "stereo", "float", "noise", "empty"],
)
def test_other_files_are_refused_by_name(root: Path, content: bytes, message: str) -> None:
    (root / "up" / "4_nohash_0.wav").write_bytes(content)
    with pytest.raises(UsageError, match=rf"up/4_nohash_0\.wav .*{message}"):
        load_dataset(root, SHAPE, "waveform")


def test_a_folder_without_lists(root: Path) -> None:
    (root / "testing_list.txt").unlink()
    with pytest.raises(UsageError, match=r"has no testing_list\.txt"):
        load_dataset(root, SHAPE, "waveform")


def test_lists_that_leave_a_part_empty(root: Path) -> None:
    (root / "validation_list.txt").write_text("../../etc/passwd\nyes/99.wav\n")
    with pytest.raises(UsageError, match="no wav files for validation"):
        load_dataset(root, SHAPE, "waveform")


def test_a_folder_of_one_word(tmp_path: Path) -> None:
    (tmp_path / "yes").mkdir()
    (tmp_path / "yes" / "a.wav").write_bytes(_wav(np.zeros(9, np.int16)))
    for name in ("validation_list.txt", "testing_list.txt"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match="fewer than two folders"):
        load_dataset(tmp_path, SHAPE, "waveform")
