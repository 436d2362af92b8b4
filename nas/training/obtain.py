"""A supernet for a space and its data: found where it was kept, or trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nas.data.dataset import Dataset
from nas.errors import CheckpointError
from nas.events import Event, Listener, silent
from nas.training.loop import Progress, fit
from nas.training.recipe import Recipe
from nas.training.store import (
    TrainedSupernet,
    find_supernet,
    save_supernet,
    supernet_fingerprint,
    user_store,
)
from search_spaces.space import SearchSpace


def train_supernet(
    space: SearchSpace,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    *,
    time_limit_s: float | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    folder: Path | None = None,
) -> TrainedSupernet:
    """Train a supernet and keep it; an interrupted training continues from its last epoch.

    Args:
        space: of the subnets.
        data: to train on.
        recipe: hyper-parameters.
        seed: of the training.
        time_limit_s: of this call; None trains all epochs.
        progress: called after each step.
        folder: of supernets; by default the user's cache.

    Raises:
        CheckpointError: if the folder cannot be written, or holds a foreign unfinished training.
        TrainingError: if the loss is not finite.
        UsageError: if the data do not fit the space.
    """
    folder = folder or user_store()
    unfinished = folder / f"{supernet_fingerprint(space, data, recipe, seed)}.unfinished"
    _check_writable(folder)
    trained = fit(
        space,
        data,
        recipe,
        seed,
        time_limit_s=time_limit_s,
        progress=progress,
        checkpoint=unfinished,
    )
    kept = save_supernet(trained, data, recipe, seed, folder)
    unfinished.unlink(missing_ok=True)
    return kept


def obtain_supernet(
    space: SearchSpace,
    data: Dataset,
    *,
    seed: int = 0,
    time_limit_s: float | None = None,
    retrain: bool = False,
    digest: str | None = None,
    listener: Listener = silent,
) -> TrainedSupernet:
    """The supernet that was trained for this space and data, or a new one.

    Args:
        space: of the subnets.
        data: to train on.
        seed: of the training.
        time_limit_s: of a training.
        retrain: train even if there is one.
        digest: of the weights that a study was begun with; only these will do.
        listener: told of the training's progress.

    Raises:
        CheckpointError: if the study's own supernet is gone or damaged, or nothing can be kept.
        TrainingError: if the loss is not finite.
        UsageError: if the data do not fit the space.
    """
    recipe = Recipe()
    if digest is not None or not retrain:
        found = find_supernet(space, data, recipe, seed, digest=digest)
        if found is not None:
            return found
    if digest is not None:
        raise CheckpointError(
            f"the supernet that this study was begun with ({digest[:12]}) is not on this machine.",
            f"Copy its folder to {user_store()}, or begin a new study.",
        )

    def tell(progress: Progress) -> None:
        listener(Event("train", _line(progress), progress.share, 1.0))

    return train_supernet(space, data, recipe, seed, time_limit_s=time_limit_s, progress=tell)


def _line(p: Progress) -> str:
    known = ""
    if p.accuracy_largest is not None and p.accuracy_smallest is not None:
        known = f", largest {p.accuracy_largest:.1%}, smallest {p.accuracy_smallest:.1%}"
    minutes, seconds = divmod(round(p.seconds_left), 60) if p.seconds_left < 1e6 else (0, 0)
    left = f", {minutes}:{seconds:02} left"
    return f"epoch {p.epoch}/{p.epochs}, loss {p.loss:.3f}{known}{left}"


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
