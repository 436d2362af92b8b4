"""Searches of other packages on the same problems, where those packages are installed.

    pip install -c constraints.txt --no-deps syne-tune dill pandas statsmodels patsy formulaic \\
        interface_meta
    pip install -c constraints.txt --no-deps dynast numba llvmlite pandas requests urllib3 \\
        charset-normalizer certifi idna

`syne-tune` (0.16.0) pulls in CUDA libraries by way of xgboost, which the search used here does not
need. `dynast` (1.6.0) needs fairseq, which does not run under this Python; its search and its
predictors need neither that nor the package's own entry, which is left out.

A network that was evaluated already is answered from memory and not counted; nothing but its
objectives is told to a search.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from known_problems import Floats, Known
from numpy.typing import NDArray

from nas.errors import UsageError

Search = Callable[[Known, int, int], Floats]
"""Problem, number of evaluations and seed -> objectives of the trials in order, (n, objectives)."""

PATIENCE = 10
"""A search ends once it has proposed this many times what it may evaluate."""
LINAS_POPULATION, LINAS_INNER = 50, 5_000
"""As DyNAS-T has them; 5,000 to 20,000 evaluations of the predictions, by space."""


class _Enough(Exception):
    """All the evaluations are done."""


class Answers:
    """The trials of one search of a peer.

    Args:
        known: what is searched.
        trials: how many evaluations.
    """

    def __init__(self, known: Known, trials: int) -> None:
        if known.problem.listed is not None:
            raise UsageError("peers search tables without gaps only.")
        self.choices = known.problem.choices
        self._known, self._trials = known, trials
        self._seen: dict[bytes, Floats] = {}
        self._proposed = 0

    def __call__(self, genome: NDArray[np.integer]) -> Floats:
        """Objectives (k,) of a genome (genes,), to be minimised.

        Raises:
            _Enough: if all evaluations were done before.
        """
        if len(self._seen) == self._trials or self._proposed == PATIENCE * self._trials:
            raise _Enough
        self._proposed += 1
        one = self.choices.canonical(np.asarray(genome, dtype=np.int64)[None, :])
        key = one.tobytes()
        if key not in self._seen:
            problem = self._known.problem
            values = {**self._known.answer(one), **problem.costs(one)}
            row = np.array([values[o.name][0] for o in problem.objectives])
            self._seen[key] = row * problem.signs
        return self._seen[key]

    def points(self) -> Floats:
        """Objectives of the trials in order, in their own directions."""
        return np.stack(list(self._seen.values())) * self._known.problem.signs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what a peer logs and prints, until all evaluations are done."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.suppress(_Enough):
                yield
    finally:
        logging.disable(logging.NOTSET)


def syne_tune_evolution(known: Known, trials: int, seed: int) -> Floats:
    """Multi-objective regularized evolution of Syne Tune, population 100, by its own defaults."""
    from syne_tune.config_space import choice, ordinal
    from syne_tune.optimizer.schedulers.ask_tell_scheduler import AskTellScheduler
    from syne_tune.optimizer.schedulers.multiobjective import MultiObjectiveRegularizedEvolution
    from syne_tune.optimizer.schedulers.single_fidelity_scheduler import SingleFidelityScheduler

    answers = Answers(known, trials)
    space = {
        c.name: (ordinal if c.ordinal else choice)(list(range(len(c.values))))
        for c in answers.choices.choices
    }
    metrics = [o.name for o in known.problem.objectives]
    searcher = MultiObjectiveRegularizedEvolution(space, random_seed=seed)
    scheduler = AskTellScheduler(
        SingleFidelityScheduler(space, metrics=metrics, searcher=searcher, random_seed=seed)
    )
    with _quiet():
        while True:
            trial = scheduler.ask()
            values = answers(np.array([trial.config[name] for name in space]))
            scheduler.tell(trial, dict(zip(metrics, map(float, values), strict=True)))
    return answers.points()


def _dynast(module: str) -> Any:
    """A module of DyNAS-T, without the package's own entry, which imports all its supernets."""
    if "dynast" not in sys.modules:
        found = importlib.util.find_spec("dynast")
        package = types.ModuleType("dynast")
        package.__path__ = list((found and found.submodule_search_locations) or [])
        sys.modules["dynast"] = package
    return importlib.import_module(f"dynast.{module}")


class _Predictions:
    """What DyNAS-T's inner search asks for a subnet's predicted objectives."""

    def __init__(self, encode: Callable[[Any], Any], predictors: list[Any]) -> None:
        self._encode, self._predictors = encode, predictors

    def eval_subnet(self, genome: NDArray[np.integer]) -> tuple[Any, ...]:
        """The genome, and each objective's prediction."""
        code = self._encode(np.rint(genome).astype(int))[None, :]
        return genome, *(float(p.predict(code)[0]) for p in self._predictors)


def dynast_linas(known: Known, trials: int, seed: int) -> Floats:
    """LINAS by the predictors, the encoding and the inner search of DyNAS-T, in its own loop."""
    with _quiet():
        evolution = _dynast("search.evolutionary")
        encoding = _dynast("search.encoding").EncodingBase
        predictor = _dynast("predictors.dynamic_predictor").Predictor
    k = len(known.problem.objectives)
    if k not in (2, 3):
        raise UsageError("DyNAS-T is compared on two or three objectives.")
    algorithm = {2: "nsga2", 3: "unsga3"}[k]
    problem = {2: evolution.EvolutionaryMultiObjective, 3: evolution.EvolutionaryManyObjective}[k]
    answers = Answers(known, trials)
    sizes = {c.name: len(c.values) for c in answers.choices.choices}
    space = encoding({n: {"count": 1, "vars": list(range(s))} for n, s in sizes.items()}, seed=seed)
    codes: list[Any] = []
    values: list[Floats] = []
    population = [space.random_sample() for _ in range(LINAS_POPULATION)]
    with _quiet():
        while True:
            for genome in np.rint(population).astype(int):
                values.append(answers(genome))
                codes.append(space.onehot_generic(genome))
            x, first = np.unique(np.stack(codes), axis=0, return_index=True)
            y = np.stack(values)[first]
            predictors = [predictor() for _ in range(k)]
            for i, each in enumerate(predictors):
                each.train(x, y[:, i])
            manager = evolution.EvolutionaryManager(algorithm, seed=seed, n_obj=k)
            getattr(manager, f"configure_{algorithm}")(
                population=LINAS_POPULATION, num_evals=LINAS_INNER
            )
            predicted = _Predictions(space.onehot_generic, predictors)
            found = manager.run_search(
                problem(predicted, space.param_count, space.param_upperbound)
            )
            population = found.pop.get("X")
    return answers.points()


PEERS: dict[str, tuple[str, Search]] = {
    "syne-tune-evolution": ("syne_tune", syne_tune_evolution),
    "dynast-linas": ("dynast", dynast_linas),
}
"""Name -> the package that it needs, and the search."""


def get_peer(name: str) -> Search | None:
    """The search of a peer; None if the name is no peer's.

    Raises:
        UsageError: if the peer's package is not installed.
    """
    if name not in PEERS:
        return None
    package, search = PEERS[name]
    if importlib.util.find_spec(package) is None:
        raise UsageError(
            f"{name} needs the package {package.replace('_', '-')}.",
            "Install it as benchmarks/peers.py says, or leave it out of --samplers.",
        )
    return search
