"""What a user asks of a search, checked as far as it can be before anything is loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from nas.budget import parse_budgets
from nas.data.metric import ACCURACY, BITS_PER_BYTE, LOSS, METRICS, Metric, metric_of
from nas.errors import StudyMismatchError, UsageError, nearest
from nas.paths import DEFAULT_OUT, DEFAULT_STORAGE
from nas.stop import Flat
from nas.study import OBJECTIVES
from nas.target_names import PER_TARGET, at, labels_of, split

MAX_TRIALS = 1_000_000
LARGEST_BATCH = 4096


def require_batch_size(batch_size: int) -> None:
    """Refuse a number of examples a forward pass that is none, or past all use.

    Raises:
        UsageError: if it is below 1 or above `LARGEST_BATCH`.
    """
    if not 1 <= batch_size <= LARGEST_BATCH:
        raise UsageError(
            f"--batch-size must be from 1 to {LARGEST_BATCH:,}, not {batch_size:,}.",
            "It is how many examples one forward pass takes.",
        )


@dataclass(frozen=True)
class SearchRequest:
    """A search.

    Attributes:
        space: name of the family.
        target: name of a device, `cpu` for this machine, or a profile's file; several of them
            for a search on several targets, the first of which gives the arithmetic.
        budgets: limits as typed, such as `5ms`, or `a100:5ms` of one of several targets.
        preset: of the space; None picks the one that fits the data.
        data: name of a data set or a folder; None is the space's default.
        objectives: names. One is what the data are judged by (accuracy, or bits per byte of
            text, or loss) and is really evaluated; empty means that and latency. Of several
            targets `latency@a100` is that of one, `latency` stands for that of each.
        trials: real evaluations in all, those done before included.
        seed: of the search.
        sampler: name from the registry of samplers.
        batch_size: examples a forward pass on the target.
        schemes: restricts the quantization schemes that the target offers.
        supernet_seed: of the supernet's training.
        recipe: of the supernet's training, perhaps with fields of it, such as
            `sandwich:batch_size=256,learning_rate=1e-3`; None is the space's own.
        init: foreign weights that the supernet starts from, such as `hf:FOLDER`.
        first_look: share of the validation data after which a candidate is given up that cannot
            be on the front; None evaluates each on all of them.
    """

    space: str = "vit"
    target: str | tuple[str, ...] = "cpu"
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
        for name in ("budgets", "objectives", "schemes"):
            if isinstance(asked := getattr(self, name), str):
                raise UsageError(f"{name} are several.", f"Write {name}=[{asked!r}].")
            for each in asked or ():
                if not isinstance(each, str):
                    raise UsageError(
                        f"{each!r} among the {name} is no text.", "Write it in quotes."
                    )
        for name in ("trials", "seed", "batch_size", "supernet_seed"):
            _require_type(self, name, int, "a whole number")
        for name in ("space", "sampler", "preset", "data", "recipe", "init"):
            _require_type(self, name, str, "text")
        for each in self.targets:
            if not isinstance(each, str):
                raise UsageError(f"{each!r} is no target.", "Write its name in quotes.")
        parse_budgets(self.budgets, self.labels)
        objectives = [name for asked in self.objectives for name in self._on_targets(asked)]
        qualities = [name for name in self.objectives if name in METRICS]
        if self.objectives and len(qualities) != 1:
            raise UsageError(
                "a search needs one quality among its objectives.",
                f"Qualities: {', '.join(METRICS)} (of text). "
                f"Costs: {', '.join(n for n in OBJECTIVES if n not in METRICS)}.",
            )
        if len(set(objectives)) != len(objectives):
            raise UsageError("an objective stands twice.", "Give each once.")
        if not 1 <= self.trials <= MAX_TRIALS:
            raise UsageError(f"--trials must be from 1 to {MAX_TRIALS:,}, not {self.trials:,}.", "")
        require_batch_size(self.batch_size)
        if self.first_look is not None and not 0 < self.first_look < 1:
            raise UsageError(
                f"--first-look must be a share between 0 and 1, not {self.first_look:g}.",
                "Write 0.25 for a quarter, or leave it out to evaluate everything.",
            )
        for seed in (self.seed, self.supernet_seed):
            if not 0 <= seed < 2**32:
                raise UsageError(f"a seed must be from 0 to {2**32 - 1:,}, not {seed}.", "")

    @property
    def targets(self) -> tuple[str, ...]:
        """As typed, one or several."""
        return (self.target,) if isinstance(self.target, str) else self.target

    @property
    def labels(self) -> tuple[str, ...]:
        """What the targets are called."""
        return labels_of(self.targets)

    def _on_targets(self, objective: str) -> list[str]:
        """An objective's own name; of several targets, its name on each that it is of."""
        name, target = split(objective)
        if name not in OBJECTIVES:
            raise nearest(name, OBJECTIVES, "objective")
        if target is not None and target not in self.labels:
            raise nearest(target, self.labels, "target of this search")
        if target is not None and name not in PER_TARGET:
            raise UsageError(f"{name} is the same on every target.", f"Write {name} alone.")
        if len(self.labels) == 1 or name not in PER_TARGET:
            return [name]
        return [at(name, label) for label in ([target] if target else self.labels)]

    def judged_by(self, metric: Metric) -> SearchRequest:
        """This request with its objectives named, for data that are judged by a metric.

        Raises:
            UsageError: if it asks for another quality.
        """
        asked = self.objectives or (metric.name, "latency")
        loss = metric is ACCURACY and LOSS.name in asked
        if metric.name not in asked and not loss:
            raise UsageError(
                f"these data are judged by {metric.name}.",
                f"Write --objective {metric.name}, or name other data.",
            )
        named = tuple(name for each in asked for name in self._on_targets(each))
        return self if named == self.objectives else replace(self, objectives=named)

    @property
    def quality(self) -> str:
        """Name of the metric that the search judges by; its objectives are named."""
        return metric_of(self.objectives).name

    def study_name(self) -> str:
        """A readable name: space, targets, budgets; unusual objectives, sampler and seed."""
        budgets = parse_budgets(self.budgets, self.labels)
        several = len(self.labels) > 1

        def limits(target: str | None) -> list[str]:
            own = [replace(b, target=None) for b in budgets if b.target == target]
            return [str(b).removeprefix("latency<=") for b in own]

        parts = [self.space, self.preset]
        for label in self.labels:
            parts += [label, *(limits(label) if several else [])]
        parts += limits(None) if budgets else ["free"]
        if self.batch_size != 1:
            parts.append(f"b{self.batch_size}")
        usual = tuple(self._on_targets("latency"))
        if self.objectives not in ((), (ACCURACY.name, *usual), (BITS_PER_BYTE.name, *usual)):
            parts += self.objectives
        if self.sampler != SearchRequest.sampler:
            parts.append(self.sampler)
        if self.seed:
            parts.append(f"seed{self.seed}")
        text = "-".join(p for p in parts if p)
        return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return plain if len(self.targets) > 1 else {**plain, "target": self.targets[0]}

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
        study: name; None makes one of what is asked for.
        out: folder for pictures and exported subnets.
        train_time_s: limit of a training.
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
    retrain: bool = False
    export: bool = True
    executor: str = "local"
    workers: int = 1
    time_s: float | None = None
    flat: Flat | None = None
    measure_on: str | None = None

    def __post_init__(self) -> None:
        for name in ("storage", "study", "executor", "measure_on"):
            _require_type(self, name, str, "text")
        _require_type(self, "out", Path, "a path")
        _require_type(self, "workers", int, "a whole number")
        for name in ("train_time_s", "time_s"):
            seconds = getattr(self, name)
            if seconds is not None and not (
                isinstance(seconds, int | float) and 0 < seconds < math.inf
            ):
                raise UsageError(f"{name} must be seconds above 0, not {seconds!r}.", "")


