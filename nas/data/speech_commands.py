"""A Speech Commands folder by path: a folder a word, and lists of validation and test files.

Warden (2018), "Speech Commands: a dataset for limited-vocabulary speech recognition": wav files of
one second at 16 kHz, 16 bits, one channel. Folders whose name begins with `_`, such as
`_background_noise_`, hold no word.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nas.data.dataset import Dataset, Part, fingerprint
from nas.data.reading import check_size, read_files
from nas.errors import UsageError

RATE_HZ = 16_000
SECOND = RATE_HZ  # samples that are kept of a file
CHUNK = 1_000  # waveforms resampled at once
AUGMENTATION = "shift"
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
LAYOUT = (
    "Lay waveforms out as published: PATH/WORD/*.wav, PATH/validation_list.txt and "
    "PATH/testing_list.txt."
)


def load_speech_commands(root: Path, input_shape: tuple[int, ...]) -> Dataset:
    """The folder's words, each one second, resampled to the space's number of samples.

    Args:
        root: of the folder.
        input_shape: the space's (samples,).

    Raises:
        UsageError: if a list or a class is missing, a file is no such wav, or all together are
            too large for memory.
    """
    samples = input_shape[0]
    class_names, parts = _files(root)
    check_size(str(root), sum(map(len, parts.values())), 2 * max(samples, SECOND))
    digest = hashlib.sha256()
    stored = {}
    for part, files in parts.items():
        waves, hashes = _read(files)
        for (path, _), content in zip(files, hashes, strict=True):
            digest.update(f"{part}/{path.relative_to(root).as_posix()}/{content}\n".encode())
        stored[part] = resampled(waves, samples)
    preprocessing = waveform_preprocessing(stored["train"])
    shaped_by = {
        "classes": class_names,
        "content": digest.hexdigest(),
        "augmentation": AUGMENTATION,
        "preprocessing": preprocessing,
    }
    train, validation, test = (
        Part(
            torch.from_numpy(stored[part]),
            torch.tensor([label for _, label in files], dtype=torch.int64),
            preprocessing,
        )
        for part, files in parts.items()
    )
    return Dataset(
        str(root),
        train,
        validation,
        test,
        class_names,
        preprocessing,
        fingerprint(shaped_by),
        AUGMENTATION,
    )


def waveform_preprocessing(train: NDArray[np.int16]) -> dict[str, Any]:
    """How waveforms (n, samples) of one second become network input: of unit power on average."""
    power = sum(float((each.astype(np.int64) ** 2).sum()) for each in train) / train.size
    return {
        "kind": "waveform",
        "input_shape": [train.shape[1]],
        "rate_hz": train.shape[1],  # of one second
        "scale": 1 / max(math.sqrt(power), 1.0),
    }


def read_wav(where: object, content: bytes) -> NDArray[np.int16]:
    """One second of a wav file: longer ones are cut, shorter ones end in silence.

    Args:
        where: the content is from, for the message.
        content: of the file.

    Raises:
        UsageError: if it is no wav file of 16 kHz, 16 bits and one channel.
    """
    from scipy.io import wavfile

    try:
        rate_hz, wave = wavfile.read(io.BytesIO(content))
    except (
        ValueError,
        ArithmeticError,
        EOFError,
        LookupError,
        MemoryError,
        OSError,
        TypeError,
        UnboundLocalError,  # of a file without a data chunk
        struct.error,
    ) as error:
        raise UsageError(
            f"{where} cannot be read as a wav file ({error}).", "Remove or replace it."
        ) from None
    if rate_hz != RATE_HZ or wave.ndim != 1 or wave.dtype != np.int16:
        channels = 1 if wave.ndim == 1 else wave.shape[1]
        raise UsageError(
            f"{where} has {channels} channels of {wave.dtype} at {rate_hz} Hz.",
            f"Convert it to one channel of 16 bits at {RATE_HZ} Hz.",
        )
    second = np.zeros(SECOND, np.int16)
    second[: len(wave)] = wave[:SECOND]
    return second


def resampled(waves: NDArray[np.int16], samples: int) -> NDArray[np.int16]:
    """Waveforms (n, m) as (n, samples) of the same duration."""
    if waves.shape[1] == samples:
        return waves
    from scipy.signal import resample_poly

    common = math.gcd(samples, waves.shape[1])
    up, down = samples // common, waves.shape[1] // common
    out = np.empty((len(waves), samples), np.int16)
    for start in range(0, len(waves), CHUNK):
        at = slice(start, start + CHUNK)
        smooth = resample_poly(waves[at].astype(np.float32), up, down, axis=1)
        out[at] = np.rint(smooth).clip(-32_768, 32_767)
    return out


def _files(root: Path) -> tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
    """The words, and of each part the files with their labels in the order of names."""
    missing = [name for name in LISTS.values() if not (root / name).is_file()]
    if missing:
        raise UsageError(f"{root} has no {' and no '.join(missing)}.", LAYOUT)
    words = sorted(
        path.name for path in root.iterdir() if path.is_dir() and path.name[0] not in "_."
    )
    listed = {
        line.strip(): part
        for part, name in LISTS.items()
        for line in (root / name).read_text("utf-8-sig", "replace").splitlines()
    }
    parts: dict[str, list[tuple[Path, int]]] = {"train": [], "validation": [], "test": []}
    class_names = tuple(word for word in words if any((root / word).glob("*.wav")))
    if len(class_names) < 2:
        raise UsageError(f"{root} has fewer than two folders of wav files.", LAYOUT)
    for label, word in enumerate(class_names):
        for path in sorted((root / word).glob("*.wav")):
            parts[listed.get(f"{word}/{path.name}", "train")].append((path, label))
    empty = [part for part, files in parts.items() if not files]
    if empty:
        raise UsageError(f"{root} has no wav files for {' and '.join(empty)}.", LAYOUT)
    return class_names, parts


def _read(files: list[tuple[Path, int]]) -> tuple[NDArray[np.int16], list[str]]:
    """The waveforms (n, samples) and the hash of each file, read in workers."""
    waves = np.empty((len(files), SECOND), np.int16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's, of chunks that are not sound
        hashes = read_files([path for path, _ in files], waves, read_wav)
    return waves, hashes
