"""The training loop: largest, smallest and random subnets in each step, one checkpoint an epoch.

All randomness of an epoch (which images, which subnets) comes from a generator seeded by the
training's seed and the epoch's number, and networks have no dropout: an interrupted training that
continues from its last epoch draws exactly what it would have drawn.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data.dataset import Dataset, Part
from nas.errors import CheckpointError, NasError, UsageError
from nas.training.checkpoint import check_tensors, read_tensors, write_tensors
from nas.training.recipe import Recipe
from search_spaces.elastic import Supernet
from search_spaces.space import Architecture, SearchSpace

SMALL_PARAMETERS = 1_000_000


class TrainingError(NasError, RuntimeError):
    """A training whose loss is no longer a number."""


@dataclass(frozen=True)
class Progress:
    """What a training tells after each step and after each epoch's evaluation.

    Attributes:
        epoch: running, from 1.
        epochs: in all; a time limit may end training before.
        step: of the epoch, from 1.
        steps: of an epoch.
        loss: of the largest subnet, averaged over the epoch so far.
        accuracy_largest: on validation after the last whole epoch; None before the first.
        accuracy_smallest: likewise.
        share: of the training that is done, 0 to 1.
        seconds_left: by the time limit, or estimated from the time taken so far.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy_largest: float | None
    accuracy_smallest: float | None
    share: float
    seconds_left: float


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        network: trained, in evaluation mode.
        history: of each epoch: epoch, loss, accuracy_largest, accuracy_smallest, seconds
            so far, share of the training done.
        seconds: of all bursts together.
        ended_by: `epochs` or `time`.
    """

    network: Supernet
    history: list[dict[str, float]]
    seconds: float
    ended_by: str


def fit(
    space: SearchSpace,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    *,
    time_limit_s: float | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    checkpoint: Path | None = None,
) -> Training:
    """Train a supernet, continuing from the checkpoint if there is one.

    Args:
        space: of the subnets; its input and classes are the data's.
        data: train and validation are used.
        recipe: hyper-parameters.
        seed: of initial weights, order of images and choice of subnets.
        time_limit_s: of this call. The learning rate then falls with the time, so that training
            ends properly however far it comes; a continued training falls from where it stood.
        progress: called after each step, and after each epoch's evaluation.
        checkpoint: file that is written after each epoch.

    Raises:
        UsageError: if the data do not fit the space, or the time limit is not positive.
        TrainingError: if the loss is not finite.
        CheckpointError: if the checkpoint is foreign or cannot be written.
    """
    _check(space, data, time_limit_s)
    clock = _Clock(time_limit_s)
    network = space.supernet(seed).train()
    with threads_for(network):
        return _fit(network, data, recipe, seed, clock, progress, checkpoint)


def _fit(
    network: Supernet,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    clock: _Clock,
    progress: Callable[[Progress], None],
    checkpoint: Path | None,
) -> Training:
    space = network.space
    optimizer = _adamw(network, recipe)
    history: list[dict[str, float]] = []
    if checkpoint is not None and checkpoint.exists():
        history = _resume(checkpoint, network, optimizer, recipe, seed)
        clock.start_share = history[-1]["share"]
        clock.seconds_before = history[-1]["seconds"]
    per_epoch = min(recipe.images_per_epoch, len(data.train))
    steps = max(per_epoch // recipe.batch_size, 1)

    def tell(epoch: int, step: int, losses: list[float]) -> float:
        share = clock.share((epoch * steps + step) / (recipe.epochs * steps))
        last = history[-1] if history else {}
        progress(
            Progress(
                epoch + 1,
                recipe.epochs,
                step,
                steps,
                sum(losses) / len(losses),
                last.get("accuracy_largest"),
                last.get("accuracy_smallest"),
                share,
                clock.seconds_left(share),
            )
        )
        return share

    share = clock.share(len(history) / recipe.epochs)
    for epoch in range(len(history), recipe.epochs):
        rng = np.random.default_rng([seed, epoch])
        images = torch.from_numpy(rng.permutation(len(data.train))[:per_epoch])
        losses: list[float] = []
        for step, chosen in enumerate(torch.split(images, recipe.batch_size)[:steps], 1):
            by_steps = (epoch * steps + step - 1) / (recipe.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(share, by_steps)
            batch, labels = data.train.batch(chosen)
            losses.append(_step(network, optimizer, batch, labels, recipe, rng))
            if not math.isfinite(losses[-1]):
                raise TrainingError(
                    f"the loss is {losses[-1]} in step {step} of epoch {epoch + 1}.",
                    "Lower the recipe's learning rate.",
                )
            share = tell(epoch, step, losses)
            if share >= 1:
                break
        accuracies = {
            f"accuracy_{name}": accuracy(network, arch, data.validation, clock.evaluation_s())
            for name, arch in (("largest", space.largest()), ("smallest", space.smallest()))
        }
        loss = sum(losses) / len(losses)
        seconds = clock.seconds_before + clock.spent()
        history.append({"epoch": epoch + 1, "loss": loss, **accuracies, "seconds": seconds})
        history[-1]["share"] = share = tell(epoch, len(losses), losses)
        if share >= 1:
            break
        if checkpoint is not None:
            _save(checkpoint, network, optimizer, recipe, seed, history)
    ended_by = "epochs" if len(history) == recipe.epochs else "time"
    network.activate(space.largest()).eval()
    return Training(network, history, history[-1]["seconds"], ended_by)


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


def accuracy(network: Supernet, arch: Architecture, part: Part, limit_s: float = math.inf) -> float:
    """Share of a part's images that a subnet labels rightly; of the first that time allows."""
    training = network.training
    network.activate(arch).eval()
    began = time.perf_counter()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(part)))
    right = seen = 0
    with torch.inference_mode(), threads_for(network):
        for chosen in torch.split(order, 500):
            images, labels = part.batch(chosen)
            right += int((network(images).argmax(dim=1) == labels).sum())
            seen += len(chosen)
            if time.perf_counter() - began > limit_s:
                break
    network.train(training)
    return right / seen


