"""What a training recipe is: hyper-parameters, stages, and what one step trains.

A recipe never steps an optimizer, reads data or writes a file: the loop does that for all of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_type_hints

from hw_profiles.plugins import load_plugins
from nas.errors import UsageError, nearest
from nas.training.fields import (
    FROM_ONE,
    FROM_ZERO,
    KINDS,
    SHARE,
    Allowed,
    Numbers,
    write_value,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from nas.training.learner import Learner
    from nas.training.turn import Turn
    from search_spaces.elastic import Supernet
    from search_spaces.space import Architecture, SearchSpace


@dataclass(frozen=True)
class Stage:
    """A part of a training with its own rise and fall of the learning rate.

    Attributes:
        name: such as `kernel`.
        share: of the training, in any unit; the stages' shares are compared with each other.
        peak: of the learning rate, relative to the recipe's.
        warmup: share of the stage's steps in which the rate rises; the recipe's unless given.
    """

    name: str
    share: float = 1.0
    peak: float = 1.0
    warmup: float | None = None


@dataclass(frozen=True)
class Moment:
    """Where a training stands.

    Attributes:
        stage: that runs.
        epoch: that runs, from 0.
        share: of the whole training that was done when this epoch began.
        affordable: subnets a step, if a time limit is to see the last epoch's end; 0 as long as
            none was timed, infinite without a limit.
    """

    stage: Stage
    epoch: int
    share: float
    affordable: float = math.inf


@dataclass(frozen=True)
class Recipe(ABC):
    """How a supernet is trained.

    A subclass says which architectures a step trains (`subnets`), what each adds to the loss
    (`losses`) and, if it needs them, its stages and helpers. Its fields are of the types in
    `nas.training.fields.KINDS`: they are hashed into the supernet's fingerprint, and all but the
    version may be set by a user, who reads of them what stands under Attributes.

    Raises:
        UsageError: if a field is not what `allowed` says.

    Attributes:
        allowed: values of the fields that have bounds or are one of a few words; a subclass adds
            its own to these.
        later: fields that a recipe was given when supernets were trained by it already, with the
            values at which it trains as before: those supernets keep their fingerprint.
        version: of the recipe and of the loop; raise it with any change to what they do.
        epochs: of `examples_per_epoch`; a time limit may end training before.
        examples_per_epoch: drawn anew without replacement from the training part; None, typed
            `all`, is all of it.
        batch_size: examples a step, over all processes.
        accumulate: parts that a batch is run in, one after the other, where memory is short.
        optimizer: `adamw`; `lazy-adamw`, which leaves weights and moments outside an update's
            subnets as they were; or `sgd` with Nesterov's momentum.
        learning_rate: at its peak.
        warmup: share of a stage's steps in which the rate rises from zero; a cosine to zero
            follows.
        weight_decay: of weight matrices, filters and embedding tables; none on biases, norms,
            class tokens and the positions that are kept with them.
        betas: of AdamW, lazy or not.
        momentum: of SGD.
        label_smoothing: where labels are learned.
        clip_norm: of the gradient; 0 means no clipping.
        ema: decay of the average of the weights that is kept in the end; 0 means none.
        drop_path: rate at which the last layer is left out for an example (arXiv:1603.09382);
            those before it less, evenly down to 0.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    allowed: ClassVar[Mapping[str, Allowed]] = {
        "epochs": Numbers(least=1, most=1e6),
        "examples_per_epoch": FROM_ONE,
        "batch_size": FROM_ONE,
        "accumulate": FROM_ONE,
        "optimizer": ("adamw", "lazy-adamw", "sgd"),
        "learning_rate": Numbers(above=0, most=1e6),
        "warmup": Numbers(least=0, below=1),
        "weight_decay": FROM_ZERO,
        "betas": Numbers(least=0, below=1),
        "momentum": Numbers(least=0, below=1),
        "label_smoothing": SHARE,
        "clip_norm": FROM_ZERO,
        "ema": Numbers(least=0, below=1),
        "drop_path": Numbers(least=0, below=1),
    }
    later: ClassVar[Mapping[str, object]] = {}

    version: int = 1
    epochs: int = 24
    examples_per_epoch: int | None = 16_384
    batch_size: int = 64
    accumulate: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    momentum: float = 0.9
    label_smoothing: float = 0.0
    clip_norm: float = 1.0
    ema: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        name = self.name or "a recipe"
        for field, allowed in self.allowed.items():
            value = getattr(self, field)
            if isinstance(allowed, tuple):
                require_one_of(value, allowed, f"{field} of {name}")
            elif not allowed.allows(value):
                raise UsageError(
                    f"{field} of {name} must be {allowed}, not {write_value(value)}.",
                    f"See `nas recipes {self.name or 'NAME'}`.",
                )
        if self.accumulate > self.batch_size:
            raise UsageError(
                f"{name} cannot run a batch of {self.batch_size} in {self.accumulate} parts.",
                "Set accumulate to batch_size at most.",
            )

    def record(self) -> dict[str, Any]:
        """Name and every field, as JSON; of the `later` ones those that change something."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        as_before = {k for k, v in self.later.items() if plain[k] == v}
        return {"name": self.name, **{k: v for k, v in plain.items() if k not in as_before}}

    @property
    def least_part(self) -> int:
        """Examples that a part of a batch must have, of which each process runs `accumulate`."""
        return 1

    def stages(self, space: SearchSpace | None = None) -> tuple[Stage, ...]:
        """In the order in which they follow each other.

        Args:
            space: to be trained; the stages of any space unless given.
        """
        return (Stage("all"),)

    def check(self, space: SearchSpace) -> None:
        """Refuse a space that this recipe cannot train.

        Raises:
            UsageError: if it cannot.
        """

    def helpers(self, network: Supernet) -> dict[str, nn.Module]:
        """Modules that training needs beside the supernet, such as a teacher.

        They are kept in checkpoints, not in the result. Parameters that want gradients are trained
        too. Called once before a training; the generator of torch is seeded.
        """
        return {}

    def begin_stage(self, moment: Moment, learner: Learner) -> None:
        """Called before a stage's first step; the optimizer starts anew after it."""

    def begin_epoch(self, moment: Moment, learner: Learner) -> None:
        """Called before an epoch's first step."""

    def joined(self, moment: Moment) -> int:
        """Batches that are trained on as one, which counts as so many steps."""
        return 1

    @abstractmethod
    def subnets(
        self, space: SearchSpace, moment: Moment, rng: np.random.Generator
    ) -> Sequence[Architecture]:
        """The architectures that a step trains, in their order; the same on every process."""

    def updates(self, subnets: Sequence[Architecture]) -> Iterator[Sequence[Architecture]]:
        """A step's subnets, those together whose losses change the weights at once."""
        yield subnets

    def steps_ago(self, update: int, moment: Moment) -> int:
        """When the examples of a step's update, from 0, were drawn; 0 is for this step.

        An epoch's first steps, and those of a stage, go back as far as there are any. The first
        update must be on the step's own examples: what it keeps in their turn, the later ones find.
        """
        return 0

    @abstractmethod
    def losses(self, turn: Turn) -> Iterator[tuple[Tensor, float]]:
        """The losses of an update, each with its weight in the gradient, one after the other.

        The loop sends back each weighted loss before it asks for the next, so that one subnet's
        activations are held at a time. A loss is a mean over the turn's examples. The first one
        of a step, without its weight, is what progress tells.
        """


