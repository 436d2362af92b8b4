"""Time of an op from its shape on a known device: the registry of functional forms, and their use.

A form is a scikit-learn style estimator whose fitted state is a few plain numbers, so that a
device profile can carry it as JSON.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hw_profiles.errors import ProfileError
from hw_profiles.op import Op
from hw_profiles.profile import DeviceProfile, OpModel

Array = NDArray[np.float64]
Params = dict[str, float | list[float]]
#: Between these is every op of a network, and sums of them stay numbers; so wide no bound gets, how
#: many octaves outside of what was timed it is asked for.
POSSIBLE_MS, POSSIBLE_RATIOS = (1e-9, 1e30), (1.0, 1e30)


class OpForm(ABC):
    """Time of one op kind at one precision as a function of its shape fields.

    Shapes are arrays of one row an op and one column a field of the kind
    (`hw_profiles.op.KINDS`), in that order. A form that is fitted adds `fit(X, y)`.
    """

    @abstractmethod
    def predict(self, X: Array) -> Array:
        """Milliseconds, shape (n,), all positive."""

    @abstractmethod
    def upper_ratio(self, X: Array) -> Array:
        """One-sided upper bound over prediction, at least 1, shape (n,)."""

    @abstractmethod
    def to_params(self) -> Params:
        """The fitted state as plain numbers."""

    @classmethod
    @abstractmethod
    def from_params(cls, params: Params) -> OpForm:
        """Rebuild what `to_params` gave; its predictions are identical.

        Raises:
            KeyError, TypeError, ValueError: if the numbers are not those of this form.
        """


FORMS: dict[str, type[OpForm]] = {}
# Modules that register forms, imported when a profile first asks for one.
FORM_MODULES: list[str] = [
    "predictors.roofline_time",
    "predictors.gemm_time",
    "predictors.attention_time",
    "predictors.unseen_gemm",
]
_Form = TypeVar("_Form", bound=type[OpForm])


def register_form(name: str) -> Callable[[_Form], _Form]:
    """Class decorator: make an `OpForm` known under the name that profiles use."""

    def register(form: _Form) -> _Form:
        FORMS[name] = form
        return form

    return register


def form_class(name: str) -> type[OpForm]:
    """The form of that name.

    Raises:
        ProfileError: if there is none.
    """
    if name not in FORMS:
        for module in FORM_MODULES:
            importlib.import_module(module)
    if name not in FORMS:
        raise ProfileError(
            f"unknown form {name!r} of an op model; known: {', '.join(sorted(FORMS))}.",
            "The profile may be of a newer version: upgrade the program or make it anew.",
        )
    return FORMS[name]


def number(params: Params, key: str) -> float:
    """One number of a form's parameters.

    Raises:
        KeyError: if it is missing.
        TypeError: if it is a list.
    """
    value = params[key]
    if isinstance(value, list):
        raise TypeError(f"{key} must be one number")
    return float(value)


def numbers(params: Params, key: str) -> Array:
    """A list of numbers of a form's parameters, shape (n,).

    Raises:
        KeyError: if it is missing.
        TypeError: if it is no list.
    """
    value = params[key]
    if not isinstance(value, list):
        raise TypeError(f"{key} must be a list of numbers")
    return np.asarray(value, np.float64)


class OpTimes:
    """Predicted times of any ops on the device of a profile.

    Linear ops are looked up at their own precision, all others at the runtime's native one, in
    which they run.

    Raises:
        ProfileError: if an op model of the profile has an unknown form or broken parameters, here,
            or where its times are asked for.
    """

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile
        self._forms = {(m.kind, m.precision): _load(m, profile.name) for m in profile.op_models}

    def predict_ms(self, ops: Sequence[Op]) -> Array:
        """Milliseconds of every op, shape (n_ops,).

        Raises:
            ProfileError: if the profile has no model for one of them.
        """
        return self._apply(ops, lambda form, shapes: form.predict(shapes), POSSIBLE_MS)

    def upper_ratio(self, ops: Sequence[Op]) -> Array:
        """Upper bound over prediction of every op, at least 1, shape (n_ops,).

        Raises:
            ProfileError: if the profile has no model for one of them.
        """
        return self._apply(ops, lambda form, shapes: form.upper_ratio(shapes), POSSIBLE_RATIOS)

    def _apply(
        self,
        ops: Sequence[Op],
        compute: Callable[[OpForm, Array], Array],
        limits: tuple[float, float],
    ) -> Array:
        groups: dict[tuple[str, str], list[int]] = {}
        for i, op in enumerate(ops):
            groups.setdefault((op.kind, op.precision), []).append(i)
        out = np.empty(len(ops), np.float64)
        for (kind, precision), indices in groups.items():
            shapes = np.array([ops[i].shape for i in indices], np.float64)
            with np.errstate(all="ignore"):  # what is no number is refused here
                found = compute(self._form(kind, precision), shapes)
            if not np.all((found >= limits[0]) & (found <= limits[1])):
                raise _broken(self.profile.name, kind, precision, "they give times that are none")
            out[indices] = found
        return out

    def _form(self, kind: str, precision: str) -> OpForm:
        if kind != "linear":
            precision = self.profile.runtime.native
        form = self._forms.get((kind, precision))
        if form is None:
            raise ProfileError(
                f"the profile {self.profile.name!r} has no time for {kind} in {precision}.",
                f"It offers {', '.join(self.profile.precisions)}; measure the device anew with "
                "`nas profile`.",
            )
        return form


def _load(model: OpModel, profile_name: str) -> OpForm:
    form = form_class(model.form)
    try:
        return form.from_params(model.params)
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(profile_name, model.kind, model.precision, str(error)) from None


def _broken(profile_name: str, kind: str, precision: str, why: str) -> ProfileError:
    return ProfileError(
        f"the profile {profile_name!r} has broken numbers for {kind} in {precision} ({why}).",
        "Make it anew with `nas profile`, or name a device from `nas targets`.",
    )
