"""Quality of a candidate: the activated subnet with its policy's arithmetic, on real data."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hw_profiles.machine import this_cpu
from hw_profiles.runtimes.torch_ops import DTYPES
from nas.candidate import Candidate, CandidateSpace
from nas.data.dataset import Dataset, Part
from nas.data.first_look import FirstLook
from nas.data.metric import Metric
from nas.errors import NasError
from nas.executors.executor import PART_NOISE, Evaluate, EvaluationFailed
from nas.quantization.arithmetic import simulate
from nas.training.evaluate import PASS_ELEMENTS, held_elements, pass_size
from search_spaces.elastic import Supernet
from search_spaces.space import Architecture

# What an evaluation returns beside the quality: its standard error, the examples it is of, and,
# if it was stopped after a first look, the seconds that the others would have taken at its pace.
NOISE, EXAMPLES, SECONDS_SAVED = "noise", "examples", "seconds_saved"

MOST_A_PASS = 128

#: Training examples that a subnet's batch-norm statistics are collected on, and of a batch.
CALIBRATION_EXAMPLES, CALIBRATION_BATCH = 1024, 256


class EvaluationError(NasError, RuntimeError):
    """A candidate whose outputs are not numbers."""


def calibration_batches(data: Dataset) -> list[Tensor]:
    """A fixed sample of the training part, as network input without augmentation."""
    order = np.random.default_rng(0).permutation(len(data.train))[:CALIBRATION_EXAMPLES]
    return [
        data.train.batch(chosen)[0] for chosen in torch.from_numpy(order).split(CALIBRATION_BATCH)
    ]


@contextmanager
def _one_thread_an_operator() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Evaluator:
    """Holds a supernet, takes candidates, gives back logits and qualities.

    Args:
        supernet: trained, in float32; it is copied to the runtime's native type where that differs.
        runtime: whose arithmetic is simulated.
        native: the runtime's native type, `fp32`, `bf16` or `fp16`.
        batch_size: of the deployment: the examples that share one dynamic activation scale.
        calibration: training inputs that a subnet's batch-norm statistics are collected on
            before it is evaluated; needed by supernets that have batch norms.
        threads: passes that run side by side, each in one thread of its own: for small networks
            several times faster than several threads inside each operator. Fewer run where one
            deployment batch alone needs the memory of several. Results do not depend on it.

    Attributes:
        per_pass: examples evaluated at once: whole deployment batches, one at least.
    """

    def __init__(
        self,
        supernet: Supernet,
        runtime: str,
        native: str,
        batch_size: int = 1,
        calibration: Sequence[Tensor] = (),
        threads: int | None = None,
    ) -> None:
        if supernet.calibrates and not calibration:
            raise ValueError("a supernet with batch norms is evaluated on calibration inputs")
        self.dtype = DTYPES[native]
        self.trained = supernet.eval()
        self.supernet = self.trained
        if self.dtype is not torch.float32:
            self.supernet = copy.deepcopy(supernet).to(self.dtype).eval()
        self.runtime = runtime
        self.batch_size = batch_size
        self.calibration = tuple(calibration)
        self.per_pass = max(pass_size(supernet.space, MOST_A_PASS) // batch_size, 1) * batch_size
        threads = threads or this_cpu().cores or 1
        a_pass = self.per_pass * held_elements(supernet.space)
        self.threads = max(min(threads, threads * PASS_ELEMENTS // a_pass), 1)

    def prepare(self, arch: Architecture) -> Supernet:
        """The float32 supernet with this architecture active, on statistics of its own."""
        if self.trained.active != arch or not self.trained.calibrated:
            with _one_thread_an_operator():
                self.trained.activate(arch).calibrate(self.calibration)
        return self.trained

    def logits(self, candidate: Candidate, part: Part, first: int | None = None) -> Tensor:
        """Outputs (n, classes) or (n, length, vocabulary), in float32, for a part's examples.

        Args:
            candidate: to run.
            part: whose examples.
            first: how many of them; all unless given.

        Raises:
            EvaluationError: if an output is not finite.
        """
        n = len(part) if first is None else min(first, len(part))
        with self._running(candidate, part) as run:
            return torch.cat([logits for logits, _ in run(torch.arange(n))])

    def quality(self, candidate: Candidate, part: Part, metric: Metric) -> tuple[float, float]:
        """Mean quality over a part, and its standard error.

        Raises:
            EvaluationError: if an output is not finite.
        """
        with self.judging(candidate, part, metric.scores) as scores_of:
            scores = scores_of(torch.arange(len(part)))
        return float(scores.mean()), metric.noise(scores, part.draws)

    @contextmanager
    def judging(
        self, candidate: Candidate, part: Part, judge: Callable[[Tensor, Tensor], Tensor]
    ) -> Iterator[Callable[[Tensor], Tensor]]:
        """While it is open: indices (n,) of a part's examples -> what is found of them, (n,).

        Args:
            candidate: to run.
            part: whose examples.
            judge: logits and labels of examples -> a number of each, such as a metric's scores.

        Raises:
            EvaluationError: in such a call, if an output is not finite.
        """
        with self._running(candidate, part) as run:
            yield lambda chosen: torch.cat([judge(*found) for found in run(chosen)])

    @contextmanager
    def _running(
        self, candidate: Candidate, part: Part
    ) -> Iterator[Callable[[Tensor], Iterator[tuple[Tensor, Tensor]]]]:
        """While it is open: indices (n,) -> logits and labels of each pass, in order."""
        space = self.trained.space
        self.prepare(candidate.architecture)
        if self.supernet is not self.trained:
            self.supernet.activate(candidate.architecture).adopt_statistics(self.trained)

        def one_pass(chosen: Tensor) -> tuple[Tensor, Tensor]:
            with torch.inference_mode():
                inputs, labels = part.batch(chosen)
                fitted = space.fit_input(candidate.architecture, inputs)
                if fitted.is_floating_point():
                    fitted = fitted.to(self.dtype)
                logits: Tensor = self.supernet.network(fitted).float()
                if not torch.isfinite(logits).all():
                    raise EvaluationError(
                        "an output is not finite.",
                        "The policy overflows this network: it is no candidate.",
                    )
                return logits, labels

        with (
            simulate(self.supernet, candidate.policy, self.runtime, self.batch_size),
            _one_thread_an_operator(),
            ThreadPoolExecutor(self.threads) as passes,
        ):
            yield lambda chosen: passes.map(one_pass, chosen.split(self.per_pass))


def evaluating(
    evaluator: Evaluator,
    candidates: CandidateSpace,
    part: Part,
    metric: Metric,
    first_look: float | None = None,
) -> Evaluate:
    """The function that evaluates genomes: the quality by its metric's name, and its noise.

    Args:
        evaluator: of the candidates.
        candidates: the joint space.
        part: that they are judged on.
        metric: by which.
        first_look: share of the part after which a candidate that cannot reach its goal is given
            up; None evaluates everything on the whole part.

    Raises:
        UsageError: if the part is too small for such a first look.
    """
    look = None if first_look is None else FirstLook.of(part, first_look, evaluator.batch_size)
    traits = cache(lambda: _traits(evaluator, candidates, part, metric))

    def evaluate(genome: NDArray[np.int64], _number: int, goal: float | None) -> dict[str, float]:
        candidate = candidates.decode(genome)
        try:
            if look is not None and goal is not None:
                return _in_two_looks(evaluator, candidate, part, metric, look, goal, traits())
            value, noise = evaluator.quality(candidate, part, metric)
        except EvaluationError as error:
            raise EvaluationFailed(str(error)) from error
        return {metric.name: value, NOISE: noise, EXAMPLES: len(part)}

    return evaluate


def _traits(evaluator: Evaluator, candidates: CandidateSpace, part: Part, metric: Metric) -> Tensor:
    """How hard each example of a part is to the largest and the smallest network, (examples, 2).

    Fewer columns where one has outputs that are no numbers.
    """
    found = []
    for arch in (candidates.space.largest(), candidates.space.smallest()):
        end = candidates.uniform(arch, candidates.schemes[0])
        with (
            suppress(EvaluationError),
            evaluator.judging(end, part, metric.traits) as traits_of,
        ):
            found.append(traits_of(torch.arange(len(part))))
    return torch.stack(found, dim=1) if found else torch.empty(len(part), 0)


def _in_two_looks(
    evaluator: Evaluator,
    candidate: Candidate,
    part: Part,
    metric: Metric,
    look: FirstLook,
    goal: float,
    traits: Tensor,
) -> dict[str, float]:
    """The figures of a candidate on the whole part, or on its first look if that is enough."""
    with evaluator.judging(candidate, part, metric.scores) as scores_of:
        begun = time.perf_counter()
        first = scores_of(look.first)
        seconds = time.perf_counter() - begun
        found = look.estimate(first, traits)
        if found.may_reach(goal, metric):
            scores = torch.cat([first, scores_of(look.rest)])
            noise = metric.noise(scores, part.draws)
            return {metric.name: float(scores.mean()), NOISE: noise, EXAMPLES: len(part)}
    # That of the whole part, were its scores as varied as these, and what the part adds.
    whole = metric.noise(first, part.draws) * math.sqrt(len(first) / len(part))
    return {
        metric.name: found.quality,
        NOISE: math.hypot(whole, found.noise),
        PART_NOISE: found.noise,
        EXAMPLES: len(first),
        SECONDS_SAVED: seconds * len(look.rest) / len(first),
    }