# --- registry -----------------------------------------------------------------------------------

R = TypeVar("R", bound=type[Recipe])

_RECIPES: dict[str, type[Recipe]] = {}
_OWN = (
    "sandwich",
    "matformer",
    "progressive_shrinking",
    "multi_architecture",
    "two_stage_distillation",
)


def register_recipe(name: str, title: str) -> Callable[[R], R]:
    """Register a recipe's class.

    A package outside this one registers by an entry point in the group `nas.recipes` that names a
    module with such a decorated class.

    Args:
        name: for `--recipe`.
        title: what it does, in a few words.
    """

    def add(recipe: R) -> R:
        recipe.name, recipe.title = name, title
        _RECIPES[name] = recipe
        return recipe

    return add


def _known() -> dict[str, type[Recipe]]:
    for module in _OWN:
        import_module(f"nas.training.recipes.{module}")
    load_plugins("nas.recipes", _RECIPES)
    return _RECIPES


def recipes() -> dict[str, str]:
    """Registered recipes: name -> title."""
    return {name: recipe.title for name, recipe in sorted(_known().items())}


def settable(recipe: type[Recipe]) -> dict[str, Any]:
    """The fields that a user may set, in their order, with their types: all but the version."""
    types = get_type_hints(recipe)
    names = [field.name for field in fields(recipe) if field.name != "version"]
    return {name: types[name] for name in names if types[name] in KINDS}


def require_one_of(name: str, known: Iterable[str], what: str) -> None:
    """Refuse what is not one of a few words.

    Raises:
        UsageError: that proposes the nearest of them.
    """
    if name not in known:
        unknown = nearest(name, known, what)
        raise UsageError(unknown.message, unknown.hint)


def get_recipe(name: str, **overrides: Any) -> Recipe:
    """A recipe by name, some of its fields set.

    Raises:
        NotFoundError: if there is no such recipe.
        UsageError: if it has no such field for a user to set, or a value is out of range.
    """
    known = _known()
    if name not in known:
        raise nearest(name, known, "recipe")
    recipe = known[name]
    for field in overrides:
        require_one_of(field, settable(recipe), f"field of {name}")
    return recipe(**overrides)
