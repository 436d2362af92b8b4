"""Two-stage distillation: the largest subnet first; then random ones, which it teaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.training.fields import FROM_ONE, FROM_ZERO, Allowed, Numbers
from nas.training.recipe import Moment, Recipe, Stage, register_recipe
from nas.training.teacher import Teacher
from nas.training.turn import Turn, on_soft_labels, precision, soften
from search_spaces.elastic import Supernet
from search_spaces.space import Architecture, SearchSpace

if TYPE_CHECKING:
    from nas.training.learner import Learner


@runtime_checkable
class Masking(Protocol):
    """A network that tells its last layer's states, of an input of which frames may be hidden."""

    def states(self, waveforms: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, ...), hidden frames bool (batch, frames) -> (batch, frames, width)."""


@register_recipe("two-stage-distillation", "largest first; then random subnets, taught by it")
@dataclass(frozen=True)
class TwoStageDistillation(Recipe):
    """Training in two stages after LightHuBERT (arXiv:2203.15610).

    First the largest subnet learns the labels. Then a frozen copy of it teaches one random subnet
    a step, which learns the labels, the teacher's soft labels and, where the network can hide
    frames of its input, the teacher's states: the subnet sees a part of the frames, the teacher
    all; at the hidden ones a linear map without bias, trained along, must lead from the subnet's
    last states to the teacher's, each normalised over its features. Its error is squared, averaged
    over features and hidden frames.

    Gradient scale: a step's losses are SUMMED with their weights, each a mean over the examples;
    there is one subnet a step.

    Not as published: there the teacher is HuBERT, whose states the full-size student learns
    without any labels in the first stage, and the subnets in the second; its loss and length are
    not in the published program. Here the teacher is the network's own first stage, for data that
    no large network was trained for, and the subnets must end as classifiers. A second, unmasked
    run a step is the price. Masks are HuBERT's (arXiv:2106.07447) with shorter spans, for 20
    frames rather than hundreds; there spans have 10 frames.

    Attributes:
        first: share of the training that is the first stage.
        soft_labels: weight of the teacher's labels.
        regression: weight of the states' error.
        masked: share of the frames that the spans add up to; as they overlap, fewer are hidden.
        span: frames that are hidden in a row.
    """

    allowed: ClassVar[Mapping[str, Allowed]] = {
        **Recipe.allowed,
        "first": Numbers(above=0, below=1),
        "soft_labels": FROM_ZERO,
        "regression": FROM_ZERO,
        "masked": Numbers(above=0, most=1),
        "span": FROM_ONE,
    }

    first: float = 0.4
    soft_labels: float = 1.0
    regression: float = 1.0
    masked: float = 0.65
    span: int = 3

    def stages(self, space: SearchSpace | None = None) -> tuple[Stage, ...]:
        return (Stage("largest", self.first), Stage("subnets", 1 - self.first))

    def helpers(self, network: Supernet) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {"teacher": Teacher(network).eval()}
        if isinstance(network.network, Masking):
            with torch.no_grad():
                example = network.space.example(network.active)
                width = network.network.states(example.to(_device(network))).shape[-1]
            found["prediction"] = nn.Linear(width, width, bias=False)
        return found

    def begin_stage(self, moment: Moment, learner: Learner) -> None:
        teacher = learner.helpers["teacher"]
        assert isinstance(teacher, Teacher)
        if moment.stage.name == "subnets":
            teacher.take(learner)

    def subnets(
        self, space: SearchSpace, moment: Moment, rng: np.random.Generator
    ) -> Sequence[Architecture]:
        if moment.stage.name == "largest":
            return [space.largest()]
        return [space.choices.decode(space.choices.sample(1, rng)[0])]

    def losses(self, turn: Turn) -> Iterator[tuple[Tensor, float]]:
        (arch,) = turn.subnets
        logits = turn.run(arch)
        if turn.moment.stage.name == "largest":
            yield turn.on_labels(logits), 1.0
            return
        teacher = turn.helpers["teacher"]
        assert isinstance(teacher, Teacher)
        taught = teacher.run(turn.network.space.largest(), turn.inputs)
        yield (
            turn.on_labels(logits) + self.soft_labels * on_soft_labels(logits, soften(taught)),
            1.0,
        )
        if "prediction" in turn.helpers:
            yield self._regression(turn, arch, teacher), self.regression

    def _regression(self, turn: Turn, arch: Architecture, teacher: Teacher) -> Tensor:
        """Squared error of the states that are predicted at hidden frames."""
        student = turn.network.activate(arch)
        assert isinstance(student.network, Masking)
        assert isinstance(teacher.network.network, Masking)
        with precision(turn.inputs.device):
            with torch.no_grad():
                wanted = teacher.network.network.states(turn.inputs).float()
            batch, frames, _ = wanted.shape
            mask = spans(batch, frames, self.masked, self.span).to(wanted.device)
            states = student.network.states(turn.inputs, mask).float()
        prediction = turn.helpers["prediction"]
        assert isinstance(prediction, nn.Linear)
        predicted = F.linear(states, prediction.weight[:, : states.shape[-1]])
        error = (predicted - F.layer_norm(wanted, wanted.shape[-1:])).square().mean(-1)
        # Within each example first: all count alike, however many of their frames are hidden.
        return ((error * mask).sum(1) / mask.sum(1)).mean()


def spans(batch: int, frames: int, share: float, span: int) -> Tensor:
    """Frames to hide: spans at random places, at least one an example; they may overlap.

    Args:
        batch: examples.
        frames: of each.
        share: of the frames that the spans add up to.
        span: frames in a row; all, if there are not so many.

    Returns:
        bool (batch, frames).
    """
    span = min(span, frames)
    n = max(round(share * frames / span), 1)
    starts = torch.randint(frames - span + 1, (batch, n, 1))
    places = torch.arange(frames)
    return ((starts <= places) & (places < starts + span)).any(1)


def _device(network: Supernet) -> torch.device:
    return next(network.parameters()).device
