"""Budgets: limits on what a candidate may cost, parsed from what users type."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nas.errors import UsageError, nearest
from nas.target_names import PER_TARGET, at

_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}

# quantity -> (unit that it is kept in, factor of each unit that may be typed)
QUANTITIES: dict[str, tuple[str, dict[str, float]]] = {
    "latency": ("ms", {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}),
    "energy": ("mJ", {"nj": 1e-6, "uj": 1e-3, "µj": 1e-3, "mj": 1.0, "j": 1e3}),
    "memory": ("bytes", _BYTES),
    "weights": ("bytes", _BYTES),
    "params": ("", {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}),
    "macs": ("", {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}),
}

# quantity -> the column of the cost table it limits; predictions are judged at their upper bound
COLUMNS = {
    "latency": "latency_ms_upper",
    "energy": "energy_mj_upper",
    "memory": "memory_bytes",
    "weights": "weight_bytes",
    "params": "params",
    "macs": "macs",
}

# quantity -> units that a value is shown in, the largest first, and their size
_SHOWN_BYTES = ((" GiB", 2.0**30), (" MiB", 2.0**20), (" KiB", 2.0**10), (" B", 1.0))
_SHOWN_COUNT = (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))
_SHOWN: dict[str, tuple[tuple[str, float], ...]] = {
    "latency": ((" ms", 1.0), (" us", 1e-3)),
    "energy": ((" J", 1e3), (" mJ", 1.0), (" uJ", 1e-3), (" nJ", 1e-6)),
    "memory": _SHOWN_BYTES,
    "weights": _SHOWN_BYTES,
    "params": _SHOWN_COUNT,
    "macs": _SHOWN_COUNT,
}

_PATTERN = re.compile(
    r"^(?:(?P<name>[a-z_]+)\s*(?P<sign><=?|=|>=?)\s*)?(?P<number>[-+]?[\d.,]+(?:e[-+]?\d+)?)\s*(?P<unit>[a-zµ]*)"
    r"(?P<relative>\s*\*\s*max)?$",
    re.IGNORECASE,
)
_EXAMPLES = "Write for instance 5ms, energy<=20mJ, params<=6M, memory<=320KiB or latency<=0.5*max."


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit on one quantity.

    Attributes:
        quantity: a key of `QUANTITIES`.
        limit: in the quantity's own unit (ms, mJ, bytes, plain), or a share of the space's largest.
        relative: whether `limit` is a share of the largest candidate's value.
        target: on which of several targets; None where there is one, or on all alike.
    """

    quantity: str
    limit: float
    relative: bool = False
    target: str | None = None

    @property
    def column(self) -> str:
        """The cost that must not exceed the limit."""
        return at(COLUMNS[self.quantity], self.target)

    def resolved(self, largest: float) -> Budget:
        """The absolute budget, given the largest candidate's value."""
        if not self.relative:
            return self
        return replace(self, limit=self.limit * largest, relative=False)

    def __str__(self) -> str:
        if self.relative:
            text = f"{self.quantity}<={self.limit:g}*max"
        else:
            limit = format_quantity(self.quantity, self.limit).replace(" ", "")
            text = f"{self.quantity}<={limit}"
        return text if self.target is None else f"{self.target}:{text}"


def parse_budget(text: str) -> Budget:
    """A budget from what a user typed, on whatever target.

    Raises:
        UsageError: if it does not parse, lacks its unit, or limits nothing that exists.

    >>> parse_budget("5ms")
    Budget(quantity='latency', limit=5.0, relative=False, target=None)
    >>> str(parse_budget("memory <= 320 KiB"))
    'memory<=320KiB'
    >>> parse_budget("latency<=0.5*max").relative
    True
    """
    match = _PATTERN.match(text.strip())
    if not match:
        raise UsageError(f"cannot read the budget {text!r}.", _EXAMPLES)
    if match["sign"] in (">", ">="):
        raise UsageError(f"the budget {text!r} is no upper limit.", _EXAMPLES)
    unit = match["unit"].lower().replace("\u03bc", "µ")  # the Greek letter stands for it
    name = (match["name"] or _quantity_of(unit, text)).lower()
    if name not in QUANTITIES:
        raise UsageError(
            f"the budget {text!r} limits nothing known.", nearest(name, QUANTITIES, "quantity").hint
        )
    try:
        number = float(match["number"])
    except ValueError:
        hint = f"Write a decimal point, no commas. {_EXAMPLES}" if "," in text else _EXAMPLES
        raise UsageError(f"cannot read the number in the budget {text!r}.", hint) from None
    if not 0 < number < math.inf:
        raise UsageError(f"the budget {text!r} must be finite and more than zero.", _EXAMPLES)
    if match["relative"]:
        if unit:
            raise UsageError(f"a share of the largest has no unit: {text!r}.", _EXAMPLES)
        return Budget(name, number, relative=True)
    factors = QUANTITIES[name][1]
    if unit not in factors:
        units = ", ".join(u for u in factors if u)
        what = f"has no unit {match['unit']!r}" if unit else "needs a unit"
        raise UsageError(f"{name} {what} in the budget {text!r}.", f"Give one of {units}.")
    # Rounded, so that 2300us and 2.3ms are one limit.
    return Budget(name, float(f"{number * factors[unit]:.12g}"))