def _check(space: SearchSpace, data: Dataset, time_limit_s: float | None) -> None:
    if space.n_classes != data.n_classes or tuple(space.input_shape) != data.input_shape:
        raise UsageError(
            f"{space.name} is set up for {space.n_classes} classes of {space.input_shape}, "
            f"{data.name} has {data.n_classes} of {data.input_shape}.",
            "Make the space with the data's classes and channels.",
        )
    if time_limit_s is not None and not (math.isfinite(time_limit_s) and time_limit_s > 0):
        raise UsageError(f"a training of {time_limit_s} s is none.", "Give a longer --train-time.")


def _step(
    network: Supernet,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    rng: np.random.Generator,
) -> float:
    """One sandwich; returns the largest's loss."""
    choices = network.space.choices
    random = [choices.decode(genome) for genome in choices.sample(recipe.random_subnets, rng)]
    students = [network.space.smallest(), *random]
    optimizer.zero_grad(set_to_none=True)
    logits: Tensor = network.activate(network.space.largest())(images)
    loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    torch.autograd.backward(loss / (1 + len(students)))
    soft = logits.detach().softmax(dim=1)
    for arch in students:
        distilled = F.cross_entropy(network.activate(arch)(images), soft)
        torch.autograd.backward(distilled / (1 + len(students)))
    nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
    optimizer.step()
    return float(loss.detach())


def _adamw(network: Supernet, recipe: Recipe) -> torch.optim.AdamW:
    named = list(network.named_parameters())
    decayed = [p for name, p in named if name.endswith("weight") and p.ndim > 1]
    others = [p for name, p in named if not (name.endswith("weight") and p.ndim > 1)]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)


class _Clock:
    """How much of the training is done, by steps or by time, whichever is further."""

    def __init__(self, limit_s: float | None) -> None:
        self.began = time.monotonic()
        self.limit_s = limit_s
        self.start_share = 0.0
        self.seconds_before = 0.0

    def spent(self) -> float:
        return time.monotonic() - self.began

    def share(self, by_steps: float) -> float:
        if self.limit_s is None:
            return by_steps
        # The last evaluation needs its time too.
        for_steps = self.limit_s - 2 * self.evaluation_s()
        by_time = self.start_share + (1 - self.start_share) * self.spent() / for_steps
        return min(max(by_steps, by_time), 1.0)

    def seconds_left(self, share: float) -> float:
        done = share - self.start_share
        return self.spent() * (1 - share) / done if done > 0 else math.inf

    def evaluation_s(self) -> float:
        """Limit of one evaluation: a few hundredths of the training."""
        return math.inf if self.limit_s is None else min(0.02 * self.limit_s, 2.0)


# --- one checkpoint an epoch ---------------------------------------------------------------------


def _state(network: Supernet, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    names: dict[Tensor, str] = {p: name for name, p in network.named_parameters()}
    for name, parameter in network.named_parameters():
        yield f"weights.{name}", parameter
    for tensor, moments in optimizer.state.items():
        for moment, value in moments.items():
            yield f"optimizer.{names[tensor]}.{moment}", value


def _identity(recipe: Recipe, seed: int) -> dict[str, Any]:
    return {"recipe": {**asdict(recipe), "betas": list(recipe.betas)}, "seed": seed}


def _save(
    path: Path,
    network: Supernet,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    seed: int,
    history: list[dict[str, float]],
) -> None:
    record = {**_identity(recipe, seed), "history": history}
    write_tensors(path, dict(_state(network, optimizer)), record)


def _resume(
    path: Path,
    network: Supernet,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    seed: int,
) -> list[dict[str, float]]:
    """Fill network and optimizer from a checkpoint; returns the epochs done."""
    tensors, record = read_tensors(path)
    history = record.get("history")
    same = {key: record.get(key) for key in ("recipe", "seed")} == _identity(recipe, seed)
    if not same or not isinstance(history, list) or not history:
        raise CheckpointError(f"{path} is of another training.", "Delete it to start anew.")
    for parameter in network.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    own = dict(_state(network, optimizer))
    check_tensors(path, tensors, own)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    return history
