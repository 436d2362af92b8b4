"""Foreign files: every layout is read, nothing in them is run, each fault is one line."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nas.errors import CheckpointError, NasError, NotFoundError
from nas.training.foreign import read_foreign, read_weights

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", ["w.pt", "ofa_mbv3_d234_e346_k357_w1.0"])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("content", "ema"),
    [
        (STATE, False),
        ({"state_dict": STATE, "epoch": 3, "best": 0.5}, False),
        ({"model": STATE, "cfg": {"supernet_type": "base", "layers": [1, 2]}}, False),
        ({"state_dict": {"a.weight": torch.zeros(1)}, "state_dict_ema": STATE}, True),
        ({"model": {"state_dict": {f"module.{k}": v for k, v in STATE.items()}}}, False),
        ({f"_orig_mod.{k}": v for k, v in STATE.items()}, False),
    ],
    ids=["flat", "nested", "fairseq", "ema", "parallel", "compiled"],
)
def test_checkpoints_of_trainings_are_unwrapped(
    tmp_path: Path, content: dict[str, object], ema: bool, legacy: bool, name: str
) -> None:
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    found = read_foreign(str(tmp_path / name))
    assert equal(found.state, STATE)
    assert found.ema == ema


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights")
    assert equal(read_weights(tmp_path / "weights")[0], STATE)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    made = tmp_path / "made"
    content = {"state_dict": STATE, "x": Hostile(made)}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"holds more than weights .*mkdir.* was refused"):
        read_foreign(str(tmp_path / "w.pth"))
    assert not made.exists()
    torch.load(tmp_path / "w.pth", weights_only=False)  # the file is what it claims to be
    assert made.exists()


def test_a_hostile_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(pickle.dumps({"w": Hostile(tmp_path / "made")}))
    with pytest.raises(CheckpointError):
        read_foreign(str(tmp_path / "w.bin"))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin", "legacy.bin"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_files_are_one_line(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization="legacy" not in name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError) as error:
        read_foreign(str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"{}", b"PK\x03\x04", b"\x80\x02.", b"a" * 99])
def test_files_of_another_kind_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_foreign(str(tmp_path / "w.pt"))


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"model": {"x": 1}}, torch.ones(2)])
def test_a_checkpoint_without_a_state_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_foreign(str(tmp_path / "w.pt"))


def shards(folder: Path, where: object) -> Path:
    save_file({"a.weight": STATE["a.weight"]}, folder / "one.safetensors")
    save_file({"a.bias": STATE["a.bias"]}, folder / "two.safetensors")
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_shards_are_joined(tmp_path: Path) -> None:
    where = {"a.weight": "one.safetensors", "a.bias": "two.safetensors"}
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    found = read_foreign(str(shards(tmp_path, where)))
    assert equal(found.state, STATE)
    assert found.config == {"model_type": "vit"}


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"a.weight": "one.safetensors", "b": "two.safetensors"}, "promises b"),
        ({"a.weight": "three.safetensors"}, "three.safetensors cannot be read"),
        ({"a.weight": "../x/one.safetensors"}, "names no shards beside it"),
        ({"a.weight": "/etc/passwd"}, "names no shards beside it"),
        ({"a.weight": 3}, "names no shards beside it"),
        (None, "names no shards beside it"),
    ],
)
def test_a_wrong_index_is_one_line(tmp_path: Path, where: object, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        read_foreign(str(shards(tmp_path, where)))


@pytest.mark.parametrize("config", ["{", "[]", "\xff"])
def test_a_wrong_config_is_one_line(tmp_path: Path, config: str) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(config.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_foreign(str(tmp_path))


def test_a_folder_without_weights_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        read_foreign(str(tmp_path))


@pytest.mark.parametrize(
    "place", ["nowhere/w.safetensors", "/nowhere/at/all", "a//b", "w.pth", "a" * 5000]
)
def test_a_missing_file_is_one_line(place: str) -> None:
    with pytest.raises(NotFoundError, match="there is no file"):
        read_foreign(place, "")


def test_a_name_is_no_place_for_kinds_that_are_files() -> None:
    with pytest.raises(NotFoundError, match="there is no file ofa-net"):
        read_foreign("ofa-net", None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    # A request would leave the machine for nowhere.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    return tmp_path


def cached(cache: Path, name: str) -> None:
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file(STATE, snapshot / "model.safetensors")
    (snapshot / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("place", "prefix", "name"),
    [
        ("tiny/vit", "", "tiny/vit"),
        ("vit_tiny_patch16_224.augreg", "timm/", "timm/vit_tiny_patch16_224.augreg"),
        ("timm/vit_tiny", "timm/", "timm/vit_tiny"),
    ],
)
def test_a_name_is_found_in_the_cache(cache: Path, place: str, prefix: str, name: str) -> None:
    cached(cache, name)
    assert equal(read_foreign(place, prefix).state, STATE)


@pytest.mark.parametrize("place", ["google/vit-base-patch16-224", "gpt2", "a--b/c", "x.y/z.."])
def test_a_name_that_is_not_cached_says_how_to_fetch_it(cache: Path, place: str) -> None:
    begun = time.process_time()
    with pytest.raises(NasError) as error:
        read_foreign(place, "")
    assert time.process_time() - begun < 20
    assert "not in the Hugging Face cache" in str(error.value)
    assert error.value.hint == f"Fetch it where there is a network: `hf download {place}`."