def _quantity_of(unit: str, text: str) -> str:
    """The quantity that a bare number with a unit means: the only one that has the unit."""
    if not unit:
        raise UsageError(f"the budget {text!r} has no unit.", _EXAMPLES)
    named = [name for name, (_, factors) in QUANTITIES.items() if unit in factors]
    if len(named) == 1:
        return named[0]
    if not named:
        raise UsageError(f"there is no unit {unit!r} (in the budget {text!r}).", _EXAMPLES)
    raise UsageError(f"the budget {text!r} does not say what it limits.", _EXAMPLES)


def parse_budgets(texts: Iterable[str], targets: Sequence[str] = ()) -> tuple[Budget, ...]:
    """Several budgets, at most one a quantity and target, in the order of `QUANTITIES`.

    Args:
        texts: as typed; `a100:5ms` is of that target. Of several targets, one without a name is
            of each, unless it limits what is the same on all.
        targets: what those of the search are called.

    Raises:
        UsageError: as `parse_budget`, or if a quantity is limited twice.
        NotFoundError: if a budget is of another target.

    >>> [str(b) for b in parse_budgets(["a100:5ms", "cpu:20ms", "params<=6M"], ["a100", "cpu"])]
    ['a100:latency<=5ms', 'cpu:latency<=20ms', 'params<=6M']
    >>> [str(b) for b in parse_budgets(["5ms"], ["a100", "cpu"])]
    ['a100:latency<=5ms', 'cpu:latency<=5ms']
    """
    found: dict[str, Budget] = {}
    for text in texts:
        for budget in _on_targets(text, targets):
            if budget.column in found:
                where = "" if budget.target is None else f" on {budget.target}"
                raise UsageError(
                    f"{budget.quantity} is limited twice{where}.", "Give each budget once."
                )
            found[budget.column] = budget
    columns = [at(c, target) for c in COLUMNS.values() for target in (None, *targets)]
    return tuple(found[column] for column in columns if column in found)


def _on_targets(text: str, targets: Sequence[str]) -> list[Budget]:
    """The budget on its target, or on each that it is of."""
    name, colon, rest = text.partition(":")
    budget = parse_budget(rest if colon else text)
    if colon and name.strip() not in targets:
        raise nearest(name.strip(), targets, "target of this search")
    if len(targets) < 2:
        return [budget]
    if budget.quantity in PER_TARGET:
        return [replace(budget, target=t) for t in ([name.strip()] if colon else targets)]
    if colon:
        raise UsageError(
            f"{budget.quantity} is the same on every target.", f"Write {rest.strip()} alone."
        )
    return [budget]


def format_quantity(quantity: str, value: float) -> str:
    """A value with the unit that makes it short to read.

    >>> format_quantity("latency", 0.0523), format_quantity("memory", 327680)
    ('52.3 us', '320 KiB')
    >>> format_quantity("params", 5_700_000), format_quantity("energy", 0.25)
    ('5.7M', '250 uJ')
    """
    unit, factor = shown_in(quantity, value)
    if unit in ("", " B"):  # whole ones
        return f"{value:.0f}{unit}"
    return f"{_digits(value / factor)}{unit}"


def rounded_up(quantity: str, value: float) -> float:
    """A value a little above, of three digits in the unit that it is shown in.

    A budget of it, as it is shown, is met by the value.

    >>> rounded_up("latency", 0.05231), format_quantity("memory", rounded_up("memory", 25_097))
    (0.0524, '24.6 KiB')
    """
    factor = shown_in(quantity, value)[1]
    shown = value / factor
    step = 10.0 ** (math.floor(math.log10(shown)) - 2)
    return float(f"{math.ceil(shown / step * (1 + 1e-9)) * step:.3g}") * factor


def shown_in(quantity: str, value: float) -> tuple[str, float]:
    """The unit that a value is shown in, the largest that leaves it at 1 or above, and its size."""
    units = _SHOWN[quantity]
    return next(((u, f) for u, f in units if value >= 0.9995 * f), units[-1])


def _digits(value: float) -> str:
    """Three significant digits, without a useless tail."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"
