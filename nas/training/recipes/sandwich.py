"""Sandwich: the largest on the labels; the smallest and some random subnets on its soft labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nas.training.recipe import Moment, Recipe, register_recipe
from nas.training.turn import Turn, on_soft_labels, soften
from search_spaces.space import Architecture, SearchSpace


@register_recipe("sandwich", "largest, smallest and random subnets in each step")
@dataclass(frozen=True)
class Sandwich(Recipe):
    """Sandwich training (BigNAS, arXiv:2003.11142) with in-place distillation.

    Gradient scale: the losses are AVERAGED, so that the gradient, and with it the clipping, does
    not depend on how many subnets run. Every weight is in the largest, which runs in each step.

    Attributes:
        random_subnets: a step, beside the largest and the smallest.
    """

    random_subnets: int = 2

    def subnets(
        self, space: SearchSpace, moment: Moment, rng: np.random.Generator
    ) -> Sequence[Architecture]:
        drawn = space.choices.sample(self.random_subnets, rng)
        return [space.largest(), space.smallest(), *map(space.choices.decode, drawn)]

    def losses(self, turn: Turn) -> Iterator[tuple[Tensor, float]]:
        largest, *students = turn.subnets
        weight = 1 / len(turn.subnets)
        logits = turn.run(largest)
        yield turn.on_labels(logits), weight
        soft = soften(logits)
        for arch in students:
            yield on_soft_labels(turn.run(arch), soft), weight
