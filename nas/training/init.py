"""Starting a supernet from weights that exist: what fits is kept, the rest stays as initialised.

The file is read here; which foreign entry is which of ours is the family's `from_reference`, and
which units go first is its `sort`; those of a trained supernet stay where they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas.errors import CheckpointError, NasError, UsageError
from nas.training.foreign import Foreign, read_foreign
from search_spaces.space import SearchSpace

HUB_PREFIX = {"hf": "", "timm": "timm/"}
"""Kinds whose weights may be named rather than given as a file."""
LEAST_SHARE = 0.5
"""Of the parameters; with less kept, the reference is another network."""
SHOWN = 4


@dataclass(frozen=True, eq=False)
class Initial:
    """The weights that a training starts from.

    Attributes:
        source: as asked for, such as `hf:FOLDER`.
        state: every entry of the supernet's network.
        kept: names taken from the reference.
        fresh: names left as initialised -> why.
        sorted: what was put in order of importance.
        unused: entries of the reference that have no place in this space.
        ema: whether the reference is the moving average of its file.
        kept_parameters: how many parameters were taken.
        parameters: how many the supernet has.
        digest: SHA-256 of the state.
    """

    source: str
    state: dict[str, Tensor]
    kept: tuple[str, ...]
    fresh: dict[str, str]
    sorted: tuple[str, ...]
    unused: tuple[str, ...]
    ema: bool
    kept_parameters: int
    parameters: int
    digest: str

    def lines(self) -> list[str]:
        """What was kept, left as initialised, left out and sorted, one line each."""
        share = self.kept_parameters / self.parameters
        average = ", the moving average" if self.ema else ""
        lines = [
            f"start from {self.source}{average}: {self.kept_parameters:,} of "
            f"{self.parameters:,} parameters kept ({_percent(share)})"
        ]
        if self.fresh:
            lines.append(f"as initialised: {_some([f'{k} ({v})' for k, v in self.fresh.items()])}")
        if self.unused:
            lines.append(f"no place for: {_some(self.unused)}")
        if self.sorted:
            lines.append(f"sorted by importance: {_some(self.sorted)}")
        return lines


def initial_weights(space: SearchSpace, source: str, seed: int = 0) -> Initial:
    """The state that a supernet starts from, out of foreign weights.

    Args:
        space: of the supernet.
        source: `KIND:PLACE`; the kind is one of the space's `references`, the place a file, and
            for `hf` and `timm` also a folder or a name in the Hugging Face cache.
        seed: of the initial weights that the reference does not give.

    Raises:
        CheckpointError: if a file is damaged or holds more than weights.
        NotFoundError: if there is no such file, or the name is not in the cache.
        UsageError: if the space reads no such weights, too little of them fits, or the
            `config.json` beside them tells of a network that computes something else.
    """
    kind, place = _parts(space, source)
    foreign = read_foreign(place, HUB_PREFIX.get(kind))
    _check_settings(space, kind, source, foreign.config)
    mapped = _mapped(space, kind, source, foreign)
    network = space.supernet(seed).network
    state = network.state_dict()
    kept: list[str] = []
    fresh: dict[str, str] = {}
    for name, own in state.items():
        given = mapped.get(name)
        if given is None:
            fresh[name] = "not given"
        elif given.shape != own.shape:
            fresh[name] = f"{_shape(given)} given, {_shape(own)} needed"
        elif given.is_floating_point() and not torch.isfinite(given).all():
            raise CheckpointError(
                f"{source}: {name} holds numbers that are not finite.", "Give other weights."
            )
        else:
            own.copy_(given)
            kept.append(name)
    parameters = {name: p.numel() for name, p in network.named_parameters()}
    total, taken = sum(parameters.values()), sum(parameters.get(name, 0) for name in kept)
    if taken < LEAST_SHARE * total:
        why = next((f"; {k}: {v}" for k, v in fresh.items() if v != "not given"), "")
        raise UsageError(
            f"only {_percent(taken / total)} of the parameters of {space.name} ({space.preset}) "
            f"are in {source}{why}.",
            "Give weights of the preset's largest network, or another preset.",
        )
    with torch.no_grad():
        in_order = () if kind in space.ordered else space.sort(network)
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    return Initial(
        source=source,
        state=state,
        kept=tuple(kept),
        # Buffers that every network begins with alike are no news.
        fresh={name: why for name, why in fresh.items() if name in parameters},
        sorted=in_order,
        unused=tuple(sorted(mapped.keys() - state.keys())),
        ema=foreign.ema,
        kept_parameters=taken,
        parameters=total,
        digest=state_digest(state),
    )


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _parts(space: SearchSpace, source: str) -> tuple[str, str]:
    """Kind and place, if the space reads that kind."""
    kind, colon, place = source.partition(":")
    if not colon or not place:
        raise UsageError(
            f"{source!r} does not say where the weights are.",
            "Give a kind and a place, such as `hf:FOLDER`.",
        )
    if kind not in space.references:
        reads = ", ".join(space.references) or "none"
        raise UsageError(f"{space.name} reads no {kind} weights.", f"Kinds that it reads: {reads}.")
    return kind, place


def _check_settings(space: SearchSpace, kind: str, source: str, config: Mapping[str, Any]) -> None:
    """Refuse weights of a network that has the right shapes and computes something else."""
    for name, ours in space.reference_settings(kind).items():
        theirs: Any = config
        for part in name.split("."):
            theirs = theirs.get(part) if isinstance(theirs, Mapping) else None
        if theirs is not None and theirs != ours:
            raise UsageError(
                f"{source} is a network with {name} {str(theirs)[:40]}, {space.name} "
                f"({space.preset}) computes with {ours}.",
                "Give weights of a network that is alike, or choose another preset.",
            )


def _mapped(space: SearchSpace, kind: str, source: str, foreign: Foreign) -> dict[str, Tensor]:
    """The foreign weights under this family's names."""
    try:
        return space.from_reference(kind, foreign.state)
    except NasError:
        raise
    except (LookupError, RuntimeError, ValueError) as error:
        # A mapping relies on the shapes of its kind; these are some other network's.
        raise CheckpointError(
            f"{source} holds no {kind} weights that {space.name} can read ({error}).",
            "Check that they are of this family.",
        ) from None


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _percent(share: float) -> str:
    return "all" if share == 1 else f"{min(share, 0.9999):.1%}"


def _some(names: list[str] | tuple[str, ...]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
