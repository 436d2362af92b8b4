"""What a training changes: weights, helpers, the optimizer's moments, and the weights' average."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import CheckpointError
from nas.training.checkpoint import check_tensors
from nas.training.lazy_adamw import LazyAdamW
from nas.training.permutation import orders_after
from nas.training.recipe import Recipe
from search_spaces.elastic import Supernet, set_drop_path


class Learner:
    """A supernet that is being trained, with all that must be kept to continue.

    Args:
        network: to train.
        helpers: of the recipe; those parameters of them that want gradients are trained too.
        recipe: whose optimizer it is.
    """

    def __init__(self, network: Supernet, helpers: Mapping[str, nn.Module], recipe: Recipe) -> None:
        self.network = network
        self.helpers = nn.ModuleDict(helpers)
        self.recipe = recipe
        set_drop_path(network, recipe.drop_path)
        named = [*network.named_parameters(), *self.helpers.named_parameters("helpers")]
        self.parameters = {name: p for name, p in named if p.requires_grad}
        self.decayed = [
            p for n, p in self.parameters.items() if n.endswith("weight") and p.ndim > 1
        ]
        self.average: dict[str, Tensor] = {}
        self.updates = 0
        if recipe.ema:
            self.average = {name: tensor.clone() for name, tensor in self._numbers().items()}
        self.restart()

    def _numbers(self) -> dict[str, Tensor]:
        """What an average is kept of: weights, and the statistics of batch norms beside them."""
        state = self.network.state_dict()
        return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}

    def restart(self) -> None:
        """Forget the optimizer's moments."""
        known = set(self.decayed)
        groups: list[dict[str, Any]] = [
            {"params": self.decayed, "weight_decay": self.recipe.weight_decay},
            {
                "params": [p for p in self.parameters.values() if p not in known],
                "weight_decay": 0.0,
            },
        ]
        rate = self.recipe.learning_rate
        self.optimizer: torch.optim.Optimizer
        if self.recipe.optimizer == "sgd":
            momentum = self.recipe.momentum
            self.optimizer = torch.optim.SGD(groups, rate, momentum, nesterov=momentum > 0)
        elif self.recipe.optimizer == "lazy-adamw":
            self.optimizer = LazyAdamW(groups, rate, self.recipe.betas)
        else:
            # One pass over all weights: a third of the time where they are many and small.
            self.optimizer = torch.optim.AdamW(groups, rate, self.recipe.betas, fused=True)

    def clip(self) -> float:
        """Bound the gradient's norm; returns what it was."""
        limit = self.recipe.clip_norm or float("inf")
        return float(nn.utils.clip_grad_norm_(self.parameters.values(), limit))

    def update(self, rate: float, whole: bool) -> None:
        """One step of the optimizer.

        Weight decay must not shrink what was not trained: a weight outside all of this update's
        subnets gets no gradient that would grow it again. If the largest subnet was among them
        there is none; otherwise a weight decays only where its gradient is not zero. (AdamW's
        moments go on for it as everywhere: they fade in a few steps. Those of the lazy one wait.)

        Args:
            rate: of learning.
            whole: whether the largest subnet was trained in this update.
        """
        decay = self.recipe.weight_decay
        whole = whole or isinstance(self.optimizer, LazyAdamW)  # which looks for itself
        matrices, others = self.optimizer.param_groups
        matrices["lr"] = others["lr"] = rate
        matrices["weight_decay"] = decay if whole else 0.0
        if not whole and decay:
            with torch.no_grad():
                for weight in self.decayed:
                    if weight.grad is None:
                        continue
                    shrunk = weight * (weight.grad != 0)
                    if self.recipe.optimizer == "sgd":  # the published, coupled form
                        weight.grad.add_(shrunk, alpha=decay)
                    else:
                        weight.sub_(shrunk, alpha=rate * decay)
        self.optimizer.step()
        self._follow()

    def _follow(self) -> None:
        if not self.average:
            return
        self.updates += 1
        # Early weights are far from the last ones: the average begins short.
        decay = min(self.recipe.ema, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            for name, tensor in self._numbers().items():
                self.average[name].lerp_(tensor, 1 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The network with averaged weights, where the recipe has them, while this lasts."""
        own = {n: t.clone() for n, t in self._numbers().items() if self.average}
        self._copy(self.average)
        try:
            yield
        finally:
            self._copy(own)

    def finish(self) -> Supernet:
        """The network as it is kept: in evaluation mode on the processor, its largest active."""
        self._copy(self.average)
        return self.network.activate(self.network.space.largest()).eval().cpu()

    @torch.no_grad()
    def _copy(self, weights: Mapping[str, Tensor]) -> None:
        own = self._numbers()
        for name, weight in weights.items():
            own[name].copy_(weight)

    @torch.no_grad()
    def sort(self, trained: int = 0) -> tuple[str, ...]:
        """Put the most important units first, in weights, moments and average alike.

        Args:
            trained: how many of the smaller widths are trained; see `SearchSpace.sort`.

        Returns:
            what was sorted; nothing where the space learns its order.
        """
        shadow = copy.deepcopy(self.network.network)
        sort = partial(self.network.space.sort, trained=trained)
        orders, sorted_ = orders_after(shadow, sort)
        state = self.network.network.state_dict(keep_vars=True)
        for name, order in orders.items():
            tensor = state[name]
            followers = [tensor]
            if isinstance(tensor, nn.Parameter):
                moments = self.optimizer.state.get(tensor, {}).values()
                followers += [m for m in moments if isinstance(m, Tensor) and m.ndim]
            if self.average:
                followers.append(self.average[f"network.{name}"])
            for follower in followers:
                follower.copy_(follower.flatten()[order].view_as(follower))
        return sorted_

    # --- state ----------------------------------------------------------------------------------

    def _modules(self) -> dict[str, Tensor]:
        state = {f"weights.{n}": t for n, t in self.network.state_dict().items()}
        state |= {f"helpers.{n}": t for n, t in self.helpers.state_dict().items()}
        return state | {f"average.{n}": t for n, t in self.average.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All that is needed to continue, by name."""
        state = self.optimizer.state
        return self._modules() | {
            f"optimizer.{name}.{moment}": value
            for name, parameter in self.parameters.items()
            for moment, value in state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    @torch.no_grad()
    def load(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` gave.

        Args:
            path: that they were read from, for messages.
            tensors: by name.

        Raises:
            CheckpointError: if they are of another network, recipe or optimizer.
        """
        own = self._modules()
        moments = {n: t for n, t in tensors.items() if n.startswith("optimizer.")}
        check_tensors(path, {n: t for n, t in tensors.items() if n not in moments}, own)
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        for name, value in moments.items():
            parameter, _, moment = name.removeprefix("optimizer.").rpartition(".")
            weight = self.parameters.get(parameter)
            if weight is None or value.shape not in (weight.shape, torch.Size([])):
                raise CheckpointError(f"{path} has a foreign {name}.", "Delete it to start anew.")
            own_moments = self.optimizer.state[weight]
            if moment in own_moments:
                own_moments[moment].copy_(value)
            else:
                own_moments[moment] = value.to(weight.device, copy=True)
