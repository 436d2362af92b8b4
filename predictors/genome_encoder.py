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


class GeneColumns:
    """Genomes as columns of whole numbers, and the sums of the columns over each ladder.

    An ordinal gene is one column, its step from 1; any other has one a value, 1 where it has that
    value. An inactive gene is 0 in all its columns.

    Args:
        choices: of the genome.

    Attributes:
        genes: the gene of each column, (columns,).
        ordinal: whether that gene has an order, (columns,).
        ladders: genes that repeat over the layers.
    """

    def __init__(self, choices: ChoiceSet) -> None:
        self.choices = choices
        self.ladders = tuple(ladders(choices))
        widths = np.array([1 if c.ordinal else len(c.values) for c in choices.choices])
        starts = np.cumsum(widths) - widths
        self.genes = np.repeat(np.arange(len(choices)), widths)
        self.ordinal = np.array([c.ordinal for c in choices.choices])[self.genes]
        # Each column's number at every step of its gene; step 0 is an inactive gene.
        steps = np.arange(choices.sizes.max() + 1)
        own = (np.arange(len(self.genes)) - starts[self.genes] + 1)[:, None]
        self._numbers = np.where(self.ordinal[:, None], steps, steps == own).astype(np.float64)
        members = [starts[genes, None] + np.arange(widths[genes[0]]) for genes in self.ladders]
        sums = np.repeat(np.arange(len(members)), [each.shape[1] for each in members])
        self._summed = np.zeros((len(self.genes), len(sums)))
        for ladder, each in enumerate(members):
            self._summed[each, np.flatnonzero(sums == ladder)] = 1.0

    def __call__(self, genomes: Genes) -> tuple[Floats, Floats]:
        """Genomes (n, genes) -> columns (n, columns) and sums (n, sums)."""
        steps = np.where(self.choices.active(genomes), genomes + 1, 0)
        columns = self._numbers[np.arange(len(self.genes)), steps[:, self.genes]]
        return columns, columns @ self._summed


@dataclass(frozen=True)
class Encoder:
    """Genomes and features as columns whose weighted squared distance is a kernel's.

    An ordinal gene is one column from 1/size to 1, any other is one-hot; an inactive gene is 0 in
    all its columns. Each ladder adds the sum of its active steps or, where it has no order, how
    often each of its values is active. Sums and features are standardised on the rows that the
    encoder was made from.

    Attributes:
        columns: of the genes.
        mean, scale: of the sums and the features, (sums + features,).
    """

    columns: GeneColumns
    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, choices: ChoiceSet, rows: Floats) -> Self:
        """The encoder for rows (n, genes + features)."""
        columns = GeneColumns(choices)
        _, more = _columns_and_more(columns, rows)
        spread = more.std(axis=0)
        return cls(columns, more.mean(axis=0), np.where(spread > 0, spread, 1.0))

    def groups(self) -> Genes:
        """For each column the gene, sum or feature it belongs to, (columns,)."""
        more = len(self.columns.choices) + np.arange(len(self.mean))
        return np.concatenate([self.columns.genes, more])

    def families(self) -> Genes:
        """For each gene the ladder it is on; one of its own for any other, a sum or a feature."""
        found = np.arange(len(self.columns.choices) + len(self.mean))
        for genes in self.columns.ladders:
            found[genes] = genes[0]
        return found

    def __call__(self, rows: Floats) -> Floats:
        """Rows (n, genes + features) -> (n, columns)."""
        columns, more = _columns_and_more(self.columns, rows)
        sizes = self.columns.choices.sizes[self.columns.genes]
        columns /= np.where(self.columns.ordinal, sizes, np.sqrt(2))
        return np.concatenate([columns, (more - self.mean) / self.scale], axis=1)


def _columns_and_more(columns: GeneColumns, rows: Floats) -> tuple[Floats, Floats]:
    """Columns of the genes (n, columns); sums, then features of the rows, (n, sums + features)."""
    n_genes = len(columns.choices)
    found, sums = columns(rows[:, :n_genes].astype(np.int64))
    return found, np.concatenate([sums, rows[:, n_genes:]], axis=1)
