"""An exported subnet is loaded without trust, or refused in one line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

import nas
import search_spaces
from nas.errors import CheckpointError
from nas.export.subnet import SubnetConfig, to_json_bytes

SPACE = search_spaces.get("vit", "digits")
ARCH = SPACE.smallest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network = SPACE.build(ARCH)
    weights = save(network.state_dict())
    (tmp_path / "model.safetensors").write_bytes(weights)
    config = SubnetConfig(
        space="vit", preset="digits", n_classes=10, in_channels=1, architecture=ARCH,
        policy={"layers.0.qkv": "int8"}, runtime="onnxruntime", batch_size=1, data="digits-hard",
        preprocessing={}, class_names=["0"], objectives={}, study="s", trial=0, supernet="x",
        version="0", files={"model.safetensors": hashlib.sha256(weights).hexdigest()},
    )  # fmt: skip
    (tmp_path / "config.json").write_bytes(to_json_bytes(config))
    return tmp_path


def test_a_subnet_is_a_plain_network(folder: Path) -> None:
    network = nas.load_subnet(folder)
    assert isinstance(network, torch.nn.Module)
    assert not network.training
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def _edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", b"", "no config"),
        ("config.json", b"{}", "no config"),
        ("config.json", b"\x80\x04.", "no config"),
        ("model.safetensors", b"", "not the file"),
        ("model.safetensors", b"\x80\x04K\x01.", "not the file"),
    ],
)
def test_damaged_files_are_refused(folder: Path, name: str, content: bytes, says: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as caught:
        nas.load_subnet(folder)
    assert caught.value.hint


def test_missing_files_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        nas.load_subnet(folder)
    with pytest.raises(CheckpointError, match="cannot read"):
        nas.load_subnet(folder / "nowhere")
    with pytest.raises(CheckpointError, match="was not exported") as caught:
        nas.load_subnet(None)  # as a row of a front without files has it
    assert "nas export" in caught.value.hint


def test_foreign_weights_and_newer_formats_are_refused(folder: Path) -> None:
    other = save(SPACE.build(SPACE.largest()).state_dict())
    (folder / "model.safetensors").write_bytes(other)
    _edit(folder, files={"model.safetensors": hashlib.sha256(other).hexdigest()})
    with pytest.raises(CheckpointError, match="does not fit"):
        nas.load_subnet(folder)
    _edit(folder, format=2, surprise=1)
    with pytest.raises(CheckpointError, match="format 2"):
        nas.load_subnet(folder)
    _edit(folder, format=1, surprise=1)
    with pytest.raises(CheckpointError, match="surprise"):
        nas.load_subnet(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"space": "elsewhere"}, "no space 'elsewhere'"),
        ({"preset": "elsewhere"}, "no preset"),
        ({"architecture": {}}, "missing"),
        ({"architecture": {**ARCH, "embed": 17}}, "cannot be 17"),
        ({"n_classes": 0}, "n_classes"),
        ({"n_classes": 10**30}, "n_classes"),
    ],
)
def test_a_config_of_no_network_is_refused_by_its_name(
    folder: Path, changes: dict[str, object], says: str
) -> None:
    _edit(folder, **changes)
    with pytest.raises(CheckpointError, match=says) as caught:
        nas.load_subnet(folder)
    assert str(folder / "config.json") in str(caught.value)
    assert "nas export" in caught.value.hint
