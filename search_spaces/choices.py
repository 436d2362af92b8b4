"""Choices of a search space as one integer genome: activity, identity, sampling, counting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hw_profiles.errors import UsageError, nearest

Value = int | float | str
Genomes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Condition:
    """A choice exists only where another choice has one of these values."""

    choice: str
    values: frozenset[Value]


@dataclass(frozen=True, slots=True)
class Choice:
    """One named choice.

    Args:
        name: unique in its space, such as `layers.3.heads`.
        values: from smallest to largest where there is an order.
        active: when the choice exists; None means always.
        ordinal: whether neighbouring values are alike (a width), or merely different (a scheme).
    """

    name: str
    values: tuple[Value, ...]
    active: Condition | None = None
    ordinal: bool = True


@dataclass(frozen=True)
class ChoiceSet:
    """An ordered set of choices; a genome is one index into the values of each.

    A choice that is not active is not a degree of freedom: it is 0 in a canonical genome and
    counts for nothing in keys, encodings and the cardinality. A condition names an earlier choice.

    Shapes: `genomes` are (n, genes) int64 throughout.

    >>> depth = Choice("depth", (1, 2))
    >>> heads = Choice("layers.1.heads", (2, 4), Condition("depth", frozenset({2})))
    >>> ChoiceSet((depth, heads)).cardinality()
    3
    """

    choices: tuple[Choice, ...]
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index: dict[str, int] = {}
        for i, choice in enumerate(self.choices):
            if choice.name in index or len(set(choice.values)) != len(choice.values):
                raise ValueError(f"choice {choice.name!r} or one of its values stands twice")
            if not choice.values:
                raise ValueError(f"choice {choice.name!r} has no values")
            if choice.active is not None:
                parent = index.get(choice.active.choice)
                if parent is None:
                    raise ValueError(f"{choice.name!r} depends on no earlier choice")
                if not choice.active.values <= set(self.choices[parent].values):
                    raise ValueError(f"{choice.name!r} depends on a value that does not exist")
            index[choice.name] = i
        object.__setattr__(self, "_index", index)

    def __len__(self) -> int:
        return len(self.choices)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in genome order."""
        return tuple(c.name for c in self.choices)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Number of values of each gene, (genes,)."""
        return np.array([len(c.values) for c in self.choices], dtype=np.int64)

    def index(self, name: str) -> int:
        """Position of a choice in the genome.

        Raises:
            NotFoundError: if there is no such choice.
        """
        if name not in self._index:
            raise nearest(name, self.names, "choice")
        return self._index[name]

    @cached_property
    def _conditions(self) -> list[tuple[int, int, NDArray[np.bool_]]]:
        """(gene, parent gene, which parent values activate it)."""
        found = []
        for i, choice in enumerate(self.choices):
            if choice.active is not None:
                parent = self._index[choice.active.choice]
                allowed = np.array(
                    [v in choice.active.values for v in self.choices[parent].values], dtype=bool
                )
                found.append((i, parent, allowed))
        return found

    def active(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Which genes exist, (n, genes) bool."""
        mask = np.ones(genomes.shape, dtype=bool)
        for gene, parent, allowed in self._conditions:
            mask[:, gene] = mask[:, parent] & allowed[genomes[:, parent]]
        return mask

    def canonical(self, genomes: Genomes) -> Genomes:
        """The genomes with every inactive gene set to 0: equal rows are equal candidates."""
        return np.where(self.active(genomes), genomes, 0)

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        """`n` canonical genomes, every gene drawn uniformly; duplicates may occur."""
        return self.canonical(rng.integers(0, self.sizes, size=(n, len(self)), dtype=np.int64))

    def extreme(self, largest: bool) -> Genomes:
        """The genome of all last (or all first) values, (1, genes)."""
        row = self.sizes - 1 if largest else np.zeros(len(self), dtype=np.int64)
        return self.canonical(row[None, :])

    def one_hot(self, genomes: Genomes) -> NDArray[np.float64]:
        """Active-only one-hot code, (n, sum of sizes); an inactive gene is all zeros."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        code = np.zeros((len(genomes), int(self.sizes.sum())))
        rows = np.arange(len(genomes))[:, None]
        code[rows, starts + genomes] = self.active(genomes)
        return code

    def cardinality(self) -> int:
        """Number of distinct canonical genomes, exactly."""
        children: dict[int, list[tuple[int, NDArray[np.bool_]]]] = {}
        roots = set(range(len(self)))
        for gene, parent, allowed in self._conditions:
            children.setdefault(parent, []).append((gene, allowed))
            roots.discard(gene)

        def count(gene: int) -> int:
            total = 0
            for value in range(int(self.sizes[gene])):
                ways = 1
                for child, allowed in children.get(gene, ()):
                    ways *= count(child) if allowed[value] else 1
                total += ways
            return total

        product = 1
        for gene in sorted(roots):
            product *= count(gene)
        return product

    def decode(self, genome: Sequence[int] | NDArray[np.int64]) -> dict[str, Value]:
        """The active part of one genome, as name -> value in genome order."""
        row = self.validate(np.asarray(genome, dtype=np.int64)[None, :])
        mask = self.active(row)[0]
        return {
            c.name: c.values[g] for c, g, on in zip(self.choices, row[0], mask, strict=True) if on
        }

    def encode(self, values: Mapping[str, Value]) -> NDArray[np.int64]:
        """The canonical genome (genes,) of a value for every active choice.

        Raises:
            UsageError: if an active choice is missing, an unknown or inactive one is given, or
                a value is not among the choice's.
        """
        row = np.zeros(len(self), dtype=np.int64)
        unknown = [name for name in values if name not in self._index]
        if unknown:
            raise nearest(unknown[0], self.names, "choice")
        for i, choice in enumerate(self.choices):
            if choice.name in values:
                if values[choice.name] not in choice.values:
                    allowed = ", ".join(map(str, choice.values))
                    raise UsageError(
                        f"{choice.name} cannot be {values[choice.name]!r}.",
                        f"Choose one of {allowed}.",
                    )
                row[i] = choice.values.index(values[choice.name])
        mask = self.active(row[None, :])[0]
        given = np.array([c.name in values for c in self.choices])
        if (wrong := np.flatnonzero(mask != given)).size:
            name = self.names[wrong[0]]
            raise UsageError(
                f"{name} is {'missing' if mask[wrong[0]] else 'given, but not active here'}.",
                "Give a value to every active choice, and to no other.",
            )
        return row

    def validate(self, genomes: Genomes) -> Genomes:
        """The genomes themselves, if each gene is one of its values.

        Raises:
            UsageError: if the shape or an index is out of range.
        """
        if genomes.ndim != 2 or genomes.shape[1] != len(self):
            raise UsageError(
                f"a genome of this space has {len(self)} genes, not {genomes.shape[-1]}.",
                "It was made for another space or preset.",
            )
        if ((genomes < 0) | (genomes >= self.sizes)).any():
            raise UsageError(
                "a gene is outside its choice's values.", "It was made for another space or preset."
            )
        return genomes

    def keys(self, genomes: Genomes) -> list[str]:
        """A short hash of the active part of each genome: the identity of a candidate."""
        return [
            hashlib.sha256(json.dumps(self.decode(row), sort_keys=True).encode()).hexdigest()[:20]
            for row in genomes
        ]
