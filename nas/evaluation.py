"""Quality of a candidate: the activated subnet with its policy's arithmetic, on real data."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hw_profiles.machine import this_cpu
from nas.candidate import Candidate, CandidateSpace
from nas.data.dataset import Dataset, Part
from nas.data.metric import Metric
from nas.errors import NasError
from nas.executors.executor import Evaluate, EvaluationFailed
from nas.quantization.arithmetic import simulate
from search_spaces.elastic import Supernet
from search_spaces.space import Architecture

NOISE = "noise"
"""What an evaluation returns beside the quality: its standard error."""

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
        per_pass: examples evaluated at once, rounded down to whole deployment batches.
        threads: passes that run side by side, each in one thread of its own: for small networks
            several times faster than several threads inside each operator. Results do not
            depend on it.
    """

    def __init__(
        self,
        supernet: Supernet,
        runtime: str,
        native: str,
        batch_size: int = 1,
        calibration: Sequence[Tensor] = (),
        per_pass: int = 128,
        threads: int | None = None,
    ) -> None:
        if supernet.calibrates and not calibration:
            raise ValueError("a supernet with batch norms is evaluated on calibration inputs")
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(native, torch.float32)
        self.trained = supernet.eval()
        self.supernet = self.trained
        if self.dtype is not torch.float32:
            self.supernet = copy.deepcopy(supernet).to(self.dtype).eval()
        self.runtime = runtime
        self.batch_size = batch_size
        self.calibration = tuple(calibration)
        self.per_pass = max(per_pass // batch_size, 1) * batch_size
        self.threads = threads or this_cpu().cores or 1

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
        return torch.cat([logits for logits, _ in self._passes(candidate, part, first)])

    def quality(self, candidate: Candidate, part: Part, metric: Metric) -> tuple[float, float]:
        """Mean quality over a part, and its standard error.

        Raises:
            EvaluationError: if an output is not finite.
        """
        scores = torch.cat(
            [metric.scores(logits, labels) for logits, labels in self._passes(candidate, part)]
        )
        return float(scores.mean()), metric.noise(scores, part.draws)

    def _passes(
        self, candidate: Candidate, part: Part, first: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits and labels of each pass, in order."""
        space = self.trained.space
        self.prepare(candidate.architecture)
        if self.supernet is not self.trained:
            self.supernet.activate(candidate.architecture).adopt_statistics(self.trained)
        order = torch.arange(len(part) if first is None else min(first, len(part)))

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
            yield from passes.map(one_pass, order.split(self.per_pass))


def evaluating(
    evaluator: Evaluator, candidates: CandidateSpace, part: Part, metric: Metric
) -> Evaluate:
    """The function that evaluates genomes: the quality by its metric's name, and its noise."""

    def evaluate(genome: NDArray[np.int64], _number: int) -> dict[str, float]:
        try:
            value, noise = evaluator.quality(candidates.decode(genome), part, metric)
        except EvaluationError as error:
            raise EvaluationFailed(str(error)) from error
        return {metric.name: value, NOISE: noise}

    return evaluate
