"""Where trained supernets are kept: found by the fingerprint of everything that shaped them.

A supernet is a folder `<fingerprint>-<digest>` of `model.safetensors` and `config.json`, in the
package's own `nas/supernets` or in the user's cache. The digest of the weights tells apart
trainings of one fingerprint (another time limit), so that a study keeps finding its own.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import nas
from nas.data.dataset import Dataset
from nas.data.dataset import fingerprint as hash_of
from nas.errors import CheckpointError
from nas.paths import cache_dir
from nas.training.checkpoint import check_tensors, read_tensors, tensor_bytes, write_kept
from nas.training.evaluate import MOST_EXAMPLES
from nas.training.init import Initial
from nas.training.loop import Training
from nas.training.recipe import Recipe
from search_spaces.elastic import Supernet
from search_spaces.space import SearchSpace

SHIPPED = Path(nas.__file__).parent / "supernets"
DIGEST_DIGITS = 12


@dataclass(frozen=True, eq=False)
class TrainedSupernet:
    """A supernet with its weights.

    Attributes:
        network: in evaluation mode, the largest subnet active.
        fingerprint: of what shaped it.
        digest: SHA-256 of its weights file.
        config: its `config.json`: recipe, history of each epoch, qualities, versions.
        path: of its folder.
    """

    network: Supernet
    fingerprint: str
    digest: str
    config: dict[str, Any]
    path: Path


def supernet_fingerprint(
    space: SearchSpace, data: Dataset, recipe: Recipe, seed: int, initial: str | None = None
) -> str:
    """Hash of space, preset, choices, shapes of weights, data, recipe, seed and initial weights.

    A time limit is not in it: it decides how far the same training came.

    Args:
        space: of the subnets.
        data: trained on.
        recipe: trained by.
        seed: of the training.
        initial: digest of the weights that it started from, if not from the seed alone.
    """
    with torch.device("meta"):  # shapes alone: what a preset fixes shows in them
        weights = space.supernet().state_dict()
    return hash_of(
        {
            "space": space.name,
            "preset": space.preset,
            "choices": [[choice.name, list(choice.values)] for choice in space.choices.choices],
            "weights": {name: list(tensor.shape) for name, tensor in weights.items()},
            "input_shape": list(space.input_shape),
            "n_classes": space.n_classes,
            "data": data.fingerprint,
            "recipe": recipe.record(),
            "seed": seed,
            **({"initial": initial} if initial else {}),
        }
    )


def user_store() -> Path:
    """The folder of the supernets that were trained on this machine."""
    return cache_dir() / "supernets"


def find_supernet(
    space: SearchSpace,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    *,
    initial: str | None = None,
    folders: tuple[Path, ...] | None = None,
) -> TrainedSupernet | None:
    """The supernet trained for this, or None.

    Of several in the cache it is the one that was trained last; what ships comes before.

    Args:
        space: of the subnets.
        data: it was trained on.
        recipe: it was trained by.
        seed: of its training.
        initial: digest of the weights that it started from, if not from the seed alone.
        folders: searched in this order; by default what ships, then the user's cache.

    Raises:
        CheckpointError: if the one found is truncated or foreign.
    """
    fingerprint = supernet_fingerprint(space, data, recipe, seed, initial)
    return _newest(space, f"{fingerprint}-*", folders)


def find_weights(
    space: SearchSpace, digest: str, folders: tuple[Path, ...] | None = None
) -> TrainedSupernet | None:
    """The supernet of a space with these very weights, or None.

    Raises:
        CheckpointError: if the one found is truncated or foreign.
    """
    return _newest(space, f"*-{digest[:DIGEST_DIGITS]}", folders)


def _newest(
    space: SearchSpace, pattern: str, folders: tuple[Path, ...] | None
) -> TrainedSupernet | None:
    for folder in folders or (SHIPPED, user_store()):
        found = [_config(path) for path in folder.glob(f"{pattern}/config.json")]
        if found:
            path, config = max(found, key=lambda each: str(each[1].get("trained")))
            return load_supernet(space, path, config)
    return None


def load_supernet(
    space: SearchSpace, path: Path, config: dict[str, Any] | None = None
) -> TrainedSupernet:
    """The supernet of a folder.

    Raises:
        CheckpointError: if the folder is not a whole supernet of this space.
    """
    config = config or _config(path / "config.json")[1]
    weights = path / "model.safetensors"
    try:
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"{weights} cannot be read ({error.strerror}).", "Train anew with --retrain."
        ) from None
    if digest != config.get("sha256"):
        raise CheckpointError(
            f"{weights} is truncated or not the file that {path / 'config.json'} describes.",
            f"Delete {path} and train anew.",
        )
    tensors, _ = read_tensors(weights)
    network = space.supernet(0)
    check_tensors(weights, tensors, network.network.state_dict())
    network.network.load_state_dict(tensors)
    return TrainedSupernet(network.eval(), str(config["fingerprint"]), digest, config, path)


def receive_supernet(name: str, files: dict[str, bytes]) -> None:
    """Keep a supernet that came from another machine, unless it is here already.

    Args:
        name: of its folder.
        files: `model.safetensors` and `config.json`.
    """
    if any((folder / name / "config.json").exists() for folder in (SHIPPED, user_store())):
        return
    for file in ("model.safetensors", "config.json"):  # the record last
        write_kept(user_store() / name / file, files[file])


def save_supernet(
    trained: Training,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    folder: Path,
    initial: Initial | None = None,
) -> TrainedSupernet:
    """Keep a finished training in a folder of supernets.

    Args:
        trained: the training.
        data: trained on.
        recipe: trained by.
        seed: of the training.
        folder: of supernets.
        initial: the foreign weights that it started from.

    Raises:
        CheckpointError: if the folder cannot be written.
    """
    space = trained.network.space
    fingerprint = supernet_fingerprint(
        space, data, recipe, seed, initial.digest if initial else None
    )
    state = trained.network.network.state_dict()
    content = tensor_bytes(state, {"fingerprint": fingerprint})
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{fingerprint}-{digest[:DIGEST_DIGITS]}"
    config: dict[str, Any] = {
        "fingerprint": fingerprint,
        "sha256": digest,
        "space": space.name,
        "preset": space.preset,
        "choices": {choice.name: list(choice.values) for choice in space.choices.choices},
        "input_shape": list(space.input_shape),
        "data": data.name,
        "data_fingerprint": data.fingerprint,
        "class_names": list(data.class_names),
        "preprocessing": dict(data.preprocessing),
        "recipe": recipe.record(),
        "seed": seed,
        "initial": {"source": initial.source, "digest": initial.digest} if initial else None,
        "metric": data.metric.name,
        "quality_largest": trained.history[-1]["quality_largest"],
        "quality_smallest": trained.history[-1]["quality_smallest"],
        "quality_part": f"validation, at most {min(len(data.validation), MOST_EXAMPLES)} examples",
        "history": trained.history,
        "seconds": trained.seconds,
        "ended_by": trained.ended_by,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "trained": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # The record last: a folder without one is not a supernet, whatever stopped the writing.
    write_kept(path / "model.safetensors", content)
    write_kept(path / "config.json", json.dumps(config, indent=1).encode())
    return TrainedSupernet(trained.network.eval(), fingerprint, digest, config, path)


def _config(path: Path) -> tuple[Path, dict[str, Any]]:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}).", f"Delete {path.parent} and train anew."
        ) from None
    known = isinstance(config, dict) and {"fingerprint", "sha256"} <= config.keys()
    if not known or not isinstance(config.get("seconds"), int | float):
        raise CheckpointError(
            f"{path} describes no supernet.", f"Delete {path.parent} and train anew."
        )
    return path.parent, config
