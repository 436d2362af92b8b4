"""The guided sampler: predict accuracy, know costs, search on both, evaluate what promises most.

The first trials are a design. After that, at the start of every batch, accuracy predictors are
fitted to the trials so far and pymoo searches the joint genome on their optimistic predictions;
what it visits is the batch's pool. Each trial of the batch is the genome of the pool with the
largest expected hypervolume gain (Emmerich et al. 2006, by quadrature) given every trial told,
those of the batch included; where the pool is not the whole space, the best of it are improved by
one-gene steps first. A share that shrinks takes the largest optimistic gain instead. Where some
evaluations failed, a gain counts by how probable it is that there is one (Schonlau et al. 1998).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nas.engine.candidates import MOST_LISTED, Candidates, identities, identity, neighbours, unique
from nas.engine.inner import Scored, search
from nas.engine.pareto import gains, non_dominated
from nas.engine.problem import Floats, Problem
from nas.engine.samplers import GenomeSampler, SamplerAt, SpaceExhausted, register_sampler
from nas.engine.told import Told
from predictors.accuracy import AccuracyPredictor
from search_spaces.choices import Genomes

BATCH = 8
BATCH_SHARE = 1 / 12
MOST_BATCH = 256
"""Trials of a batch: at least so many, or so large a share of those before it, up to so many."""
MIN_FITTED = 5
MOST_FITTED = 3_000
"""Of more trials, imported ones say, predictors take those nearest to the front and an even share
of the rest: their time grows with the cube of the number, their memory with its square."""
MOST_FAILED = 500
"""Failed trials, the latest, and as many others, spread evenly, that failures are learnt from."""
SHORTLIST = 512
"""Genomes of a pool that stay in the running for the trials of its batch."""
OPTIMISM = 1.0
"""Standard deviations by which pymoo sees accuracies better than predicted."""
EXPLORE_OPTIMISM = 2.5
EXPLORE_SHARE = 0.25
"""Of the first trial after the design; it falls as one over the number of trials."""
GENERATIONS = 12
"""Of pymoo in a batch."""
CLIMBERS = 8
CLIMBS = 4
"""Genomes of largest gain that are improved by steps of one gene, and steps at most."""
LEAST_SUCCESS = 0.01
"""Probability of an evaluation without failure at least: what is predicted is not certain."""
NODES = 7
REFERENCE_MARGIN = 0.05
DIGITS = 9
"""Gains are compared to so many digits: less is the arithmetic's own noise."""


@dataclass(frozen=True)
class _Batch:
    """What is learnt at the start of a batch and kept through it.

    Attributes:
        start: trials told before it.
        left_out: those of them that the predictors do not take, for there are too many.
        models: a predictor for each costly objective.
        failure: a predictor of failures, 1 or 0; None as long as there were none.
        pool: unseen feasible genomes, (n, genes).
        rows: of the pool, for the predictors, (n, genes + features).
        costs: of the pool, to be minimised, (n, known).
    """

    start: int
    left_out: NDArray[np.int64]
    models: tuple[AccuracyPredictor, ...]
    failure: AccuracyPredictor | None
    pool: Genomes
    rows: Floats
    costs: Floats


