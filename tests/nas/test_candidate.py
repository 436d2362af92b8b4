"""Candidates: one genome for architecture and policy; identity by active parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search_spaces
from hw_profiles.op import PRECISIONS
from nas.candidate import LETTERS, CandidateSpace, parse_architecture
from nas.errors import NotFoundError, UsageError

SPACE = CandidateSpace(search_spaces.get("vit", "digits"), ("fp32", "int8", "int4_wo"))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_genomes_and_candidates_round_trip(seed: int) -> None:
    genome = SPACE.choices.sample(1, np.random.default_rng(seed))[0]
    candidate = SPACE.decode(genome)
    assert (SPACE.encode(candidate.architecture, candidate.policy) == genome).all()
    depth = int(candidate.architecture["depth"])
    assert len(candidate.policy) == 4 * depth
    assert set(candidate.policy) == {
        f"layers.{i}.{g}" for i in range(depth) for g in ("qkv", "proj", "fc1", "fc2")
    }


def test_the_policy_of_a_missing_layer_changes_no_key() -> None:
    genome = SPACE.choices.extreme(largest=False)
    other = genome.copy()
    other[0, SPACE.choices.index("layers.5.qkv")] = 1
    assert SPACE.choices.keys(genome) == SPACE.choices.keys(other)
    other[0, SPACE.choices.index("layers.0.qkv")] = 1
    assert SPACE.choices.keys(genome) != SPACE.choices.keys(other)


def test_policies_read_as_one_word_a_layer() -> None:
    uniform = SPACE.uniform(SPACE.space.largest(), "int8")
    assert SPACE.describe_policy(uniform.policy) == "int8"
    mixed = {**SPACE.uniform({**SPACE.space.smallest()}, "int8").policy, "layers.0.fc2": "fp32"}
    assert SPACE.describe_policy(mixed) == "888f"


def test_unknown_schemes_propose_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="'int8'"):
        SPACE.uniform(SPACE.space.largest(), "int88")
    small = SPACE.uniform(SPACE.space.smallest(), "int8")
    with pytest.raises(NotFoundError, match="scheme"):
        SPACE.encode(small.architecture, {**small.policy, "layers.0.qkv": "fp8"})


def test_architectures_are_read_from_text() -> None:
    space = SPACE.space
    assert parse_architecture(space, "largest") == space.largest()
    assert parse_architecture(space, "smallest") == space.smallest()
    arch = parse_architecture(space, "depth=2, heads=3, layers.1.ffn=S")
    assert arch["layers.0.heads"] == arch["layers.1.heads"] == 3
    assert (arch["layers.0.ffn"], arch["layers.1.ffn"], arch["embed"]) == ("XL", "S", 64)
    assert "layers.2.heads" not in arch
    with pytest.raises(NotFoundError, match="'heads'"):
        parse_architecture(space, "head=3")
    with pytest.raises((NotFoundError, UsageError), match="Choose one of"):
        parse_architecture(space, "heads=9")


def test_every_precision_has_a_letter_of_its_own() -> None:
    assert set(LETTERS) == set(PRECISIONS)
    assert len(set(LETTERS.values())) == len(LETTERS)
