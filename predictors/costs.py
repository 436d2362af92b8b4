"""Costs of whole populations: tables over distinct blocks, summed by array work.

A block's ops depend on the few choices that it reads and on the scheme of each of its layer
groups. So every distinct block is costed once, and a candidate is a sum of table rows: thousands of
candidates are predicted by as many gathers as the network has layer groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.cost_columns import CostColumns
from predictors.energy import EnergyPredictor
from predictors.latency import LatencyPredictor
from search_spaces.choices import ChoiceSet, Genomes
from search_spaces.space import Block, SearchSpace

Array = NDArray[np.float64]

#: Genomes that a descent costs at once.
MOVES = 20_000


@dataclass(frozen=True)
class _BlockTable:
    """What every distinct block of a kind adds, and the peak it reaches.

    fixed: (combinations, columns) of the ops outside any group.
    groups: for each group (combinations, schemes, columns).
    peak: (combinations,) largest number of activation elements alive at once.
    """

    fixed: Array
    groups: tuple[Array, ...]
    peak: Array


class CostModel:
    """Every cost of any candidate of a space on a target.

    Args:
        space: the architectures.
        choices: the joint genome, whose policy choices are named `{block}.{group}`.
        schemes: precisions offered for the layer groups.
        latency: the target's latency predictor.
        batch_size: examples per forward pass.
        native: precision of everything that no scheme quantizes.
        energy: the target's energy predictor, if it has one.
        plans_buffers: whether the runtime lets element-wise ops write over their input.
        weights_in_flash: whether weights are read in place and take no memory.

    Attributes:
        columns: names of the costs, those of energy last and only where there is a predictor.
    """

    def __init__(
        self,
        space: SearchSpace,
        choices: ChoiceSet,
        schemes: Sequence[str],
        latency: LatencyPredictor,
        batch_size: int = 1,
        native: str = "fp32",
        energy: EnergyPredictor | None = None,
        plans_buffers: bool = False,
        weights_in_flash: bool = False,
    ) -> None:
        self.space = space
        self.choices = choices
        self.schemes = tuple(schemes)
        self.latency = latency
        self.energy = energy
        self.batch_size = batch_size
        self.native = native
        self.weights_in_flash = weights_in_flash
        self._columns = CostColumns(latency, energy, native, plans_buffers, weights_in_flash)
        self.columns = self._columns.names
        self._tables: dict[str, _BlockTable] = {}
        #: Column, largest or not, seed -> what was found: a search asks for the same ones again.
        self._extremes: dict[tuple[str, bool, int], tuple[float, NDArray[np.int64]]] = {}
        for block in space.blocks:
            if block.kind not in self._tables:
                self._tables[block.kind] = self._table(block)

    def _table(self, block: Block) -> _BlockTable:
        axes = [self.choices.choices[self.choices.index(name)].values for name in block.reads]
        combinations = [
            self.space.ops(block.kind, self.batch_size, *values)
            for values in itertools.product(*axes)
        ]
        names = list(block.groups)
        wanted = {  # (group or "", precision) -> ops of each combination
            (group, scheme): [[o for o in ops if o.group == group] for ops in combinations]
            for group in ("", *names)
            for scheme in (self.schemes if group else (self.native,))
        }
        calls = {
            (layer_op, scheme): layer_op.op.at(scheme)
            for (_, scheme), per_combination in wanted.items()
            for ops in per_combination
            for layer_op in ops
        }
        distinct = list(dict.fromkeys(calls.values()))  # predicted in one go
        features = dict(zip(distinct, self._columns.features(distinct), strict=True))
        added = {
            (layer_op, scheme): np.concatenate(
                [features[call], self._columns.counts(layer_op, call)]
            )
            for (layer_op, scheme), call in calls.items()
        }
        nothing = np.zeros(self._columns.n)
        sums = {
            (group, scheme): np.array(
                [sum((added[o, scheme] for o in ops), nothing) for ops in per_combination]
            )
            for (group, scheme), per_combination in wanted.items()
        }
        groups = tuple(np.stack([sums[g, s] for s in self.schemes], axis=1) for g in names)
        peak = np.array(
            [max(map(self._columns.live, ops)) for ops in combinations], dtype=np.float64
        )
        return _BlockTable(sums["", self.native], groups, peak)

    def features(self, genomes: Genomes) -> tuple[Array, Array]:
        """Summed table rows (n, columns) and peak activation elements (n,)."""
        active = self.choices.active(genomes)
        total = np.zeros((len(genomes), self._columns.n))
        peak = np.zeros(len(genomes))
        for block in self.space.blocks:
            table = self._tables[block.kind]
            genes = [self.choices.index(name) for name in block.reads]
            rows = np.flatnonzero(active[:, genes].all(axis=1) & self._exists(block, genomes))
            mine = genomes if len(rows) == len(genomes) else genomes[rows]
            row = np.zeros(len(mine), dtype=np.int64)  # of a table over the values of the genes
            for gene in genes:
                row = row * self.choices.sizes[gene] + mine[:, gene]
            added = table.fixed[row]
            for group, group_table in zip(block.groups, table.groups, strict=True):
                scheme = mine[:, self.choices.index(f"{block.name}.{group}")]
                added += group_table[row, scheme]
            total[rows] += added
            peak[rows] = np.maximum(peak[rows], table.peak[row])
        return total, peak

    def _exists(self, block: Block, genomes: Genomes) -> NDArray[np.bool_]:
        if block.active is None:
            return np.ones(len(genomes), dtype=bool)
        gene = self.choices.index(block.active.choice)
        values = self.choices.choices[gene].values
        allowed = np.array([value in block.active.values for value in values])
        return allowed[genomes[:, gene]]

    def costs(self, genomes: Genomes) -> dict[str, Array]:
        """Every cost of each genome, (n,) each; see `CostColumns.costs`."""
        return self._columns.costs(*self.features(genomes))

    def extreme(self, column: str, largest: bool, seed: int = 0) -> tuple[float, NDArray[np.int64]]:
        """The smallest (or largest) value of a column in the space, and a genome that has it.

        By descent from the extreme architectures and from the best of a sample, one gene at a
        time, at last two: exact where the column is a sum over blocks, a close bound elsewhere.
        """
        asked = (column, largest, seed)
        if asked not in self._extremes:
            sign = -1.0 if largest else 1.0
            value, genome = self.minimise(lambda g: sign * self.costs(g)[column], seed)
            self._extremes[asked] = (sign * value, genome)
        return self._extremes[asked]

    def minimise(
        self, objective: Callable[[Genomes], Array], seed: int = 0
    ) -> tuple[float, NDArray[np.int64]]:
        """The least value of any function of genomes that descent finds, and its genome."""
        sample = self.choices.sample(2000, np.random.default_rng(seed))
        sampled = sample[objective(sample).argmin()][None, :]
        starts = [self.choices.extreme(largest=False), self.choices.extreme(largest=True), sampled]
        found = [self._descend(start[0], objective, at_once=1) for start in starts]
        _, best = min(found, key=lambda pair: pair[0])
        value, best = self._descend(best, objective, at_once=2)
        return value, self.choices.canonical(best[None, :])[0]

    def _descend(
        self, genome: NDArray[np.int64], objective: Callable[[Genomes], Array], at_once: int
    ) -> tuple[float, NDArray[np.int64]]:
        """The value and genome where changing `at_once` genes or fewer improves nothing."""
        changes = [(g, other) for g, size in enumerate(self.choices.sizes) for other in range(size)]
        together = itertools.combinations_with_replacement(range(len(changes)), at_once)
        moves = np.array(changes)[np.array(list(together))]  # (moves, at once, gene and value)
        value = float(objective(self.choices.canonical(genome[None, :]))[0])
        while True:
            least = value
            for part in np.array_split(moves, -(-len(moves) // MOVES)):
                tried = np.repeat(genome[None, :], len(part), axis=0)
                for i in range(at_once):
                    tried[np.arange(len(part)), part[:, i, 0]] = part[:, i, 1]
                values = objective(self.choices.canonical(tried))
                if values.min() < least:
                    least, best = float(values.min()), tried[values.argmin()]
            if not least < value - 1e-12 * abs(value):
                return value, genome
            value, genome = least, best