class Guided(GenomeSampler):
    """Proposes the genome that is expected to widen the front most.

    Args:
        problem: what is searched.
        seed: of the study.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self.candidates = Candidates(problem, seed)
        self.n_design = int(np.clip(8 + len(problem.choices) // 4, 10, 20))
        self._design: Genomes | None = None
        self._batch: _Batch | None = None
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        self._nodes, self._weights = nodes, weights / weights.sum()
        self._known = np.array([o.known for o in problem.objectives], dtype=bool)

    def propose(self, told: Told) -> NDArray[np.int64]:
        """A genome of the design first, then by expected gain; any unseen one if neither is left.

        Raises:
            SpaceExhausted: if no unseen feasible genome was found.
        """
        seen = set(identities(told.genomes))
        if self._design is None:
            self._design = self.candidates.design(self.n_design)
        if len(told) < self.n_design:
            for genome in self._design:
                if identity(genome) not in seen:
                    self.origin = {"kind": "design"}
                    return np.asarray(genome)
        start = self._start(len(told))
        if told.complete[:start].sum() >= MIN_FITTED:
            if self._batch is None or self._batch.start != start:
                self._batch = self._learn(told, start)
            chosen = self._choose(self._batch, told, seen)
            if chosen is not None:
                return chosen
        self.origin = {"kind": "random"}
        drawn = self.candidates.unseen(seen, 3, len(told))
        if drawn is None:
            raise SpaceExhausted
        return drawn

    def _start(self, n: int) -> int:
        """Trials told before the batch that the trial after `n` told ones is in."""
        start = min(n, self.n_design)
        while (end := start + max(BATCH, min(int(BATCH_SHARE * start), MOST_BATCH))) <= n:
            start = end
        return start

    def _learn(self, told: Told, start: int) -> _Batch:
        """Fit the predictors to the first `start` trials and search on their predictions."""
        kept = np.flatnonzero(told.complete[:start])
        fitted = kept[_nearest(told.values[kept], MOST_FITTED)]
        # What came from elsewhere beyond the budgets teaches no less.
        beyond = np.flatnonzero((told.evaluated & ~told.complete)[:start])
        beyond = beyond[_nearest(told.values[beyond], MOST_FITTED - len(fitted))]
        fitted = np.sort(np.concatenate([fitted, beyond]))
        rows, values = self.problem.rows(told.genomes[fitted]), told.values[fitted]
        models = tuple(
            AccuracyPredictor(self.problem.choices, maximise=False).fit(
                rows, values[:, k], told.noise[fitted]
            )
            for k in np.flatnonzero(~self._known)
        )
        failure = None
        if told.failed[:start].any():
            failure = AccuracyPredictor(self.problem.choices, maximise=False).fit(
                *self._outcomes(told, start, fitted)
            )
        if self.candidates.every_feasible is None:
            found = self._search(models, told, start)
            met = found.violation <= 0
            pool, optimistic = found.genomes[met], found.objectives[met]
        else:
            pool = self.candidates.feasible(MOST_LISTED, self.candidates.rng(4, start))
            optimistic = self._optimistic(models, pool)
        seen = set(identities(told.genomes[:start]))
        fresh = _absent(pool, seen)
        pool, optimistic = pool[fresh], optimistic[fresh]
        gain = gains(told.values[kept], optimistic, self._worst(told, start))
        if failure is not None:
            gain *= self._success(failure, self.problem.rows(pool))
        keep = np.sort(np.argsort(-_rounded(gain), kind="stable")[:SHORTLIST])
        pool = pool[keep]
        rows, costs = self.problem.rows(pool), self.problem.known_costs(pool)
        left_out = np.setdiff1d(np.flatnonzero(told.evaluated[:start]), fitted)
        return _Batch(start, left_out, models, failure, pool, rows, costs)

    def _outcomes(self, told: Told, n: int, evaluated: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Rows of what was evaluated and of what of the first `n` failed, and 1 for a failure.

        At most `MOST_FAILED` of each.
        """
        failed = np.flatnonzero(told.failed[:n])[-MOST_FAILED:]
        some = min(len(evaluated), MOST_FAILED)
        evaluated = evaluated[np.linspace(0, len(evaluated) - 1, some).astype(np.int64)]
        rows = self.problem.rows(told.genomes[np.concatenate([evaluated, failed])])
        return rows, np.repeat([0.0, 1.0], [len(evaluated), len(failed)])

    def _success(self, failure: AccuracyPredictor, rows: Floats) -> Floats:
        """Probability that an evaluation does not fail, optimistic as accuracies are, (n,)."""
        least = failure.quantiles(rows, np.array([OPTIMISM]))[0]
        success: Floats = np.clip(1 - least, LEAST_SUCCESS, 1.0)
        return success

    def _search(self, models: tuple[AccuracyPredictor, ...], told: Told, start: int) -> Scored:
        """What pymoo visits between the best trials and what they predict."""
        rng = self.candidates.rng(4, start)
        good = np.flatnonzero(told.complete[:start])
        front = good[non_dominated(told.values[good], [False] * told.values.shape[1])]
        return search(
            self.problem.choices,
            lambda genomes: (self._optimistic(models, genomes), self.problem.violation(genomes)),
            len(self._known),
            start=unique(
                np.concatenate([told.genomes[front[-64:]], self.candidates.feasible(32, rng)])
            ),
            seed=int(rng.integers(2**31)),
            generations=GENERATIONS,
        )

    def _optimistic(self, models: tuple[AccuracyPredictor, ...], genomes: Genomes) -> Floats:
        """Objectives of genomes, minimised, costly ones better than predicted, (n, k)."""
        best = self._predict(models, self.problem.rows(genomes), np.array([OPTIMISM]))
        objectives: Floats = self._assemble(best, self.problem.known_costs(genomes))[0]
        return objectives

    def _predict(self, models: tuple[AccuracyPredictor, ...], rows: Floats, z: Floats) -> Floats:
        """Costly objectives, minimised, `z` (q,) deviations towards better, (q, n, costly)."""
        if not models:
            return np.empty((len(z), len(rows), 0))
        return np.stack([model.quantiles(rows, z) for model in models], axis=2)

    def _assemble(self, costly: Floats, costs: Floats) -> Floats:
        """Costly (q, n, c) and known (n, m) objectives in the problem's order, (q, n, c + m)."""
        values = np.empty((*costly.shape[:2], len(self._known)))
        values[:, :, ~self._known] = costly
        values[:, :, self._known] = costs[None]
        return values

    def _worst(self, told: Told, n: int) -> Floats:
        """Reference point, minimised: the problem's, or a little beyond the design's worst."""
        values = told.values[: min(n, self.n_design)][told.complete[: min(n, self.n_design)]]
        if not len(values):
            values = told.values[:n][told.complete[:n]]
        span = np.ptp(values, axis=0)
        worst: Floats = values.max(axis=0) + REFERENCE_MARGIN * np.where(span > 0, span, 1.0)
        given = self.problem.reference or {}
        for k, objective in enumerate(self.problem.objectives):
            if objective.name in given:
                worst[k] = given[objective.name] * self.problem.signs[k]
        return worst

    def _gain(self, batch: _Batch, told: Told, nodes: Floats, weights: Floats) -> Floats:
        """Expected hypervolume gain of the batch's pool over the trials told, (pool,)."""
        front, worst = told.values[told.complete], self._worst(told, len(told))
        values = self._assemble(self._predict(batch.models, batch.rows, nodes), batch.costs)
        each = gains(front, values.reshape(-1, values.shape[2]), worst).reshape(values.shape[:2])
        expected: Floats = weights @ each
        if batch.failure is not None:
            expected *= self._success(batch.failure, batch.rows)
        return expected

    def _choose(self, batch: _Batch, told: Told, seen: set[bytes]) -> NDArray[np.int64] | None:
        """The unseen genome of the pool with the largest gain; None if none is worth a trial."""
        left = _absent(batch.pool, seen)
        if not left.any():
            return None
        kept = np.setdiff1d(np.flatnonzero(told.evaluated), batch.left_out)
        rows = self.problem.rows(told.genomes[kept])
        for model, k in zip(batch.models, np.flatnonzero(~self._known), strict=True):
            model.condition(rows, told.values[kept, k], told.noise[kept])
        if batch.failure is not None:
            batch.failure.condition(*self._outcomes(told, len(told), kept))
        share = EXPLORE_SHARE * self.n_design / len(told)
        explore = bool(batch.models) and self.candidates.rng(5, len(told)).random() < share
        nodes = np.array([EXPLORE_OPTIMISM]) if explore else self._nodes
        weights = np.array([1.0]) if explore else self._weights
        gain = np.where(left, self._gain(batch, told, nodes, weights), -1.0)
        listed = self.candidates.every_feasible
        if listed is None or len(listed) > MOST_LISTED:
            batch, gain = self._climb(batch, gain, told, seen, nodes, weights)
        best = int(np.argmax(_rounded(gain)))
        kind = "explore" if explore else "exploit"
        if gain[best] <= 0:
            if not batch.models:
                return None  # nothing widens the front, and there is nothing to learn
            # Nothing promises to widen the front: learn where least is known.
            spread = self._deviation(batch.models, batch.rows)[:, 0]
            if batch.failure is not None:
                spread *= self._success(batch.failure, batch.rows)
            best = int(np.argmax(_rounded(np.where(gain >= 0, spread, -1.0))))
            kind = "explore"
        self.origin = self._why(kind, batch, best, float(gain[best]))
        return np.asarray(batch.pool[best])

    def _climb(
        self,
        batch: _Batch,
        gain: Floats,
        told: Told,
        seen: set[bytes],
        nodes: Floats,
        weights: Floats,
    ) -> tuple[_Batch, Floats]:
        """The pool and its gains with what is found by one-gene steps from its best genomes."""
        known = seen.union(identities(batch.pool))
        for _ in range(CLIMBS):
            top = np.argsort(-_rounded(gain), kind="stable")[:CLIMBERS]
            fresh = neighbours(self.problem.choices, batch.pool[top])
            fresh = fresh[_absent(fresh, known)]
            fresh = fresh[self.problem.feasible(fresh)]
            if not len(fresh):
                break
            rows, costs = self.problem.rows(fresh), self.problem.known_costs(fresh)
            near = replace(batch, pool=fresh, rows=rows, costs=costs)
            found = self._gain(near, told, nodes, weights)
            better = bool(_rounded(np.append(found.max(), gain.max()))[0] >= 1)
            batch = replace(
                batch,
                pool=np.concatenate([batch.pool, fresh]),
                rows=np.concatenate([batch.rows, rows]),
                costs=np.concatenate([batch.costs, costs]),
            )
            gain = np.concatenate([gain, found])
            known.update(identities(fresh))
            if not better:
                break
        return batch, gain

    def _deviation(self, models: tuple[AccuracyPredictor, ...], rows: Floats) -> Floats:
        low, high = self._predict(models, rows, np.array([-1.0, 1.0]))
        half: Floats = np.abs(high - low) / 2
        return half

    def _why(self, kind: str, batch: _Batch, index: int, gain: float) -> dict[str, object]:
        """Plain data that explain a choice: predictions in the objectives' own directions."""
        rows = batch.rows[index : index + 1]
        median = self._predict(batch.models, rows, np.zeros(1))[0, 0]
        std = self._deviation(batch.models, rows)[0]
        costly = self.problem.costly
        return {
            "kind": kind,
            "predicted": {
                o.name: float(-m if o.maximise else m) for o, m in zip(costly, median, strict=True)
            },
            "std": {o.name: float(s) for o, s in zip(costly, std, strict=True)},
            "gain": gain,
            "fitted_trials": batch.start,
        }


