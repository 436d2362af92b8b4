"""Several processes that train one supernet, started by `torchrun`.

Every process draws the same subnets from the same seed and takes its share of the batch. An
update reduces once: all gradients in one row, with the loss and the first process's clock behind
them. Batch norms reduce beside it (see `joint_norms`): without that, processes would train
something else than one process does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from nas.errors import UsageError
from nas.training.joint_norms import JointNorms
from nas.wording import counted


@dataclass(frozen=True)
class World:
    """The processes of a training.

    Attributes:
        rank: of this process; the first one, 0, alone evaluates, tells and writes.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process evaluates, tells and writes."""
        return self.rank == 0

    def reduce(self, parameters: Iterable[nn.Parameter], *figures: float) -> tuple[float, ...]:
        """Sum gradients and figures over all processes.

        Parameters without a gradient are left out: they are the same ones on each process, for
        all run the same subnets.
        """
        if self.size == 1:
            return figures
        gradients = [p.grad for p in parameters if p.grad is not None]
        told = gradients[0].new_tensor(figures)
        row = torch.cat([*(g.flatten() for g in gradients), told])
        dist.all_reduce(row)
        parts = row.split([*(g.numel() for g in gradients), len(figures)])
        for gradient, part in zip(gradients, parts, strict=False):
            gradient.copy_(part.view_as(gradient))
        return tuple(parts[-1].tolist())

    def joint_norms(self) -> contextlib.AbstractContextManager[object]:
        """While this lasts, batch norms in training see the examples of all processes."""
        return contextlib.nullcontext() if self.size == 1 else JointNorms()

    def from_first(self, figure: float, device: torch.device) -> float:
        """The first process's figure, on every process."""
        if self.size == 1:
            return figure
        told = torch.tensor([figure], dtype=torch.float32, device=device)
        dist.broadcast(told, 0)
        return float(told)

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def _several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def first_process() -> bool:
    """Whether this is the first of the processes that `torchrun` started, or the only one."""
    return not _several() or int(os.environ.get("RANK", "0")) == 0


def this_device() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def _require_gpu_each(gpus: int) -> None:
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if here > gpus:
        raise UsageError(
            f"torchrun started {here} processes for {counted(gpus, 'GPU')}: each needs its own.",
            f"Start it with --nproc-per-node {gpus}, or on CPUs with CUDA_VISIBLE_DEVICES= .",
        )


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[World]:
    """The processes that `torchrun` started, connected while this lasts; else this one alone.

    Raises:
        UsageError: if more were started on this machine than it has GPUs.
    """
    if not _several():
        yield World()
        return
    if device.type == "cuda":
        _require_gpu_each(torch.cuda.device_count())
    connects = not dist.is_initialized()
    if connects:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        if connects:
            dist.destroy_process_group()
