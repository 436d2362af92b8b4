"""Supernets are found by what shaped them, and refused when they are not whole."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import search_spaces
from nas.data import Dataset, load_dataset
from nas.equipment import space_and_data
from nas.errors import CheckpointError, StudyMismatchError
from nas.evaluation import calibration_batches
from nas.events import Event
from nas.training import TrainedSupernet, find_supernet, obtain_supernet, train_supernet
from nas.training.checkpoint import read_tensors, write_tensors
from nas.training.evaluate import quality
from nas.training.loop import fit
from nas.training.obtain import own_supernet
from nas.training.recipe_text import recipe_for
from nas.training.recipes.sandwich import Sandwich
from nas.training.store import (
    SHIPPED,
    find_weights,
    load_supernet,
    save_supernet,
    supernet_fingerprint,
)
from search_spaces import vit
from search_spaces.space import SearchSpace

SHAPES = st.lists(st.integers(0, 4), max_size=3)
TYPES = st.sampled_from([torch.float32, torch.int64, torch.uint8, torch.bfloat16])


@given(
    tensors=st.dictionaries(st.text("abc.", min_size=1), st.tuples(SHAPES, TYPES), max_size=4),
    record=st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=3),
)
@settings(max_examples=25, deadline=None)
def test_tensors_and_record_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, tuple[list[int], torch.dtype]],
    record: dict[str, object],
) -> None:
    path = tmp_path_factory.mktemp("file") / "checkpoint"
    given_ = {name: torch.randn(shape).to(dtype) for name, (shape, dtype) in tensors.items()}
    write_tensors(path, given_, record)
    found, found_record = read_tensors(path)
    assert found_record == record
    assert found.keys() == given_.keys()
    for name, tensor in given_.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].equal(tensor)


def test_found_again_with_the_same_weights(
    tiny: Sandwich, kept: TrainedSupernet, space: SearchSpace, data: Dataset
) -> None:
    folders = (kept.path.parent,)
    found = find_supernet(space, data, tiny, 0, folders=folders)
    assert found is not None
    assert (found.digest, found.fingerprint) == (kept.digest, kept.fingerprint)
    image = data.test.inputs[:4]
    assert found.network(image).equal(kept.network.activate(space.largest())(image))
    assert found.config["history"] == kept.config["history"]
    assert find_supernet(space, data, tiny, 0, initial="0" * 64, folders=folders) is None
    by_weights = find_weights(space, kept.digest, folders=folders)
    assert by_weights is not None
    assert by_weights.path == found.path
    assert find_weights(space, "0" * 64, folders=folders) is None
    assert find_supernet(space, data, tiny, 1, folders=folders) is None
    assert not list(folders[0].glob("*.unfinished"))


def test_trainings_of_one_fingerprint_are_kept_side_by_side(
    tiny: Sandwich, space: SearchSpace, data: Dataset, tmp_path: Path
) -> None:
    trained = fit(space, data, tiny, 0, time_limit_s=0.5)

    def keep(_: int) -> str:
        return save_supernet(trained, data, tiny, 0, tmp_path).digest

    with ThreadPoolExecutor(8) as several:
        digests = set(several.map(keep, range(32)))
    assert len(digests) == 1
    (folder,) = tmp_path.iterdir()
    assert load_supernet(space, folder).digest in digests


def test_fingerprint_is_of_everything_that_shaped_it(
    tiny: Sandwich, space: SearchSpace, data: Dataset
) -> None:
    fingerprints = {
        supernet_fingerprint(space, data, tiny, 0),
        supernet_fingerprint(space, data, tiny, 1),
        supernet_fingerprint(space, data, replace(tiny, version=tiny.version + 1), 0),
        supernet_fingerprint(space, load_dataset("digits-hard"), tiny, 0),
        supernet_fingerprint(search_spaces.get("vit", n_classes=3), data, tiny, 0),
        supernet_fingerprint(space, data, tiny, 0, initial="a" * 64),
    }
    assert len(fingerprints) == 6


def test_fingerprint_is_of_what_a_preset_fixes(
    tiny: Sandwich, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head width is no choice, and shapes none; two presets that differ in it are two."""
    before = supernet_fingerprint(search_spaces.get("vit"), data, tiny, 0)
    wider = replace(vit.PRESETS["digits"], head_width=32)
    monkeypatch.setitem(vit.PRESETS, "digits", wider)
    assert supernet_fingerprint(search_spaces.get("vit"), data, tiny, 0) != before


