"""The training loop of every recipe: steps, stages, one checkpoint an epoch, exact continuation.

Which examples and which subnets come is drawn from a generator seeded by the training's seed and
the epoch's number; what a step draws itself (layers left out, masks, augmentation) from one seeded
by seed, epoch, step and process. An interrupted training that continues from its last epoch
therefore draws exactly what it would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas.data.dataset import Dataset
from nas.data.metric import Metric
from nas.errors import CheckpointError, NasError, UsageError
from nas.training.checkpoint import read_tensors, write_tensors
from nas.training.clock import Clock
from nas.training.distributed import World, processes, this_device
from nas.training.evaluate import quality, threads_for
from nas.training.learner import Learner
from nas.training.log import Log, open_log
from nas.training.recipe import Moment, Recipe
from nas.training.schedule import Schedule
from nas.training.turn import Turn
from search_spaces.elastic import Supernet
from search_spaces.space import Architecture, SearchSpace


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
        stage: that runs.
        loss: of each step's first subnet, averaged over the epoch so far.
        qualities: on validation after the last whole epoch, of `largest` and `smallest`; empty
            before the first.
        metric: of the qualities.
        share: of the training that is done, 0 to 1.
        seconds_left: by the time limit, or estimated from the time taken so far.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    stage: str
    loss: float
    qualities: Mapping[str, float]
    metric: Metric
    share: float
    seconds_left: float


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        network: trained, in evaluation mode.
        history: of each epoch: epoch, loss, quality_largest, quality_smallest, seconds so far,
            share of the training done.
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
    epochs: int | None = None,
    time_limit_s: float | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    checkpoint: Path | None = None,
    initial: Mapping[str, Tensor] | None = None,
    device: torch.device | None = None,
    log: Path | None = None,
) -> Training:
    """Train a supernet, continuing from the checkpoint if there is one.

    Under `torchrun` every process calls this; the first alone evaluates, tells and writes.

    Args:
        space: of the subnets; its input and classes are the data's.
        data: train and validation are used.
        recipe: what is done.
        seed: of initial weights, order of examples and choice of subnets.
        epochs: instead of the recipe's.
        time_limit_s: of this call. The learning rate then falls with the time, so that training
            ends properly however far it comes; a continued training falls from where it stood.
        progress: called after each step, and after each epoch's evaluation.
        checkpoint: file that is written after each epoch.
        initial: weights to start from, by the names of the supernet's network; what is missing
            starts from the seed.
        device: to train on; a GPU where there is one, unless given.
        log: folder for TensorBoard's event files, if that is installed.

    Raises:
        UsageError: if the data or recipe do not fit the space, or the time limit is not positive.
        TrainingError: if the loss is not finite.
        CheckpointError: if the checkpoint is foreign or cannot be written.
    """
    recipe = recipe if epochs is None else replace(recipe, epochs=epochs)
    recipe.check(space)
    network = space.supernet(seed)
    _start_from(network, initial or {})
    judged = {"largest": space.largest(), "smallest": space.smallest()}
    job = Job(network, data, recipe, seed, judged, device or this_device())
    return job.run(time_limit_s, progress, checkpoint, log)


def _start_from(network: Supernet, initial: Mapping[str, Tensor]) -> None:
    own = network.network.state_dict()
    for name, tensor in initial.items():
        if name not in own or own[name].shape != tensor.shape:
            raise UsageError(
                f"the initial weights' {name} is none of this network's, or of another shape.",
                "Give weights of this space and preset.",
            )
    network.network.load_state_dict(dict(initial), strict=False)


class Job:
    """One training: what stays the same from its first step to its last.

    Args:
        network: to be trained.
        data: train and validation are used.
        recipe: what is done.
        seed: of the order of examples and the choice of subnets.
        judged: architectures whose quality its history tells after each epoch, by name.
        device: to train on.

    Raises:
        UsageError: if the data do not fit the network's space.
    """

    def __init__(
        self,
        network: Supernet,
        data: Dataset,
        recipe: Recipe,
        seed: int,
        judged: Mapping[str, Architecture],
        device: torch.device,
    ) -> None:
        space = network.space
        if space.n_classes != data.n_classes or tuple(space.input_shape) != data.input_shape:
            raise UsageError(
                f"{space.name} is set up for {space.n_classes} classes of {space.input_shape}, "
                f"{data.name} has {data.n_classes} of {data.input_shape}.",
                "Make the space with the data's classes and channels.",
            )
        self.space, self.data, self.recipe, self.seed = space, data, recipe, seed
        self.judged, self.device = judged, device
        self.largest = self.space.largest()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            helpers = recipe.helpers(network)
        network.to(device).train()
        self.learner = Learner(network, {n: m.to(device) for n, m in helpers.items()}, recipe)
        self.schedule = Schedule(recipe, space)
        self.per_epoch = min(recipe.examples_per_epoch or len(data.train), len(data.train))
        self.steps = max(self.per_epoch // recipe.batch_size, 1)
        self.stage: int | None = None
        self.history: list[dict[str, float]] = []

    def run(
        self,
        time_limit_s: float | None,
        progress: Callable[[Progress], None],
        checkpoint: Path | None,
        log: Path | None,
    ) -> Training:
        """Train to the end."""
        if time_limit_s is not None and not (math.isfinite(time_limit_s) and time_limit_s > 0):
            raise UsageError(
                f"a training of {time_limit_s} s is none.", "Give a longer --train-time."
            )
        self.clock, self.progress, self.checkpoint = Clock(time_limit_s), progress, checkpoint
        with (
            threads_for(self.learner.network),
            processes(self.device) as self.world,
            open_log(log if self.world.first else None) as self.log,
        ):
            self._check_parts(self.world.size)
            if checkpoint is not None and checkpoint.exists():
                self._resume(checkpoint)
            return self._epochs()

    def _check_parts(self, n_processes: int) -> None:
        """Refuse a batch of which some part would be too small, or some process have none."""
        recipe, batch = self.recipe, min(self.recipe.batch_size, self.per_epoch)
        parts, least = n_processes * recipe.accumulate, recipe.least_part
        why = ""
        # The last images may be of one pixel. The processes' examples count together there.
        if self.learner.network.calibrates and n_processes == 1:
            least, why = 2 * least, "; batch norms need two for each subnet that shares a part"
        if batch // parts < least:
            raise UsageError(
                f"a batch of {batch} leaves fewer than {least} examples to some part of "
                f"{parts}{why}.",
                f"Set batch_size of {recipe.name} to {parts * least} at least, or take fewer "
                "parts or processes.",
            )

    world: World
    log: Log
    by_time: float

    def _epochs(self) -> Training:
        recipe, clock = self.recipe, self.clock
        self.by_time = clock.start_share
        share = clock.start_share
        ended_by = "time"
        for epoch in range(len(self.history), recipe.epochs):
            losses, step, share = self._epoch(epoch, share)
            entry: dict[str, float] = {"epoch": epoch + 1, "loss": sum(losses) / len(losses)}
            if self.world.first:
                entry |= self._judge()
            entry["seconds"] = clock.seconds_before + clock.spent()
            self.history.append(entry)
            self.by_time = self.world.from_first(clock.by_time(), self.device)
            entry["share"] = share = self._tell(epoch, step, losses, self.by_time)
            figures = {k: v for k, v in entry.items() if k not in ("epoch", "share")}
            self.log(figures, (epoch + 1) * self.steps)
            if share >= 1:
                if (epoch + 1, step) == (recipe.epochs, self.steps):
                    ended_by = "epochs"
                break
            if self.checkpoint is not None and self.world.first:
                self._save(self.checkpoint)
        seconds = self.history[-1]["seconds"]
        return Training(self.learner.finish(), self.history, seconds, ended_by)

    def _epoch(self, epoch: int, share: float) -> tuple[list[float], int, float]:
        """The losses of its steps, the last of them, and the share of the training done then."""
        recipe = self.recipe
        rng = np.random.default_rng([self.seed, epoch])
        images = torch.from_numpy(rng.permutation(len(self.data.train))[: self.per_epoch])
        batches = torch.split(images, recipe.batch_size)[: self.steps]
        losses: list[float] = []
        began = share
        past: list[list[tuple[Turn, float]]] = []  # the latest first
        step = 0
        while step < len(batches) and share < 1:
            by_steps = (epoch * self.steps + step) / (recipe.epochs * self.steps)
            index = self.schedule.index(share)
            steps_left = (recipe.epochs - epoch) * self.steps - step
            affordable = self.clock.affordable(self.by_time, steps_left)
            moment = Moment(self.schedule.stages[index], epoch, began, affordable)
            if index != self.stage:
                recipe.begin_stage(moment, self.learner)
                self.learner.restart()
                past.clear()
                self.stage = index
            if step == 0:
                recipe.begin_epoch(moment, self.learner)
            joined = batches[step : step + recipe.joined(moment)]
            chosen, step = torch.cat(joined), step + len(joined)
            rate = self.schedule.rate(share, by_steps)
            with torch.random.fork_rng(devices=[] if self.device.type == "cpu" else [self.device]):
                torch.manual_seed(self._step_seed(epoch, step))
                subnets = recipe.subnets(self.space, moment, rng)
                past.insert(0, list(self._turns(chosen, moment, subnets)))
                updates = list(recipe.updates(subnets))
                ago = [recipe.steps_ago(n, moment) for n in range(len(updates))]
                told = [
                    self._update(past[min(steps, len(past) - 1)], trained, rate, epoch, step)
                    for steps, trained in zip(ago, updates, strict=True)
                ]
                del past[max(ago) + 1 :]
            self.clock.subnets += len(subnets) * len(joined)
            loss, self.by_time = told[0][0], told[-1][1]
            losses.append(loss)
            self.log({"step/loss": loss, "step/rate": rate}, epoch * self.steps + step)
            share = self._tell(epoch, step, losses, self.by_time)
        return losses, step, share

    def _update(
        self,
        turns: Sequence[tuple[Turn, float]],
        subnets: Sequence[Architecture],
        rate: float,
        epoch: int,
        step: int,
    ) -> tuple[float, float]:
        """Change the weights once; the first loss and the share done by time, on every process."""
        learner, told = self.learner, 0.0
        learner.optimizer.zero_grad(set_to_none=True)
        with self.world.joint_norms():
            for turn, weight in turns:
                losses = self.recipe.losses(replace(turn, subnets=subnets))
                for at, (loss, scale) in enumerate(losses):
                    torch.autograd.backward(loss * (scale * weight))
                    if at == 0:
                        told += float(loss.detach()) * weight
        by_time = self.clock.by_time() if self.world.first else 0.0
        told, by_time = self.world.reduce(learner.parameters.values(), told, by_time)
        norm = learner.clip()
        if not (math.isfinite(told) and math.isfinite(norm)):
            raise self._not_finite(told, norm, epoch, step)
        learner.update(rate, whole=any(arch == self.largest for arch in subnets))
        return told, by_time

    def _turns(
        self, chosen: Tensor, moment: Moment, subnets: Sequence[Architecture]
    ) -> Iterator[tuple[Turn, float]]:
        """Prepared examples that run at once, with their share of the whole batch.

        Parts, and processes of a part, take every n-th example, so that a part's first half holds
        the same examples as the batch's first half.
        """
        helpers = dict(self.learner.helpers.items())
        for first in range(self.recipe.accumulate):
            part = chosen[first :: self.recipe.accumulate][self.world.rank :: self.world.size]
            inputs, labels = self.data.train.batch(part)
            inputs, labels = inputs.to(self.device), labels.to(self.device)
            if self.data.augmentation != "none":
                from nas.data.augment import augment

                generator = torch.Generator(self.device)
                generator.manual_seed(int(torch.randint(2**62, ())))
                inputs = augment(self.data.augmentation, inputs, generator)
            turn = Turn(
                self.learner.network,
                helpers,
                moment,
                subnets,
                inputs,
                labels,
                self.recipe.label_smoothing,
            )
            yield turn, len(part) / len(chosen)

    def _step_seed(self, epoch: int, step: int) -> int:
        words = np.random.SeedSequence([self.seed, epoch, step, self.world.rank])
        return int(words.generate_state(1, np.uint64)[0] >> 1)

    def _judge(self) -> dict[str, float]:
        from nas.evaluation import calibration_batches

        network, data = self.learner.network, self.data
        calibration = calibration_batches(data) if network.calibrates else []
        limit_s = self.clock.evaluation_s()
        with self.learner.averaged():
            return {
                f"quality_{name}": quality(
                    network, arch, data.validation, data.metric, calibration, limit_s
                )
                for name, arch in self.judged.items()
            }

    def _tell(self, epoch: int, step: int, losses: list[float], by_time: float) -> float:
        epochs = self.recipe.epochs
        by_steps = (epoch * self.steps + step) / (epochs * self.steps)
        share = min(max(self.clock.by_steps(by_steps), by_time), 1.0)
        if self.world.first:
            last = self.history[-1] if self.history else {}
            known = {k.removeprefix("quality_"): v for k, v in last.items() if "quality_" in k}
            stage = self.schedule.stages[self.schedule.index(share)].name
            self.progress(
                Progress(
                    epoch + 1,
                    epochs,
                    step,
                    self.steps,
                    stage,
                    sum(losses) / len(losses),
                    known,
                    self.data.metric,
                    share,
                    self.clock.seconds_left(share),
                )
            )
        return share

    def _not_finite(self, loss: float, norm: float, epoch: int, step: int) -> TrainingError:
        what = f"the gradient's norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
        kept = "there is no checkpoint yet"
        if self.checkpoint is not None and self.checkpoint.exists():
            kept = (
                f"the last good checkpoint, after epoch {len(self.history)}, is {self.checkpoint}"
            )
        return TrainingError(
            f"{what} in step {step} of epoch {epoch + 1}; {kept}.",
            f"Lower the recipe's learning_rate, which is {self.recipe.learning_rate:g}.",
        )

    # --- one checkpoint an epoch ----------------------------------------------------------------

    def _identity(self) -> dict[str, object]:
        return {"recipe": self.recipe.record(), "seed": self.seed}

    def _save(self, path: Path) -> None:
        record = {**self._identity(), "history": self.history, "stage": self.stage}
        write_tensors(path, self.learner.tensors(), {**record, "updates": self.learner.updates})

    def _resume(self, path: Path) -> None:
        tensors, record = read_tensors(path)
        history, stage, updates = (record.get(key) for key in ("history", "stage", "updates"))
        same = {key: record.get(key) for key in ("recipe", "seed")} == self._identity()
        if not (
            same
            and isinstance(history, list)
            and history
            and all(map(_is_entry, history))
            and isinstance(stage, int)
            and 0 <= stage < len(self.schedule.stages)
            and isinstance(updates, int)
        ):
            raise CheckpointError(
                f"{path} is of another training, or damaged.", "Delete it to start anew."
            )
        self.learner.load(path, tensors)
        self.history, self.stage, self.learner.updates = list(history), stage, updates
        self.clock.start_share = self.history[-1]["share"]
        self.clock.start_steps = len(self.history) / self.recipe.epochs
        self.clock.seconds_before = self.history[-1]["seconds"]


def _is_entry(entry: object) -> bool:
    """Whether this can be what a history tells of an epoch."""
    if not isinstance(entry, dict):
        return False
    share, seconds = entry.get("share"), entry.get("seconds")
    if not (isinstance(share, int | float) and isinstance(seconds, int | float)):
        return False
    return 0 <= share < 1 and 0 <= seconds < math.inf
