"""Sandwich: the largest on the labels; the smallest and random subnets on these and its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from nas.training.fields import FROM_ONE, FROM_ZERO, SHARE, Allowed, Numbers
from nas.training.recipe import Moment, Recipe, register_recipe
from nas.training.turn import Turn, on_soft_labels, soften
from search_spaces.space import Architecture, SearchSpace

FEWEST = 2  # random subnets a step, as published
JOINED = 32  # examples a step where a time limit leaves no time for all epochs


@register_recipe("sandwich", "largest, smallest and random subnets in each step")
@dataclass(frozen=True)
class Sandwich(Recipe):
    """Sandwich training (BigNAS, arXiv:2003.11142) with in-place distillation.

    Gradient scale: the losses of an update are AVERAGED, so that the gradient, and with it the
    clipping, does not depend on how many subnets run.

    Not as published: the weights change after every few subnets of a step, not after all of them,
    and the largest's soft labels are of the moment when it ran. All but the largest learn the
    true labels too: as long as the largest knows nothing, its soft labels teach the others
    nothing, and they hold it back with them (on 8x8 digits, with six random subnets a step in
    batches of 64, for the first 65,000 images). Batches are small, and a step has more random
    subnets than the published two. Of all that was tried, three things brought subnets nearest to
    what they reach alone with as many images: more updates, more subnets on the same images, and
    updates on the same images that lie `apart`, for one right after another fits the weights to
    those images. The last is off unless asked for; in a long training the largest ends lower by
    it, less so where it is kept to the first part (`apart_until`).

    Attributes:
        random_subnets: a step, beside the largest and the smallest; under a time limit as many of
            them as leave time for all epochs, the published two at least. Where these are too many
            still, batches are joined to 32 examples.
        together: subnets that change the weights at once.
        apart: steps between two updates on the same examples; 0 has them follow each other. The
            batches between are held in memory.
        apart_until: share of the training; an epoch that begins after it has updates on the same
            examples follow each other again.
        soft_labels: weight of the largest's labels for all others; the true labels have the rest.
    """

    allowed: ClassVar[Mapping[str, Allowed]] = {
        **Recipe.allowed,
        "random_subnets": FROM_ZERO,
        "together": FROM_ONE,
        "apart": Numbers(least=0, most=1000),
        "apart_until": SHARE,
        "soft_labels": SHARE,
    }
    later: ClassVar[Mapping[str, object]] = {"apart": 0, "apart_until": 1.0}

    version: int = 3
    batch_size: int = 16
    random_subnets: int = 14
    together: int = 2
    apart: int = 0
    apart_until: float = 1.0
    soft_labels: float = 0.5

    def joined(self, moment: Moment) -> int:
        # Operators of larger batches use a processor better: more epochs are seen in the time.
        short = moment.affordable < 2 + FEWEST
        return max(JOINED // self.batch_size, 1) if short else 1

    def subnets(
        self, space: SearchSpace, moment: Moment, rng: np.random.Generator
    ) -> Sequence[Architecture]:
        # Where time is short, more examples are worth more than more subnets on the same.
        n_random = int(min(self.random_subnets, max(moment.affordable - 2, FEWEST)))
        drawn = space.choices.sample(n_random, rng)
        return [space.largest(), space.smallest(), *map(space.choices.decode, drawn)]

    def updates(self, subnets: Sequence[Architecture]) -> Iterator[Sequence[Architecture]]:
        for first in range(0, len(subnets), self.together):
            yield subnets[first : first + self.together]

    def steps_ago(self, update: int, moment: Moment) -> int:
        return update * self.apart if moment.share < self.apart_until else 0

    def losses(self, turn: Turn) -> Iterator[tuple[Tensor, float]]:
        share, kept = self.soft_labels, turn.kept
        for arch in turn.subnets:
            logits = turn.run(arch)
            loss = turn.on_labels(logits)
            if "soft" in kept:
                loss = (1 - share) * loss + share * on_soft_labels(logits, kept["soft"])
            else:  # the largest comes first
                kept["soft"] = soften(logits)
            yield loss, 1 / len(turn.subnets)
