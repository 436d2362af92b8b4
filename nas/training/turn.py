"""What a recipe sees of one step: some examples, the supernet to run on them, its helpers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.training.recipe import Moment
from search_spaces.elastic import Supernet
from search_spaces.space import Architecture


def precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Mixed precision where the device has it: bfloat16 operators on a GPU, float32 weights."""
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext()


@dataclass(frozen=True)
class Turn:
    """A batch, or a part of one where gradients are accumulated.

    Attributes:
        network: in training mode.
        helpers: of the recipe.
        moment: where the training stands.
        subnets: that this update of the step trains.
        inputs: prepared, augmented.
        labels: (n,), or (n, length) of text.
        label_smoothing: of the recipe.
        kept: what a step's updates hand on to the next ones, such as soft labels of the inputs.
    """

    network: Supernet
    helpers: Mapping[str, nn.Module]
    moment: Moment
    subnets: Sequence[Architecture]
    inputs: Tensor
    labels: Tensor
    label_smoothing: float
    kept: dict[str, Tensor] = field(default_factory=dict)

    def run(self, arch: Architecture, inputs: Tensor | None = None) -> Tensor:
        """A subnet's logits, in float32."""
        given = self.inputs if inputs is None else inputs
        with precision(given.device):
            logits: Tensor = self.network.activate(arch)(given)
        return logits.float()

    def on_labels(self, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """Cross entropy with the labels, averaged over examples and positions."""
        wanted = self.labels if labels is None else labels
        return F.cross_entropy(
            logits.flatten(0, -2), wanted.flatten(), label_smoothing=self.label_smoothing
        )


def soften(logits: Tensor) -> Tensor:
    """A teacher's probabilities, at temperature 1; no gradient flows through them."""
    return logits.detach().softmax(dim=-1)


def on_soft_labels(logits: Tensor, soft: Tensor) -> Tensor:
    """Cross entropy with a teacher's probabilities, averaged over examples and positions."""
    return F.cross_entropy(logits.flatten(0, -2), soft.flatten(0, -2))
