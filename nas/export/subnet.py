"""An exported subnet: a folder with config.json, model.safetensors and model.onnx."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import search_spaces
from hw_profiles.files import write_atomic
from nas.errors import CheckpointError, ExportError, NasError

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1
_AGAIN = "Export it anew with `nas export STUDY`."


class _Format(BaseModel):
    """What every version's config.json says."""

    format: int = FORMAT


class SubnetConfig(BaseModel):
    """What config.json says of a subnet.

    Attributes:
        objectives: figure -> value with its provenance.
        preprocessing: how an example becomes the network's input.
        files: name -> SHA-256 of the other files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    space: str
    preset: str
    n_classes: int = Field(ge=1, lt=2**31)
    in_channels: int = Field(ge=1, lt=2**31)
    architecture: dict[str, int | float | str]
    policy: dict[str, str]
    runtime: str
    batch_size: int
    data: str
    preprocessing: dict[str, Any]
    class_names: list[str]
    objectives: dict[str, dict[str, Any]]
    study: str
    trial: int
    supernet: str
    version: str
    files: dict[str, str]


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_exported(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        ExportError: if the place cannot be written.
    """
    try:
        write_atomic(path, content)
    except OSError as error:
        raise ExportError(
            f"cannot write {path}: {error.strerror or error}.",
            "Free some room or choose another --out.",
        ) from None


def load_config(folder: Path) -> SubnetConfig:
    """The config of an exported subnet, with nothing in it trusted.

    Raises:
        CheckpointError: if there is none, or it is truncated, foreign or newer.
    """
    path = folder / "config.json"
    try:
        text = path.read_bytes()
        found = _Format.model_validate_json(text).format
        if found != FORMAT:
            raise CheckpointError(f"{path} is of format {found}.", "Upgrade the program.")
        return SubnetConfig.model_validate_json(text)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.", _AGAIN) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise CheckpointError(
            f"{path} is no config of a subnet ({where}: {first['msg']}).", _AGAIN
        ) from None


def load_subnet(folder: str | os.PathLike[str] | None) -> nn.Module:
    """An exported subnet as a plain network with its own weights, in evaluation mode.

    The weights are those before quantization; the policy is applied in model.onnx.

    Args:
        folder: that `nas export` wrote.

    Raises:
        CheckpointError: if there is none, or a file is missing, truncated or of something else.
    """
    if folder is None:  # what the row of a front that was not exported has
        raise CheckpointError("this network was not exported.", "Do it with `nas export STUDY`.")
    place = Path(folder)
    return load_network(place, load_config(place))


def load_network(place: Path, config: SubnetConfig) -> nn.Module:
    """The network that a config describes, with the weights beside it.

    Raises:
        CheckpointError: if their file is missing, truncated or of something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = place / "model.safetensors"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.", _AGAIN) from None
    if hashlib.sha256(data).hexdigest() != config.files.get(path.name):
        raise CheckpointError(f"{path} is not the file that was exported.", _AGAIN)
    try:
        space = search_spaces.get(
            config.space, config.preset, n_classes=config.n_classes, in_channels=config.in_channels
        )
        network = space.build(config.architecture)
        network.load_state_dict(load(data))
    except NasError as error:
        raise CheckpointError(
            f"{place / 'config.json'} describes no network that is known here: {error.message}",
            f"{_AGAIN} A space of another package needs that package.",
        ) from None
    except (SafetensorError, RuntimeError):
        raise CheckpointError(f"{path} does not fit its config.", _AGAIN) from None
    return network.eval()


def run_onnx(model: Path | bytes, inputs: Tensor, batch_size: int) -> Tensor:
    """Outputs (n, ...) of an ONNX model for inputs (n, ...), in batches of its fixed size.

    The last batch is filled up with its own first example.
    """
    import torch

    from hw_profiles.runtimes.onnxruntime import open_session

    session = open_session(model if isinstance(model, bytes) else str(model), threads=0)
    name = session.get_inputs()[0].name
    found = []
    for part in inputs.split(batch_size):
        missing = batch_size - len(part)
        full = torch.cat([part, part[:1].expand(missing, *part.shape[1:])]) if missing else part
        out = session.run(None, {name: full.contiguous().numpy()})[0]
        found.append(torch.from_numpy(out)[: len(part)])
    return torch.cat(found)


def to_json_bytes(config: SubnetConfig) -> bytes:
    """config.json as written."""
    return (json.dumps(config.model_dump(mode="json"), indent=1) + "\n").encode()
