"""Hardware-aware neural architecture search: a space, a device and a budget in, a front out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nas.archive import open_study
    from nas.events import Listener
    from nas.export.subnet import load_subnet
    from nas.study import Study

__all__ = ["load_subnet", "open_study", "search"]


def search(
    space: str = "vit",
    target: str | Sequence[str] = "cpu",
    budget: str | Sequence[str] = (),
    *,
    trials: int = 100,
    storage: str = "sqlite:///nas.db",
    study: str | None = None,
    out: str | Path = "nas-out",
    export: bool = True,
    train_time_s: float | None = None,
    retrain: bool = False,
    workers: int = 1,
    executor: str = "local",
    time_s: float | None = None,
    stop_when_flat: int | str | None = None,
    listener: Listener | None = None,
    **request: Any,
) -> Study:
    """Search a space for a device under budgets; the same call again resumes the study.

    Args:
        space: name of a search space.
        target: name of a device, `cpu` for this machine, or a profile's file; or several, for
            networks that run on each.
        budget: one limit or several, such as `"5ms"` or `["5ms", "params<=6M"]`; `"a100:5ms"`
            limits it on one of several targets.
        trials: real evaluations in all.
        storage: SQLAlchemy URL.
        study: name; by default made of what is asked for.
        out: folder for pictures and exported subnets.
        export: whether to write the front's subnets (and verify them where the target is here).
        train_time_s: limit of a training, seconds.
        retrain: train the supernet anew for a new study.
        workers: candidates evaluated side by side.
        executor: where: `local` or `ray`.
        time_s: wall time after which no further trial is asked for, seconds.
        stop_when_flat: trials that together must raise the hypervolume by more than 0.1 %, such as
            30, or `"30:0.5%"` for another share.
        listener: called with an `Event` at each step.
        request: further fields of `nas.request.SearchRequest`: preset, data, objectives, seed,
            sampler, batch_size, schemes, supernet_seed, recipe (such as
            `"sandwich:batch_size=256"`), init, first_look.

    Returns:
        The study; its `front` is a list of rows with predicted and measured figures.

    Raises:
        nas.errors.NasError: with a hint; its subclasses say what was wrong.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> study = search(
        ...     "vit", "a100", "5ms", trials=12, storage=f"sqlite:///{folder}/nas.db",
        ...     out=folder, export=False,
        ... )
        >>> len(study.trials), study.front[0].latency_ms_upper < 5
        (12, True)
    """
    from nas import service
    from nas.events import silent
    from nas.request import RunOptions, SearchRequest
    from nas.stop import parse_flat

    several = isinstance(budget, Sequence) and not isinstance(budget, str)
    budgets: tuple[Any, ...] = tuple(budget) if several else (budget,)
    request = {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in request.items()}
    listed = isinstance(target, Sequence) and not isinstance(target, str)
    targets: tuple[Any, ...] = tuple(target) if listed else (target,)
    asked = SearchRequest(space=space, target=targets, budgets=budgets, trials=trials, **request)
    options = RunOptions(
        storage=storage,
        study=study,
        out=Path(out) if isinstance(out, str) else out,
        train_time_s=train_time_s,
        retrain=retrain,
        export=export,
        workers=workers,
        executor=executor,
        time_s=time_s,
        flat=None if stop_when_flat is None else parse_flat(str(stop_when_flat)),
    )
    return service.search(asked, options, listener or silent)


def __getattr__(name: str) -> Any:
    if name == "load_subnet":
        from nas.export.subnet import load_subnet

        return load_subnet
    if name == "open_study":
        from nas.archive import open_study

        return open_study
    raise AttributeError(f"module 'nas' has no attribute {name!r}")
