"""Weights of other programs: found in files, folders and caches, read without running anything.

Safetensors are read as they are; pickles with `weights_only=True`, which builds tensors and plain
containers and refuses all else. No network is used: a name is looked up in the Hugging Face cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hw_profiles.errors import first_line
from nas.errors import CheckpointError, NotFoundError, UsageError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
NESTED = ("state_dict_ema", "model_ema", "ema", "state_dict", "model", "model_state_dict")
"""Entries that hold the state in checkpoints of trainings; a moving average comes first."""
EMA = frozenset(NESTED[:3])
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that data parallelism and compilation put before every name."""
MAX_NESTING = 4
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar")


@dataclass(frozen=True, eq=False)
class Foreign:
    """Foreign weights.

    Attributes:
        state: foreign name -> tensor.
        config: the `config.json` beside them; empty if there is none.
        ema: whether the file held a moving average, which was taken.
    """

    state: dict[str, Tensor]
    config: dict[str, Any]
    ema: bool = False


def read_foreign(place: str, hub_prefix: str | None = None) -> Foreign:
    """Weights of a file, a folder or, by name, of the Hugging Face cache.

    Args:
        place: a weights file, or a folder with `model.safetensors` or `pytorch_model.bin`, whole
            or in shards. Otherwise a name on the hub.
        hub_prefix: put before a name without an organisation, such as `timm/`; None where names
            are not looked up.

    Raises:
        CheckpointError: if a file is truncated, foreign or holds more than weights.
        NotFoundError: if there is no such file, or the name is not in the cache.
        UsageError: if a name is looked up and `huggingface_hub` is not installed.
    """
    path = _expanded(place)
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        state, ema = read_weights(path)
        return Foreign(state, {}, ema)
    if hub_prefix is None or path.suffix in WEIGHT_SUFFIXES or not HUB_NAME.fullmatch(place):
        raise NotFoundError(f"there is no file {place}.", "Check the path.")
    return _read_folder(_cached(place if "/" in place else hub_prefix + place))


def _expanded(place: str) -> Path:
    """The path that a place is, if it is one."""
    try:
        path = Path(place).expanduser()
        path.exists()
        return path
    except (OSError, RuntimeError) as error:  # too long, or the home of nobody
        raise NotFoundError(
            f"there is no file {place[:80]} ({first_line(error)}).", "Check the path."
        ) from None


def read_weights(path: Path) -> tuple[dict[str, Tensor], bool]:
    """The tensors of one file by name, and whether they are a moving average.

    Raises:
        CheckpointError: if it is truncated, no weights file, or holds more than weights.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if path.suffix == ".safetensors" or head[8:] == b"{":
            return load_file(path), False
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {first_line(error)}.", "Fetch or copy the file again."
        ) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes make a pickle reader fail in any way
        refused = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
        if "Weights only load failed" in str(error) and refused:
            raise CheckpointError(
                f"{path} holds more than weights ({refused[1]}) and was refused; nothing of it "
                "was run.",
                "Save its state as safetensors where you trust the file.",
            ) from None
        raise CheckpointError(
            f"{path} is truncated or no file of weights.", "Fetch or copy the file again."
        ) from None
    return _unwrapped(path, content)


def _unwrapped(path: Path, content: object) -> tuple[dict[str, Tensor], bool]:
    """The state within a checkpoint, without the prefixes of wrappers."""
    ema = False
    for _ in range(MAX_NESTING):
        if not isinstance(content, Mapping):
            break
        inner = next((k for k in NESTED if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        ema, content = ema or inner in EMA, content[inner]
    state = {}
    if isinstance(content, Mapping):
        state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"{path} holds no weights.", "Give a file with a model's state.")
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state, ema


def _read_folder(folder: Path) -> Foreign:
    """Weights and configuration of a folder in the hub's layout."""
    config = _json(folder / "config.json") if (folder / "config.json").exists() else {}
    for name in WEIGHTS:
        if (folder / name).exists():
            state, ema = read_weights(folder / name)
            return Foreign(state, config, ema)
        index = folder / f"{name}.index.json"
        if index.exists():
            return Foreign(_read_shards(index), config)
    raise CheckpointError(
        f"{folder} has neither {' nor '.join(WEIGHTS)}.", "Give a folder with a model's weights."
    )


def _read_shards(index: Path) -> dict[str, Tensor]:
    where = _json(index).get("weight_map")
    # Shards lie beside their index: a path in it could name any file of this machine.
    if not isinstance(where, dict) or not all(
        isinstance(file, str) and Path(file).name == file for file in where.values()
    ):
        raise CheckpointError(f"{index} names no shards beside it.", "Fetch the folder again.")
    state: dict[str, Tensor] = {}
    for file in sorted(set(where.values())):
        state |= read_weights(index.parent / file)[0]
    missing = sorted(where.keys() - state.keys())
    if missing:
        raise CheckpointError(
            f"{index} promises {missing[0]}, which its shard lacks.", "Fetch the folder again."
        )
    return state


def _cached(name: str) -> Path:
    """The folder of a name in the Hugging Face cache.

    Raises:
        NotFoundError: if it is not there.
        UsageError: if the library that knows the cache is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise UsageError(
            f"{name} is no file, and the Hugging Face cache cannot be read without its library.",
            "Install it with `pip install huggingface_hub`, or give a file or folder.",
        ) from None
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise NotFoundError(
            f"{name} is no file or folder here and not in the Hugging Face cache.",
            f"Fetch it where there is a network: `hf download {name}`.",
        ) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {first_line(error)}.", "Fetch or copy the file again."
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no JSON object.", "Fetch or copy the file again.")
    return content