def _nearest(values: Floats, most: int) -> NDArray[np.int64]:
    """At most so many rows of objectives, minimised, (n, k): the nearest to the front and others.

    Half are the nearest, by how much of each objective's range they would have to gain to be on
    it; the others are spread evenly over the rest.
    """
    if len(values) <= most:
        return np.arange(len(values))
    front = np.unique(values[non_dominated(values, [False] * values.shape[1])], axis=0)
    span = np.maximum(np.ptp(values, axis=0), 1e-300)
    behind = np.full(len(values), np.inf)
    for point in front:
        np.minimum(behind, ((values - point) / span).max(axis=1), out=behind)
    order = np.argsort(behind, kind="stable")
    near, rest = order[: most // 2], order[most // 2 :]
    others = rest[np.linspace(0, len(rest) - 1, most - len(near)).astype(np.int64)]
    return np.sort(np.concatenate([near, others]))


def _absent(genomes: Genomes, keys: set[bytes]) -> NDArray[np.bool_]:
    """Which genomes (n, genes) are not among the identities, (n,)."""
    return np.array([key not in keys for key in identities(genomes)], dtype=bool)


def _rounded(gain: Floats) -> Floats:
    """Gains relative to the largest, to a fixed number of digits."""
    top = np.abs(gain).max(initial=0.0)
    return np.round(gain / top, DIGITS) if top > 0 else gain


@register_sampler("guided", "accuracy predictors, known costs, pymoo on predictions (default)")
def _guided(problem: Problem, seed: int) -> SamplerAt:
    sampler = Guided(problem, seed)
    return lambda told: sampler