@pytest.fixture
def copy(kept: TrainedSupernet, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept.path, tmp_path / kept.path.name))


def test_truncated_weights_are_refused(
    tiny: Sandwich, copy: Path, space: SearchSpace, data: Dataset
) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="truncated"):
        find_supernet(space, data, tiny, 0, folders=(copy.parent,))


def test_weights_of_another_network_are_refused(kept: TrainedSupernet) -> None:
    with pytest.raises(CheckpointError, match=r"head\.\w+ is"):
        load_supernet(search_spaces.get("vit", "digits", n_classes=3), kept.path)


NO_TIME = '{"sha256": "0", "fingerprint": "0", "ended_by": "time"}'


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sha256": "0"}', NO_TIME])
def test_damaged_record_is_refused(copy: Path, space: SearchSpace, text: str) -> None:
    (copy / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_supernet(space, copy)


def test_missing_weights_are_refused(copy: Path, space: SearchSpace) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_supernet(space, copy)


def test_folder_that_cannot_be_made_is_refused_before_training(
    space: SearchSpace, data: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="NAS_CACHE"):
        train_supernet(space, data, Sandwich(), 0, folder=tmp_path / "file" / "supernets")


def test_obtain_trains_once_and_retrains_when_asked(
    space: SearchSpace, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path))
    told: list[Event] = []
    one = obtain_supernet(space, data, time_limit_s=0.5, listener=told.append)
    assert told
    assert told[-1].done == told[-1].total
    assert all(event.stage == "train" for event in told)
    told.clear()
    assert obtain_supernet(space, data, time_limit_s=0.5, listener=told.append).digest == one.digest
    (event,) = told  # it is not trained again, but what cut it short is said
    assert event.stage == "note"
    assert "cut short" in event.text
    assert "--retrain" in event.text
    two = obtain_supernet(space, data, time_limit_s=1.5, retrain=True)
    assert two.digest != one.digest
    assert own_supernet(space, one.digest, data).digest == one.digest
    with pytest.raises(StudyMismatchError, match="not what they were"):
        own_supernet(space, one.digest, replace(data, fingerprint="other"))
    with pytest.raises(CheckpointError, match="not on this machine") as caught:
        own_supernet(space, "f" * 64, data)
    assert str(tmp_path) in caught.value.hint
    assert "a new study with --study" in caught.value.hint


@pytest.mark.parametrize("name", search_spaces.names())
def test_supernet_that_ships_ranks_architectures(name: str) -> None:
    space, data = space_and_data(name)
    shipped = find_supernet(space, data, recipe_for(space, None), 0, folders=(SHIPPED,))
    assert shipped is not None
    assert sum(file.stat().st_size for file in shipped.path.iterdir()) <= 4_000_000
    calibration = calibration_batches(data) if shipped.network.calibrates else []
    largest, smallest = (
        quality(shipped.network, arch, data.validation, data.metric, calibration)
        for arch in (space.largest(), space.smallest())
    )
    record = json.loads((shipped.path / "config.json").read_text())
    assert largest == pytest.approx(record["quality_largest"], abs=0.002)
    if data.metric.larger_is_better:
        assert smallest < 0.7
        assert largest > 0.9
    else:  # bits per byte
        assert largest < smallest - 0.05


def test_depth_is_worth_eight_points_to_the_supernet_that_ships(space: SearchSpace) -> None:
    hard = load_dataset("digits-hard")
    shipped = find_supernet(space, hard, recipe_for(space, None), 0, folders=(SHIPPED,))
    assert shipped is not None
    shallow = {"embed": 64, "depth": 1, "layers.0.heads": 4, "layers.0.ffn": "XL"}
    found = quality(shipped.network, shallow, hard.validation, hard.metric)
    largest = quality(shipped.network, space.largest(), hard.validation, hard.metric)
    assert found < largest - 0.08
