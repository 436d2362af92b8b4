"""Predictors of whole networks from their ops: what latency and energy have in common.

Features of a network are the sum of those of its ops, so that a population is predicted by one
matrix product over the distinct layers it is made of. A profile names the form of its predictor;
each quantity has a registry of its forms.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from hw_profiles.errors import ProfileError
from hw_profiles.op import Op
from hw_profiles.profile import DeviceProfile, NetworkModel
from predictors.op_time import Array

AGAIN = "Make it anew with `nas profile`, or name a device from `nas targets`."


class NetworkPredictor(ABC):
    """Predicts one quantity of whole networks on one device in one runtime.

    Attributes:
        n_features: features of an op, and of a network.
        coverage: stated share of networks whose value is at most the upper one.
        provenance: where the figures come from, one readable line.
    """

    n_features: int
    coverage: float
    provenance: str

    @abstractmethod
    def op_features(self, ops: Sequence[Op]) -> Array:
        """Additive features, shape (n_ops, n_features).

        Raises:
            ProfileError: if the profile says nothing about one of the ops.
        """

    @abstractmethod
    def predict(self, features: Array) -> tuple[Array, Array]:
        """The quantity and its upper bound, each (n,), from summed features (n, n_features)."""


Predictor = TypeVar("Predictor", bound=NetworkPredictor)
Factory = Callable[[DeviceProfile, NetworkModel], Predictor]


class NetworkForms(Generic[Predictor]):
    """The forms of one quantity, by the names that profiles use.

    Args:
        what: the model of a profile that names them, for messages.
        modules: that register forms, imported when a profile first asks for one they may hold.
    """

    def __init__(self, what: str, modules: Sequence[str]) -> None:
        self.what = what
        self._modules = list(modules)
        self._forms: dict[str, Factory[Predictor]] = {}

    def register(self, name: str) -> Callable[[Factory[Predictor]], Factory[Predictor]]:
        """Decorator: make a predictor known under a name."""

        def add(factory: Factory[Predictor]) -> Factory[Predictor]:
            self._forms[name] = factory
            return factory

        return add

    def make(self, profile: DeviceProfile, model: NetworkModel) -> Predictor:
        """The predictor that a model of a profile asks for.

        Raises:
            ProfileError: if its form is unknown, or its numbers are broken.
        """
        if model.form not in self._forms:
            for module in self._modules:
                importlib.import_module(module)
        if model.form not in self._forms:
            known = ", ".join(sorted(self._forms))
            raise ProfileError(f"unknown {self.what} form {model.form!r}; known: {known}.", AGAIN)
        try:
            return self._forms[model.form](profile, model)
        except ProfileError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise ProfileError(
                f"the profile {profile.name!r} has broken numbers in its {self.what} model "
                f"({error}).",
                AGAIN,
            ) from None
