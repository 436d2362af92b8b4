"""Multi-architectural sampling: several subnets share the examples of a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from nas.errors import UsageError
from nas.training.fields import FROM_ONE, SHARE, Allowed
from nas.training.recipe import Moment, Recipe, register_recipe
from nas.training.turn import Turn
from search_spaces.space import Architecture, SearchSpace

if TYPE_CHECKING:
    from nas.training.learner import Learner


@register_recipe("multi-architecture", "several subnets share a step's examples; no teacher")
@dataclass(frozen=True)
class MultiArchitecture(Recipe):
    """ViT-ResNAS's training (arXiv:2109.00642), written from a description of it.

    A step's examples are dealt out to several subnets, each of which learns the labels of its
    own; one update follows. The published program runs one full-size network with masks; here each
    part runs through its slices, which are the same functions and take less time. (Batch norms
    see a part at a time.)

    Every choice deals its open values to the subnets by itself: each value gets an equal share of
    them, as near as their numbers allow, and which subnet has which is drawn. The largest value is
    open first, all are at the end of the opening: of n values the first 1 + floor(progress *
    (n - 1)), existence of a block included. At each epoch that begins within the opening, the most
    important units are moved to the front.

    Gradient scale: the MEAN over the step's examples, whichever subnet they ran through; it does
    not depend on the number of subnets.

    Not as published: rate, batch and epochs suit small data (120 epochs of ImageNet, batches of
    1024 with 64 examples a subnet, a rate of 5e-4 for 512, layers left out at 0.2 or 0.3), and all
    processes train the same subnets. Images are not mixed within a batch.

    Attributes:
        architectures: that share a step's examples.
        opening: share of the training after which all values are open.
    """

    allowed: ClassVar[Mapping[str, Allowed]] = {
        **Recipe.allowed,
        "architectures": FROM_ONE,
        "opening": SHARE,
    }

    version: int = 3
    architectures: int = 4
    opening: float = 0.25

    @property
    def least_part(self) -> int:
        return self.architectures

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.architectures > self.batch_size:
            raise UsageError(
                f"{self.architectures} architectures cannot share {self.batch_size} examples.",
                "Set architectures to batch_size at most.",
            )

    def begin_epoch(self, moment: Moment, learner: Learner) -> None:
        if moment.share <= self.opening:
            learner.sort()

    def subnets(
        self, space: SearchSpace, moment: Moment, rng: np.random.Generator
    ) -> Sequence[Architecture]:
        choices = space.choices
        progress = min(moment.share / self.opening, 1.0) if self.opening else 1.0
        columns = []
        for size in choices.sizes:
            n_open = 1 + int(progress * (size - 1))
            # A second draw: else subnets that are n_open apart would agree in every such choice.
            dealt = rng.permutation(np.resize(rng.permutation(n_open), self.architectures))
            columns.append(size - 1 - dealt)
        genomes = choices.canonical(np.stack(columns, axis=1))
        return [choices.decode(genome) for genome in genomes]

    def losses(self, turn: Turn) -> Iterator[tuple[Tensor, float]]:
        # In a row, as the loop deals out a batch: a subnet has the same examples in however many
        # parts and processes it runs.
        n = len(turn.subnets)
        each = zip(turn.inputs.tensor_split(n), turn.labels.tensor_split(n), strict=True)
        for arch, (inputs, labels) in zip(turn.subnets, each, strict=True):
            logits = turn.run(arch, inputs)
            yield turn.on_labels(logits, labels), len(labels) / len(turn.labels)
