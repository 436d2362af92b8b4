"""A frozen copy of a supernet as it stood at some moment, that a recipe's students learn from."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nas.training.turn import precision
from search_spaces.elastic import Supernet
from search_spaces.space import Architecture

if TYPE_CHECKING:
    from nas.training.learner import Learner


class Teacher(nn.Module):
    """A helper that holds a second supernet, no parameter of which is trained.

    It is made at the start, so that a checkpoint's weights have a place to go to, and says in
    `ready`, which is kept with them, whether it has taken over what it shall teach.

    Args:
        network: to copy.
    """

    ready: Tensor

    def __init__(self, network: Supernet) -> None:
        super().__init__()
        # The space is not copied: it is only read.
        self.network = copy.deepcopy(network, {id(network.space): network.space})
        self.network.requires_grad_(False)
        self.register_buffer("ready", torch.tensor(0.0))

    @torch.no_grad()
    def take(self, learner: Learner) -> None:
        """Take over the supernet as it stands, its averaged weights where the recipe has them."""
        with learner.averaged():
            self.network.load_state_dict(learner.network.state_dict())
        self.ready.fill_(1)

    @torch.no_grad()
    def run(self, arch: Architecture, inputs: Tensor) -> Tensor:
        """A subnet's logits, in float32, without gradients."""
        with precision(inputs.device):
            logits: Tensor = self.network.activate(arch)(inputs)
        return logits.float()
