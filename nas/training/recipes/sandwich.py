"""Sandwich: the largest on the labels; the smallest and random subnets on these and its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from nas.training.fields import FROM_ZERO, SHARE, Allowed
from nas.training.recipe import Moment, Recipe, register_recipe
from nas.training.turn import Turn, on_soft_labels, soften
from search_spaces.space import Architecture, SearchSpace


@register_recipe("sandwich", "largest, smallest and random subnets in each step")
@dataclass(frozen=True)
class Sandwich(Recipe):
    """Sandwich training (BigNAS, arXiv:2003.11142) with in-place distillation.

    Gradient scale: the losses are AVERAGED, so that the gradient, and with it the clipping, does
    not depend on how many subnets run. Every weight is in the largest, which runs in each step.

    Not as published: all but the largest learn the labels too, and not its soft labels alone. As
    long as the largest knows nothing, its soft labels teach the others nothing, and they hold it
    back with them: on 8x8 digits, with six random subnets a step in batches of 64, for the first
    65,000 images. Batches are small, and a step has more random subnets than the published two:
    of all that was tried, more steps, and more subnets in each, brought subnets nearest to what
    they reach alone with as many images.

    Attributes:
        random_subnets: a step, beside the largest and the smallest.
        soft_labels: weight of the largest's labels for all others, from 0 to 1; the true labels
            have the rest.
    """

    allowed: ClassVar[Mapping[str, Allowed]] = {
        **Recipe.allowed,
        "random_subnets": FROM_ZERO,
        "soft_labels": SHARE,
    }

    version: int = 2
    batch_size: int = 16
    random_subnets: int = 6
    soft_labels: float = 0.5

    def subnets(
        self, space: SearchSpace, moment: Moment, rng: np.random.Generator
    ) -> Sequence[Architecture]:
        drawn = space.choices.sample(self.random_subnets, rng)
        return [space.largest(), space.smallest(), *map(space.choices.decode, drawn)]

    def losses(self, turn: Turn) -> Iterator[tuple[Tensor, float]]:
        largest, *students = turn.subnets
        weight, share = 1 / len(turn.subnets), self.soft_labels
        logits = turn.run(largest)
        yield turn.on_labels(logits), weight
        soft = soften(logits)
        for arch in students:
            logits = turn.run(arch)
            yield (
                (1 - share) * turn.on_labels(logits) + share * on_soft_labels(logits, soft),
                weight,
            )
