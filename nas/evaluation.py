"""Accuracy of a candidate: the activated subnet with its policy's arithmetic, on real data."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from hw_profiles.machine import this_cpu
from nas.candidate import Candidate
from nas.data.dataset import Part
from nas.errors import NasError
from nas.quantization.arithmetic import simulate
from search_spaces.elastic import Supernet


class EvaluationError(NasError, RuntimeError):
    """A candidate whose outputs are not numbers."""


def accuracy_noise(accuracy: float, n_images: int) -> float:
    """Standard error of an accuracy measured on n independent images.

    >>> round(accuracy_noise(0.9, 4000), 4)
    0.0047
    """
    return math.sqrt(max(accuracy * (1 - accuracy), 0.0) / n_images)


@contextmanager
def _one_thread_an_operator() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Evaluator:
    """Holds a supernet, takes candidates, gives back logits and accuracies.

    Args:
        supernet: trained, in float32; it is copied to the runtime's native type where that differs.
        runtime: whose arithmetic is simulated.
        native: the runtime's native type, `fp32` or `bf16`.
        batch_size: of the deployment: the images that share one dynamic activation scale.
        images_per_pass: evaluated at once, rounded down to whole deployment batches.
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
        images_per_pass: int = 128,
        threads: int | None = None,
    ) -> None:
        self.dtype = torch.bfloat16 if native == "bf16" else torch.float32
        self.supernet = supernet.eval()
        if self.dtype is not torch.float32:
            self.supernet = copy.deepcopy(supernet).to(self.dtype).eval()
        self.runtime = runtime
        self.batch_size = batch_size
        self.images_per_pass = max(images_per_pass // batch_size, 1) * batch_size
        self.threads = threads or this_cpu().cores or 1

    def logits(self, candidate: Candidate, part: Part, first: int | None = None) -> Tensor:
        """Outputs (n, classes) in float32 for a part's images, or its first ones.

        Raises:
            EvaluationError: if an output is not finite.
        """
        self.supernet.activate(candidate.architecture)
        order = torch.arange(len(part) if first is None else min(first, len(part)))

        def one_pass(chosen: Tensor) -> Tensor:
            with torch.inference_mode():
                images, _ = part.batch(chosen)
                logits: Tensor = self.supernet(images.to(self.dtype))
                return logits.float()

        with (
            simulate(self.supernet, candidate.policy, self.runtime, self.batch_size),
            _one_thread_an_operator(),
            ThreadPoolExecutor(self.threads) as passes,
        ):
            found = torch.cat(list(passes.map(one_pass, order.split(self.images_per_pass))))
        if not torch.isfinite(found).all():
            raise EvaluationError(
                "an output is not finite.", "The policy overflows this network: it is no candidate."
            )
        return found

    def accuracy(self, candidate: Candidate, part: Part) -> float:
        """Share of a part's images whose largest output is their label, in [0, 1]."""
        decided = self.logits(candidate, part).argmax(dim=1)
        return float((decided == part.labels).double().mean())
