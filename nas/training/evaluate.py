"""How good a subnet is while its supernet is trained."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from nas.data.dataset import Part
from nas.data.metric import Metric
from search_spaces.elastic import Supernet
from search_spaces.space import Architecture, SearchSpace

SMALL_PARAMETERS = 1_000_000
MOST_EXAMPLES = 4_096
MOST_A_PASS = 500
PASS_ELEMENTS = 2**24
"""That the examples of a pass hold in one layer at most, 64 MiB of fp32."""


@contextlib.contextmanager
def threads_for(network: nn.Module) -> Iterator[None]:
    """One thread for a small network, torch's own number for others.

    Operators of a small network take microseconds. A second thread makes them a third faster at
    best, and ten times slower where another program holds that core. With one, the weights do
    not depend on the machine's number of cores either.
    """
    before = torch.get_num_threads()
    if sum(p.numel() for p in network.parameters()) < SMALL_PARAMETERS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pass_size(space: SearchSpace, most: int) -> int:
    """Examples that one pass takes, so that memory does not grow with the network.

    >>> import search_spaces
    >>> [pass_size(search_spaces.get("vit", preset), 128) for preset in ("digits", "base")]
    [128, 11]
    """
    return max(min(most, PASS_ELEMENTS // held_elements(space)), 1)


def held_elements(space: SearchSpace) -> int:
    """That one example holds at once in the largest network's largest layer."""
    return max(op.live for _, op in space.workload(space.largest()))


def quality(
    network: Supernet,
    arch: Architecture,
    part: Part,
    metric: Metric,
    calibration: Iterable[Tensor] = (),
    limit_s: float = math.inf,
) -> float:
    """A subnet's mean quality on a fixed sample of a part.

    Args:
        network: whose subnet; its mode is left as it was.
        arch: of the subnet; active afterwards, with statistics of its own.
        part: at most `MOST_EXAMPLES` of it are used.
        metric: of the quality.
        calibration: training inputs for the statistics of batch norms (once-for-all,
            arXiv:1908.09791: without them a subnet's quality is noise).
        limit_s: after which the examples that were seen must do.
    """
    training = network.training
    network.activate(arch).eval()
    device = next(network.parameters()).device
    began = time.perf_counter()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(part))[:MOST_EXAMPLES])
    found: list[Tensor] = []
    with torch.inference_mode(), threads_for(network):
        network.calibrate(inputs.to(device) for inputs in calibration)
        for chosen in torch.split(order, pass_size(network.space, MOST_A_PASS)):
            inputs, labels = part.batch(chosen)
            logits = network(inputs.to(device)).float()
            found.append(metric.scores(logits, labels.to(device)).cpu())
            if time.perf_counter() - began > limit_s:
                break
    network.train(training)
    return float(torch.cat(found).mean())
