"""The supernet: one set of weights that runs, calibrates and gives out any of its subnets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from search_spaces.elastic.base import Elastic
from search_spaces.elastic.linear import ElasticLinear
from search_spaces.elastic.norm import ElasticBatchNorm2d

if TYPE_CHECKING:
    from search_spaces.space import Architecture, SearchSpace


class Supernet(nn.Module):
    """A weight-sharing network that holds every architecture of a space.

    Args:
        space: whose `slices` say what an architecture activates.
        network: the largest network, made of elastic layers under the module names of the plain
            one: a slice of a parameter here is the parameter of the same name there.
    """

    def __init__(self, space: SearchSpace, network: nn.Module) -> None:
        super().__init__()
        self.space = space
        self.network = network
        self.active: Architecture = space.largest()

    def forward(self, x: Tensor) -> Tensor:
        """The active architecture's output for inputs as the data set gives them."""
        out: Tensor = self.network(self.space.fit_input(self.active, x))
        return out

    def activate(self, arch: Architecture) -> Supernet:
        """Run as this architecture from now on; nothing is copied.

        Raises:
            UsageError: if it is no architecture of the space.
        """
        self.space.choices.encode(arch)
        for name, arguments in self.space.slices(arch).items():
            module = self.network.get_submodule(name)
            if not isinstance(module, Elastic):
                raise TypeError(f"{name} is no elastic layer")
            module.activate(*arguments)
        self.active = dict(arch)
        return self

    @property
    def calibrates(self) -> bool:
        """Whether subnets need statistics of their own before they are evaluated."""
        return any(isinstance(module, ElasticBatchNorm2d) for module in self.modules())

    def calibrate(self, batches: Iterable[Tensor]) -> Supernet:
        """Collect the active subnet's batch-norm statistics (once-for-all, arXiv:1908.09791).

        The statistics belong to the active subnet at its resolution alone, and are forgotten when
        another is activated; the shared running buffers are left as they are. Without batch norms
        nothing is done.

        Args:
            batches: training inputs as the data set gives them, without augmentation, each batch
                large, for the variance is the mean of the batches'.
        """
        norms = [module for module in self.modules() if isinstance(module, ElasticBatchNorm2d)]
        if not norms:
            return self
        training = self.training
        self.eval()
        for norm in norms:
            norm.collect()
        try:
            with torch.no_grad():
                for batch in batches:
                    self(batch)
        finally:
            for norm in norms:
                norm.settle()
            self.train(training)
        return self

    @property
    def calibrated(self) -> bool:
        """Whether the active subnet has statistics of its own, or needs none."""
        return all(own is not None for _, own in self._statistics())

    def adopt_statistics(self, other: Supernet) -> Supernet:
        """Use the statistics that another copy of this supernet collected, in this one's type."""
        for (norm, _), (_, own) in zip(self._statistics(), other._statistics(), strict=True):
            if own is not None:
                norm._own = (own[0].to(norm.weight.dtype), own[1].to(norm.weight.dtype))
        return self

    def linears(self, names: tuple[str, ...]) -> list[ElasticLinear]:
        """The elastic linear layers of these module names."""
        found = [self.network.get_submodule(name) for name in names]
        return [module for module in found if isinstance(module, ElasticLinear)]

    def extract(self, arch: Architecture) -> nn.Module:
        """A plain network with contiguous copies of the weights, in this one's mode and type.

        The active architecture keeps its calibrated statistics, and gives them to the copy; any
        other is given the shared ones, so calibrate first, then extract.
        """
        if arch != self.active:
            before, statistics = self.active, self._statistics()
            plain = self.activate(arch).extract(arch)
            self.activate(before)
            for norm, own in statistics:
                norm._own = own
            return plain
        plain = self.space.build(arch)
        wanted = plain.state_dict()
        owned = self.network.state_dict()  # of layers that are not elastic
        owned |= {
            f"{name}.{key}": value
            for name, module in self.network.named_modules()
            if isinstance(module, Elastic)
            for key, value in module.active_state().items()
        }
        state = {  # layers that do not exist here own slices too: only what is wanted
            name: owned[name].detach().clone(memory_format=torch.contiguous_format)
            for name in wanted
        }
        some = next(self.parameters())
        plain.to(device=some.device, dtype=some.dtype).load_state_dict(state)
        return plain.train(self.training)

    def _statistics(self) -> list[tuple[ElasticBatchNorm2d, tuple[Tensor, Tensor] | None]]:
        norms = [module for module in self.modules() if isinstance(module, ElasticBatchNorm2d)]
        return [(norm, norm._own) for norm in norms]
