"""Progressive shrinking: the full network, then smaller kernels, depths and widths, by and by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor, nn

from nas.training.fields import FROM_ZERO, Allowed
from nas.training.recipe import Moment, Recipe, Stage, register_recipe
from nas.training.teacher import Teacher
from nas.training.turn import Turn, on_soft_labels, soften
from search_spaces.choices import Choice
from search_spaces.elastic import Supernet
from search_spaces.space import Architecture, SearchSpace

if TYPE_CHECKING:
    from nas.training.learner import Learner

ALL = 1_000_000  # more values than any choice has

#: last part of a choice's name -> what it is; all others are widths
KINDS = {"resolution": "resolution", "kernel": "kernel", "depth": "depth", "keep": "depth"}


@dataclass(frozen=True)
class Step:
    """A stage, the subnets that one update trains, and how many values are open, largest first."""

    stage: Stage
    subnets: int
    kernel: int = 1
    depth: int = 1
    width: int = 1

    def open(self, choice: Choice) -> int:
        """How many of a choice's values this stage draws from."""
        kind = kind_of(choice)
        wanted = ALL if kind == "resolution" else int(getattr(self, kind))
        return min(wanted, len(choice.values))


#: Epochs with those of the warm-up, and peaks by that of the full network, as published.
STEPS = {
    step.stage.name: step
    for step in (
        Step(Stage("full", 180), 1),
        Step(Stage("kernel", 125, 0.96 / 2.6), 1, ALL),
        Step(Stage("depth-1", 25, 0.08 / 2.6, warmup=0.0), 2, ALL, 2),
        Step(Stage("depth-2", 125, 0.24 / 2.6), 2, ALL, ALL),
        Step(Stage("width-1", 25, 0.08 / 2.6, warmup=0.0), 4, ALL, ALL, 2),
        Step(Stage("width-2", 125, 0.24 / 2.6), 4, ALL, ALL, ALL),
    )
}


@register_recipe("progressive-shrinking", "full network first, then smaller ones, taught by it")
@dataclass(frozen=True)
class ProgressiveShrinking(Recipe):
    """Once-for-all's training (arXiv:1908.09791).

    Stages: the full network; all kernels; the two largest depths; all depths; the two largest
    widths; all widths. What was opened stays open. Shares and peaks of the learning rate relate to
    each other as published. The resolution is drawn in each stage, one a step for all its subnets.
    Before each of the two width stages the most important channels are moved to the front, those
    of a width that is trained already among themselves. Which choices are kernels and depths is
    told by their names; every choice that is neither, nor the resolution, is a width.

    From the second stage on a subnet learns the labels, and the soft labels of the full network
    as it stood at the end of the first, at the step's resolution. The teacher normalises by the
    batch, as its pupils do: running statistics would mix resolutions.

    Gradient scale: the losses of a step's one, two or four subnets are SUMMED, as published, and
    each is the sum of its two cross entropies (`soft_labels` = 1). A step of the last stage thus
    has up to eight times the gradient of the first stage's; the stages' lower peaks allow for it.

    Not as published: epochs, batch and rate suit small data on one processor core (180 epochs of
    ImageNet for the full network alone, 2048 images a step, a peak of 2.6); set them for
    ImageNet. Of the published augmentation only what the data set asks for is done.

    Attributes:
        soft_labels: weight of the teacher's labels beside the true ones.
    """

    allowed: ClassVar[Mapping[str, Allowed]] = {**Recipe.allowed, "soft_labels": FROM_ZERO}

    version: int = 2
    epochs: int = 32
    examples_per_epoch: int | None = 8192
    batch_size: int = 32
    optimizer: str = "sgd"
    learning_rate: float = 0.15
    warmup: float = 0.04
    weight_decay: float = 3e-5
    label_smoothing: float = 0.1
    clip_norm: float = 0.0
    soft_labels: float = 1.0

    def stages(self, space: SearchSpace | None = None) -> tuple[Stage, ...]:
        """In their order; of a space, those that open one of its choices.

        Args:
            space: to be trained; all stages unless given.
        """
        if space is None:
            return tuple(step.stage for step in STEPS.values())
        kinds = {"full", *map(kind_of, space.choices.choices)}
        return tuple(s.stage for name, s in STEPS.items() if name.partition("-")[0] in kinds)

    def helpers(self, network: Supernet) -> dict[str, nn.Module]:
        return {"teacher": Teacher(network).train()}

    def begin_stage(self, moment: Moment, learner: Learner) -> None:
        teacher = learner.helpers["teacher"]
        assert isinstance(teacher, Teacher)
        if moment.stage.name != "full" and not teacher.ready:
            teacher.take(learner)
        if moment.stage.name.startswith("width"):
            learner.sort(trained=STEPS["width-1"].width - 1 if moment.stage.name[-1] == "2" else 0)

    def subnets(
        self, space: SearchSpace, moment: Moment, rng: np.random.Generator
    ) -> Sequence[Architecture]:
        choices, step = space.choices, STEPS[moment.stage.name]
        least = choices.sizes - np.array([step.open(c) for c in choices.choices], dtype=np.int64)
        genomes = rng.integers(least, choices.sizes, size=(step.subnets, len(choices)))
        shared = [kind_of(choice) == "resolution" for choice in choices.choices]
        genomes[:, shared] = genomes[0, shared]
        return [choices.decode(genome) for genome in choices.canonical(genomes)]

    def losses(self, turn: Turn) -> Iterator[tuple[Tensor, float]]:
        soft = None if turn.moment.stage.name == "full" else self._taught(turn)
        for arch in turn.subnets:
            logits = turn.run(arch)
            loss = turn.on_labels(logits)
            if soft is not None:
                loss = loss + self.soft_labels * on_soft_labels(logits, soft)
            yield loss, 1.0

    def _taught(self, turn: Turn) -> Tensor:
        """Soft labels of the full network at the resolution of this step."""
        teacher, space = turn.helpers["teacher"], turn.network.space
        assert isinstance(teacher, Teacher)
        return soften(teacher.run(full(space, turn.subnets[0]), turn.inputs))


def kind_of(choice: Choice) -> str:
    """`resolution`, `kernel`, `depth` or `width`.

    >>> kind_of(Choice("stages.0.1.kernel", (3, 5))), kind_of(Choice("depth", (1, 2)))
    ('kernel', 'depth')
    """
    return KINDS.get(choice.name.rpartition(".")[2], "width")


def full(space: SearchSpace, arch: Mapping[str, int | float | str]) -> Architecture:
    """The largest architecture at another one's resolution."""
    same = {c.name: arch[c.name] for c in space.choices.choices if kind_of(c) == "resolution"}
    return {**space.largest(), **same}
