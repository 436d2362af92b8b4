"""A supernet for a space and its data: found where it was kept, or trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from nas.data.dataset import Dataset
from nas.errors import CheckpointError, StudyMismatchError
from nas.events import Event, Listener, silent
from nas.training.distributed import processes, this_device
from nas.training.init import Initial
from nas.training.loop import Progress, fit
from nas.training.recipe import Recipe
from nas.training.recipe_text import recipe_for
from nas.training.store import (
    TrainedSupernet,
    find_supernet,
    find_weights,
    save_supernet,
    supernet_fingerprint,
    user_store,
)
from nas.wording import clock
from search_spaces.space import SearchSpace


def train_supernet(
    space: SearchSpace,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    *,
    time_limit_s: float | None = None,
    initial: Initial | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    folder: Path | None = None,
) -> TrainedSupernet:
    """Train a supernet and keep it; an interrupted training continues from its last epoch.

    Under `torchrun` the first process keeps it, and the others read what it kept.

    Args:
        space: of the subnets.
        data: to train on.
        recipe: what is done.
        seed: of the training.
        time_limit_s: of this call; None trains all epochs.
        initial: foreign weights to start from.
        progress: called after each step.
        folder: of supernets; by default the user's cache.

    Raises:
        CheckpointError: if the folder cannot be written, or holds a foreign unfinished training.
        TrainingError: if the loss is not finite.
        UsageError: if the data or recipe do not fit the space.
    """
    folder = folder or user_store()
    start = initial.digest if initial else None
    name = supernet_fingerprint(space, data, recipe, seed, start)
    unfinished = folder / f"{name}.unfinished"
    _check_writable(folder)
    with processes(this_device()) as world:
        trained = fit(
            space,
            data,
            recipe,
            seed,
            time_limit_s=time_limit_s,
            progress=progress,
            checkpoint=unfinished,
            initial=initial.state if initial else None,
            log=folder / "logs" / name,
        )
        if world.first:
            kept = save_supernet(trained, data, recipe, seed, folder, initial)
            unfinished.unlink(missing_ok=True)
        world.wait()
        if world.first:
            return kept
    read = find_supernet(space, data, recipe, seed, initial=start, folders=(folder,))
    assert read is not None
    return read


def obtain_supernet(
    space: SearchSpace,
    data: Dataset,
    *,
    recipe: Recipe | None = None,
    seed: int = 0,
    time_limit_s: float | None = None,
    retrain: bool = False,
    initial: Initial | None = None,
    listener: Listener = silent,
) -> TrainedSupernet:
    """The supernet that was trained for this space and data, or a new one.

    Args:
        space: of the subnets.
        data: to train on.
        recipe: what is done; the space's own unless given.
        seed: of the training.
        time_limit_s: of a training.
        retrain: train even if there is one.
        initial: foreign weights that a training starts from.
        listener: told of the training's progress.

    Raises:
        CheckpointError: if the one found is damaged, or nothing can be kept.
        TrainingError: if the loss is not finite.
        UsageError: if the data or recipe do not fit the space.
    """
    by = recipe_for(space, None) if recipe is None else recipe
    if not retrain:
        start = initial.digest if initial else None
        found = find_supernet(space, data, by, seed, initial=start)
        if found is not None:
            if found.config.get("ended_by") == "time":
                text = (
                    f"the supernet kept was cut short after {found.config['seconds']:.0f} s "
                    "of training; --retrain trains it anew"
                )
                listener(Event("note", text))
            return found

    def tell(progress: Progress) -> None:
        listener(Event("train", _line(progress), progress.share, 1.0))

    return train_supernet(
        space, data, by, seed, time_limit_s=time_limit_s, initial=initial, progress=tell
    )


def own_supernet(space: SearchSpace, digest: str, data: Dataset) -> TrainedSupernet:
    """The supernet that a study was begun with, by the digest of its weights; no other will do.

    Raises:
        CheckpointError: if it is gone or damaged.
        StudyMismatchError: if the data are not those that it was trained for.
    """
    found = find_weights(space, digest)
    if found is None:
        raise CheckpointError(
            f"the supernet that this study was begun with ({digest[:12]}) is not on this machine.",
            f"Copy its folder to {user_store()} from where it was trained, or install the version "
            "of this program that it shipped with; or begin a new study with --study: trials of "
            "other weights are not taken over. The trials that it has can still be shown.",
        )
    if found.config.get("data_fingerprint", data.fingerprint) != data.fingerprint:
        raise StudyMismatchError(
            f"the data {data.name} are not what they were when this study was begun.",
            "Bring them back as they were, or begin a new study with --study: qualities on other "
            "data cannot be compared. The trials that it has can still be shown.",
        )
    return found


def _line(p: Progress) -> str:
    known = "".join(f", {name} {p.metric.format(value)}" for name, value in p.qualities.items())
    left = ""
    if math.isfinite(p.seconds_left):
        left = f", {clock(p.seconds_left)} left"
    stage = "" if p.stage == "all" else f" ({p.stage})"
    return f"epoch {p.epoch}/{p.epochs}{stage}, loss {p.loss:.3f}{known}{left}"


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot keep the result, before the training rather than after."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written ({error.strerror}).",
            "Set NAS_CACHE to a folder that can be written.",
        ) from None
