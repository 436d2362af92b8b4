"""Genomes as columns of numbers for a kernel or a linear model: active genes, sums over layers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from search_spaces.choices import ChoiceSet

Floats = NDArray[np.float64]
Genes = NDArray[np.int64]


def ladders(choices: ChoiceSet) -> list[Genes]:
    """Genes of the choices that repeat over the layers, in the order of the layers.

    Choices are of one ladder if they have the same values and their names differ in numbers
    alone: `layers.0.ffn`, `layers.1.ffn` and so on.

    >>> from search_spaces.choices import Choice
    >>> names = ("depth", "layers.0.ffn", "layers.0.heads", "layers.1.ffn", "layers.1.heads")
    >>> [genes.tolist() for genes in ladders(ChoiceSet(tuple(Choice(n, (1, 2)) for n in names)))]
    [[1, 3], [2, 4]]
    """
    found: dict[tuple[object, ...], list[int]] = {}
    for gene, choice in enumerate(choices.choices):
        kind = re.sub("[0-9]+", "#", choice.name)
        if kind != choice.name and len(choice.values) > 1:
            found.setdefault((kind, choice.values, choice.ordinal), []).append(gene)
    return [np.array(genes) for genes in found.values() if len(genes) > 1]


@dataclass(frozen=True)
class Encoder:
    """Genomes and features as columns whose weighted squared distance is a kernel's.

    An ordinal gene is one column from 1/size to 1, any other is one-hot; an inactive gene is 0 in
    all its columns. Each ladder adds the sum of its active steps or, where it has no order, how
    often each of its values is active. Sums and features are standardised on the rows that the
    encoder was made from.

    Attributes:
        choices: of the genome.
        ladders: genes that repeat over the layers.
        mean, scale: of the sums and the features, (sums + features,).
    """

    choices: ChoiceSet
    ladders: tuple[Genes, ...]
    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, choices: ChoiceSet, rows: Floats) -> Self:
        """The encoder for rows (n, genes + features)."""
        found = tuple(ladders(choices))
        more = _with_sums(choices, found, rows)
        spread = more.std(axis=0)
        return cls(choices, found, more.mean(axis=0), np.where(spread > 0, spread, 1.0))

    def groups(self) -> Genes:
        """For each column the gene, sum or feature it belongs to, (columns,)."""
        counts = [1 if c.ordinal else len(c.values) for c in self.choices.choices]
        counts += [1] * len(self.mean)
        return np.repeat(np.arange(len(counts)), counts)

    def families(self) -> Genes:
        """For each gene the ladder it is on; one of its own for any other, a sum or a feature."""
        found = np.arange(len(self.choices) + len(self.mean))
        for genes in self.ladders:
            found[genes] = genes[0]
        return found

    def __call__(self, rows: Floats) -> Floats:
        """Rows (n, genes + features) -> (n, columns)."""
        genomes = rows[:, : len(self.choices)].astype(np.int64)
        active = self.choices.active(genomes)
        columns = []
        for g, choice in enumerate(self.choices.choices):
            size = len(choice.values)
            if choice.ordinal:
                columns.append(((genomes[:, g] + 1) / size * active[:, g])[:, None])
            else:
                hot = (genomes[:, g, None] == np.arange(size)) & active[:, g, None]
                columns.append(hot / np.sqrt(2))
        columns.append((_with_sums(self.choices, self.ladders, rows) - self.mean) / self.scale)
        return np.concatenate(columns, axis=1).astype(np.float64)


def _with_sums(choices: ChoiceSet, found: tuple[Genes, ...], rows: Floats) -> Floats:
    """Sums over the ladders, then the features of the rows, (n, sums + features)."""
    genomes = rows[:, : len(choices)].astype(np.int64)
    active = choices.active(genomes)
    sums = []
    for genes in found:
        choice = choices.choices[genes[0]]
        values, on = genomes[:, genes], active[:, genes]
        if choice.ordinal:
            sums.append(((values + 1) * on).sum(axis=1))
        else:
            sums += [((values == v) & on).sum(axis=1) for v in range(len(choice.values))]
    return np.column_stack([*sums, rows[:, len(choices) :]]).astype(np.float64)
