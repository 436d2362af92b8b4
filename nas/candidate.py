"""Candidates: an architecture and its quantization policy as one genome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hw_profiles.errors import NotFoundError, UsageError, nearest
from search_spaces.choices import Choice, ChoiceSet, Genomes, Value
from search_spaces.space import SearchSpace

# One letter a scheme, so that a layer's policy reads as one short word.
LETTERS = {
    "fp32": "f", "bf16": "b", "fp16": "h", "fp8": "e", "int8": "8", "int8_wo": "w", "int4_wo": "4",
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """One network of a study: what is built, and how each layer group is quantized.

    Attributes:
        architecture: a value for every active choice.
        policy: a scheme for every quantizable layer group that exists.
    """

    architecture: dict[str, Value]
    policy: dict[str, str]


@dataclass(frozen=True)
class CandidateSpace:
    """The joint space: the choices of a space, then a scheme for each layer group.

    Args:
        space: the architectures.
        schemes: what the target's runtime really runs, the native one first.
    """

    space: SearchSpace
    schemes: tuple[str, ...]

    @cached_property
    def choices(self) -> ChoiceSet:
        """The joint genome: architecture genes, then policy genes, in block order."""
        policy = [
            Choice(f"{block.name}.{group}", self.schemes, block.active, ordinal=False)
            for block in self.space.blocks
            for group in block.groups
        ]
        return ChoiceSet((*self.space.choices.choices, *policy))

    def decode(self, genome: NDArray[np.int64]) -> Candidate:
        """The candidate of one genome, (genes,)."""
        values = self.choices.decode(genome)
        names = set(self.space.choices.names)
        return Candidate(
            {k: v for k, v in values.items() if k in names},
            {k: str(v) for k, v in values.items() if k not in names},
        )

    def encode(self, architecture: Mapping[str, Value], policy: Mapping[str, str]) -> Genomes:
        """The genome (genes,) of a candidate.

        Raises:
            NotFoundError: if a scheme is not offered.
            UsageError: if something active is missing, unknown or out of range.
        """
        for scheme in policy.values():
            if scheme not in self.schemes:
                raise nearest(str(scheme), self.schemes, "scheme on this target")
        return self.choices.encode({**architecture, **policy})

    def uniform(self, architecture: Mapping[str, Value], scheme: str) -> Candidate:
        """An architecture with one scheme everywhere.

        Raises:
            NotFoundError: if the scheme is not offered.
        """
        if scheme not in self.schemes:
            raise nearest(scheme, self.schemes, "scheme on this target")
        arch = self.space.choices.decode(self.space.choices.encode(architecture))
        policy = {
            f"{block.name}.{group}": scheme
            for block in self.space.blocks
            for group in block.groups
            if block.active is None or arch.get(block.active.choice) in block.active.values
        }
        return Candidate(arch, policy)

    def describe_policy(self, policy: Mapping[str, str]) -> str:
        """One letter a layer group, one word a layer; a uniform policy is its scheme's name.

        Letters: f fp32, b bf16, h fp16, e fp8, 8 int8, w int8 weight-only, 4 int4 weight-only.
        """
        schemes = set(policy.values())
        if len(schemes) == 1:
            return next(iter(schemes))
        words = []
        for block in self.space.blocks:
            letters = [
                LETTERS[policy[k]] for g in block.groups if (k := f"{block.name}.{g}") in policy
            ]
            if letters:
                words.append("".join(letters))
        return "-".join(words)


def parse_architecture(space: SearchSpace, text: str) -> dict[str, Value]:
    """An architecture from `largest`, `smallest` or `choice=value,...` over the largest.

    A name without a layer index, or with a star for it, sets every layer: `depth=3,heads=2,ffn=M`.

    Raises:
        NotFoundError: if a choice is unknown, or a value is not among the choice's.
        UsageError: if the text is empty.
    """
    if text in ("largest", "smallest"):
        return space.largest() if text == "largest" else space.smallest()
    row = space.choices.extreme(largest=True)[0]
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError(
            f"{text!r} is no architecture.",
            f"Write `largest`, `smallest`, or choices over the largest: "
            f"{space.choices.names[0]}={space.choices.choices[0].values[0]}; "
            f"`nas spaces {space.name}` lists them.",
        )
    named: list[Choice] = []
    for part in parts:
        name, _, value = part.partition("=")
        matching = [
            c
            for c in space.choices.choices
            if fnmatchcase(c.name, name) or c.name.split(".")[-1] == name
        ]
        if not matching:
            known = {c.name.split(".")[-1] for c in space.choices.choices}
            raise nearest(name, known, f"choice of {space.name}")
        for choice in matching:
            texts = [str(v) for v in choice.values]
            if value not in texts:
                raise NotFoundError(
                    f"{choice.name} cannot be {value!r}.", f"Choose one of {', '.join(texts)}."
                )
            row[space.choices.index(choice.name)] = texts.index(value)
        named += matching if len(matching) == 1 else []
    twice = [c.name for i, c in enumerate(named) if c in named[:i]]
    if twice:
        raise UsageError(f"{twice[0]} stands twice in {text!r}.", "Give each choice once.")
    active = space.choices.active(row[None, :])[0]
    unused = [c.name for c in named if not active[space.choices.index(c.name)]]
    if unused:
        raise UsageError(f"the network has no {unused[0]}.", "Leave it out, or make it deeper.")
    return space.choices.decode(row)
