"""MatFormer: nested feed-forward granularities, one sampled a step or all four summed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from nas.errors import UsageError
from nas.training.fields import Allowed
from nas.training.recipe import Moment, Recipe, register_recipe
from nas.training.turn import Turn
from search_spaces.choices import ChoiceSet
from search_spaces.space import Architecture, SearchSpace

NESTED = "ffn"


@register_recipe("matformer", "one feed-forward granularity in all layers, sampled or all summed")
@dataclass(frozen=True)
class MatFormer(Recipe):
    """MatFormer training (arXiv:2310.07707), in both forms of its published programs.

    In a subnet every layer has the same feed-forward granularity; mixtures of granularities are
    found afterwards and never trained. There is no distillation. Choices of a space beside the
    granularity, of which the published spaces have none, are drawn anew for each subnet, and are
    the largest where all granularities are trained and this one is the largest.

    Gradient scale: `sampled` has one loss, of weight 1. `summed` SUMS the losses of all
    granularities, as published: the gradient is that many times larger, then clipped once.

    Attributes:
        variant: `sampled` draws one granularity a step, uniformly; `summed` trains all of them.
    """

    allowed: ClassVar[Mapping[str, Allowed]] = {
        **Recipe.allowed,
        "variant": ("sampled", "summed"),
    }

    # Text is read some ten times before the largest subnets learn it by heart.
    epochs: int = 10
    weight_decay: float = 0.1
    variant: str = "sampled"

    def check(self, space: SearchSpace) -> None:
        if not _granularities(space.choices):
            raise UsageError(
                f"{space.name} has no nested feed-forward layers for matformer.",
                f"Train it by --recipe {space.default_recipe}.",
            )

    def subnets(
        self, space: SearchSpace, moment: Moment, rng: np.random.Generator
    ) -> Sequence[Architecture]:
        n = _granularities(space.choices)
        if self.variant == "sampled":
            return [_uniform(space.choices, int(rng.integers(n)), rng)]
        smaller = [_uniform(space.choices, at, rng) for at in reversed(range(n - 1))]
        return [space.largest(), *smaller]

    def losses(self, turn: Turn) -> Iterator[tuple[Tensor, float]]:
        for arch in turn.subnets:
            yield turn.on_labels(turn.run(arch)), 1.0


def _granularities(choices: ChoiceSet) -> int:
    """Values of each nested choice; 0 if there is none."""
    sizes = [len(c.values) for c in choices.choices if c.name.endswith(f".{NESTED}")]
    return min(sizes, default=0)


def _uniform(choices: ChoiceSet, granularity: int, rng: np.random.Generator) -> Architecture:
    """An architecture of one granularity in all layers, the rest drawn."""
    genome = choices.sample(1, rng)
    nested = [i for i, name in enumerate(choices.names) if name.endswith(f".{NESTED}")]
    genome[:, nested] = granularity
    return choices.decode(choices.canonical(genome)[0])
