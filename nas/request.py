"""What a user asks of a search, checked as far as it can be before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from nas.budget import parse_budgets
from nas.data.metric import ACCURACY, LOSS, METRICS, Metric, metric_of
from nas.errors import StudyMismatchError, UsageError, nearest
from nas.stop import Flat
from nas.study import OBJECTIVES

DEFAULT_STORAGE = "sqlite:///nas.db"
DEFAULT_OUT = Path("nas-out")
MAX_TRIALS = 1_000_000


@dataclass(frozen=True)
class SearchRequest:
    """A search.

    Attributes:
        space: name of the family.
        target: name of a device, `cpu` for this machine, or a profile's file.
        budgets: limits as typed, such as `5ms`.
        preset: of the space; None picks the one that fits the data.
        data: name of a data set or a folder; None is the space's default.
        objectives: names. One is what the data are judged by (accuracy, or bits per byte of
            text, or loss) and is really evaluated; empty means that and latency.
        trials: real evaluations in all, those done before included.
        seed: of the search.
        sampler: name from the registry of samplers.
        batch_size: examples a forward pass on the target.
        schemes: restricts the quantization schemes that the target offers.
        supernet_seed: of the supernet's training.
        recipe: of the supernet's training; None is the space's own.
        init: foreign weights that the supernet starts from, such as `hf:FOLDER`.
        first_look: share of the validation data after which a candidate is given up that cannot
            be on the front; None evaluates each on all of them.
    """

    space: str = "vit"
    target: str = "cpu"
    budgets: tuple[str, ...] = ()
    preset: str | None = None
    data: str | None = None
    objectives: tuple[str, ...] = ()
    trials: int = 100
    seed: int = 0
    sampler: str = "guided"
    batch_size: int = 1
    schemes: tuple[str, ...] | None = None
    supernet_seed: int = 0
    recipe: str | None = None
    init: str | None = None
    first_look: float | None = None

    def __post_init__(self) -> None:
        parse_budgets(self.budgets)
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise nearest(name, OBJECTIVES, "objective")
        qualities = [name for name in self.objectives if name in METRICS]
        if self.objectives and len(qualities) != 1:
            raise UsageError(
                "a search needs one quality among its objectives.",
                f"Qualities: {', '.join(METRICS)} (of text). "
                f"Costs: {', '.join(n for n in OBJECTIVES if n not in METRICS)}.",
            )
        if len(set(self.objectives)) != len(self.objectives):
            raise UsageError("an objective stands twice.", "Give each once.")
        for what, value, most in (
            ("--trials", self.trials, MAX_TRIALS),
            ("--batch-size", self.batch_size, 4096),
        ):
            if not 1 <= value <= most:
                raise UsageError(f"{what} must be from 1 to {most:,}, not {value:,}.", "")
        if self.first_look is not None and not 0 < self.first_look < 1:
            raise UsageError(
                f"--first-look must be a share between 0 and 1, not {self.first_look:g}.",
                "Write 0.25 for a quarter, or leave it out to evaluate everything.",
            )
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed must be from 0 to {2**32 - 1:,}.", "")

    def judged_by(self, metric: Metric) -> SearchRequest:
        """This request with its objectives named, for data that are judged by a metric.

        Raises:
            UsageError: if it asks for another quality.
        """
        if not self.objectives:
            return replace(self, objectives=(metric.name, "latency"))
        loss = metric is ACCURACY and LOSS.name in self.objectives
        if metric.name not in self.objectives and not loss:
            raise UsageError(
                f"these data are judged by {metric.name}.",
                f"Write --objective {metric.name}, or name other data.",
            )
        return self

    @property
    def quality(self) -> str:
        """Name of the metric that the search judges by; its objectives are named."""
        return metric_of(self.objectives).name

    def study_name(self) -> str:
        """A readable name made of space, target and budget."""
        target = self.target.rsplit("/", 1)[-1].removesuffix(".json")
        budgets = [str(b).removeprefix("latency<=") for b in parse_budgets(self.budgets)]
        parts = [self.space, self.preset, target, *(budgets or ["free"])]
        if self.batch_size != 1:
            parts.append(f"b{self.batch_size}")
        text = "-".join(p for p in parts if p)
        return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SearchRequest:
        """The request that `to_json` wrote; further keys are not its own and are left."""
        mine: dict[str, Any] = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        mine |= {k: tuple(v) for k, v in mine.items() if isinstance(v, list)}
        return cls(**mine)


@dataclass(frozen=True)
class RunOptions:
    """How a search is run, as opposed to what is asked of it.

    Attributes:
        storage: SQLAlchemy URL.
        study: name; None makes one of space, target and budget.
        out: folder for pictures and exported subnets.
        train_time_s: limit of a training.
        epochs: of a training; None is the recipe's own number.
        retrain: train the supernet anew for a new study.
        export: write the front's subnets, and verify them where the target is this machine.
        executor: where candidates are evaluated; see `nas.executors.registry`.
        workers: candidates that are evaluated side by side.
        time_s: wall time after which this run asks for no further trial.
        flat: the rule that ends a run whose front no longer grows.
        measure_on: resource label of the node of a Ray cluster on which `verify` times networks;
            None is this machine.
    """

    storage: str = DEFAULT_STORAGE
    study: str | None = None
    out: Path = DEFAULT_OUT
    train_time_s: float | None = None
    epochs: int | None = None
    retrain: bool = False
    export: bool = True
    executor: str = "local"
    workers: int = 1
    time_s: float | None = None
    flat: Flat | None = None
    measure_on: str | None = None


def refuse_mismatch(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to open a study for another request; the number of trials may differ.

    Raises:
        StudyMismatchError: listing what differs.
    """
    differs = [
        f"{key} was {_short(before.get(key))}, now {_short(value)}"
        for key, value in now.items()
        if key != "trials" and before.get(key) != value
    ]
    if differs:
        raise StudyMismatchError(
            f"study {name!r} was opened for another search: {'; '.join(differs)}.",
            f"Run it as it was with `nas resume {name}`, or name another with --study.",
        )


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