def _require_type(asked: SearchRequest | RunOptions, name: str, kind: type, what: str) -> None:
    """Refuse a field of another type than its own, None only where that is its default."""
    value = getattr(asked, name)
    default = type(asked).__dataclass_fields__[name].default
    fits = isinstance(value, kind) and not isinstance(value, bool)
    if not fits and not (value is None and default is None):
        raise UsageError(f"{name} must be {what}, not {value!r}.", "")


def refuse_mismatch(
    name: str, before: Mapping[str, Any], now: Mapping[str, Any], go_on: str
) -> None:
    """Refuse to open a study for another request; the number of trials may differ.

    Args:
        name: of the study.
        before: the request that it was opened with, as plain data.
        now: the one at hand.
        go_on: the command that runs the study as it was.

    Raises:
        StudyMismatchError: listing what differs.
    """
    differs = [
        f"{key} was {_short(before.get(key))}, now {_short(value)}"
        for key, value in now.items()
        if key != "trials" and _meant(before, key) != _meant(now, key)
    ]
    if differs:
        raise StudyMismatchError(
            f"study {name!r} was opened for another search: {'; '.join(differs)}.",
            f"Run it as it was with `{go_on}`, or name another with --study.",
        )


def _meant(request: Mapping[str, Any], key: str) -> Any:
    """A field of a request as plain data; budgets as they are meant, however they were typed."""
    if key != "budgets":
        return request.get(key)
    targets = request.get("target", "")
    labels = labels_of([targets] if isinstance(targets, str) else targets)
    return parse_budgets(request.get(key, ()), labels)


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
