"""One architecture's plain network in the place of a supernet, trained alone.

`inherited_or_alone.py` compares what it reaches with inherited weights, `step_cost.py` its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from nas.data.dataset import Dataset
from nas.training.distributed import this_device
from nas.training.loop import Job, Progress, Training
from nas.training.recipe import Moment, Recipe
from nas.training.turn import Turn
from search_spaces.elastic import Supernet
from search_spaces.space import Architecture, SearchSpace


class Alone(Supernet):
    """A plain network that answers as a supernet of one subnet does.

    Its batch norms are those of any network: running statistics, right for it.

    Args:
        space: of the architecture.
        arch: that is built, freshly initialised.
    """

    def __init__(self, space: SearchSpace, arch: Architecture) -> None:
        super().__init__(space, space.build(arch))
        self.arch = self.active = dict(arch)

    def activate(self, arch: Architecture) -> Alone:
        """Nothing to do: the one architecture is always active."""
        return self


@dataclass(frozen=True)
class OnLabels(Recipe):
    """One network on the labels, at the recipe's rate, in one stage. One loss, weight 1."""

    arch: tuple[tuple[str, int | float | str], ...] = ()

    def subnets(
        self, space: SearchSpace, moment: Moment, rng: np.random.Generator
    ) -> Sequence[Architecture]:
        return [dict(self.arch)]

    def losses(self, turn: Turn) -> Iterator[tuple[Tensor, float]]:
        yield turn.on_labels(turn.run(dict(self.arch))), 1.0


def alone_recipe(recipe: Recipe, arch: Architecture) -> OnLabels:
    """What is the same in each recipe, for one architecture."""
    shared = {field.name: getattr(recipe, field.name) for field in fields(Recipe)}
    return OnLabels(**shared, arch=tuple(arch.items()))


def fit_alone(
    space: SearchSpace,
    arch: Architecture,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Training:
    """Train one architecture's plain network as the recipe would train the supernet.

    The optimizer, the rate's rise and fall, the examples of a step and their number are the
    recipe's; the loss is that of the labels, in one stage. Its history tells `quality_alone`.
    """
    torch.manual_seed(seed)
    network, own = Alone(space, arch), alone_recipe(recipe, arch)
    job = Job(network, data, own, seed, {"alone": arch}, this_device())
    return job.run(None, progress, None, None)
