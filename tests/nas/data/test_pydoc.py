"""The language reference: cut at headings, nothing in two parts, learnable but not trivial."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.data import Dataset, load_dataset
from nas.data.pydoc import SHORT, sections, split
from nas.data.text import PARTS
from nas.errors import UsageError


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("pydoc", (64,), "tokens")


def _text(data: Dataset, part: str) -> bytes:
    """The part's bytes, each once."""
    stored = getattr(data, part).stored
    each = stored[::4] if part == "train" else stored
    return bytes(each[:, 1:].flatten().numpy())


def _paragraphs(text: bytes) -> set[str]:
    found = (" ".join(each.split()) for each in text.decode(errors="replace").split("\n\n"))
    return {each for each in found if len(each) >= SHORT}


def test_parts_are_english_about_python_and_large_enough(data: Dataset) -> None:
    assert data.n_classes == 256
    for part, least in zip(PARTS, (150_000, 40_000, 40_000), strict=True):
        text = _text(data, part)
        assert len(text) > least
        assert b" the " in text


def test_no_paragraph_is_in_two_parts(data: Dataset) -> None:
    found = [_paragraphs(_text(data, part)) for part in PARTS]
    assert min(map(len, found)) > 100
    assert sum(map(len, found)) == len(set.union(*found))


def test_same_text_at_every_length(data: Dataset) -> None:
    again, longer = load_dataset("pydoc", (64,)), load_dataset("pydoc", (100,))
    assert again.fingerprint == data.fingerprint
    assert again.test.stored.equal(data.test.stored)
    assert longer.fingerprint != data.fingerprint
    assert longer.input_shape == (100,)
    n = min(longer.test.stored[:, 1:].numel(), data.test.stored[:, 1:].numel())
    assert _text(longer, "test")[:n] == _text(data, "test")[:n]


def test_context_helps_on_text_that_was_not_seen(data: Dataset) -> None:
    """Counting pairs beats counting bytes, and triples beat pairs: a model can be better."""
    train = np.frombuffer(_text(data, "train")[:150_000], np.uint8).astype(int)
    judged = np.frombuffer(_text(data, "validation")[:30_000], np.uint8).astype(int)

    def bits(order: int) -> float:
        def codes(text: np.ndarray) -> np.ndarray:
            kept = [text[at : len(text) - order + at] for at in range(order + 1)]
            return np.stack(kept, axis=1)

        # Witten-Bell: the share of each order by how many successors a context has had.
        probability = np.full(len(judged) - order, 1 / 256)
        for n in range(order + 1):
            seen: dict[tuple[int, ...], dict[int, int]] = {}
            for *context, last in codes(train)[:, order - n :].tolist():
                followers = seen.setdefault(tuple(context), {})
                followers[last] = followers.get(last, 0) + 1
            totals = {context: sum(each.values()) for context, each in seen.items()}
            for at, (*context, last) in enumerate(codes(judged)[:, order - n :].tolist()):
                key = tuple(context)
                if key in seen:
                    kinds, total = len(seen[key]), totals[key]
                    count = seen[key].get(last, 0)
                    probability[at] = (count + kinds * probability[at]) / (total + kinds)
        return -float(np.log(probability).mean()) / math.log(2)

    alone, pair, triple = bits(0), bits(1), bits(2)
    assert 4 < alone < 5.5
    assert pair < alone - 0.5
    assert 2 < triple < pair - 0.3


LINES = st.text("abc xyz", min_size=1, max_size=60).map(lambda line: f"p{line.strip()}")


@given(
    topics=st.dictionaries(
        st.sampled_from("ABCD"),
        st.lists(st.tuples(LINES, st.lists(LINES, max_size=4)), min_size=1, max_size=4).map(
            lambda found: "\n\n".join(
                "\n\n".join([f"{title}\n{'*' * len(title + '**')}", *paragraphs])
                for title, paragraphs in found
            )
        ),
    )
)
@settings(max_examples=60, deadline=None)
def test_sections_keep_each_long_paragraph_once(topics: dict[str, str]) -> None:
    found = sections(topics)
    kept = [" ".join(each.split()) for _, text in found for each in text.split("\n\n")[1:]]
    long = [each for each in kept if len(each) >= SHORT]
    there = {
        " ".join(each.split())
        for text in topics.values()
        for each in text.split("\n\n")
        if "**" not in each
    }
    assert len(long) == len(set(long))
    assert set(long) == {each for each in there if len(each) >= SHORT}


def test_sections_of_one_title_stay_together() -> None:
    found = [("Same", f"same {i}") for i in range(50)] + [(f"{i}", f"text {i}") for i in range(50)]
    parts = split(found, 0)
    of_one_title = {f"same {i}" for i in range(50)}
    held = [of_one_title & set(text.decode().split("\n\n\n")) for text in parts.values()]
    assert sorted(map(len, held)) == [0, 0, 50]
    whole = "\n\n\n".join(text for _, text in found)
    assert sum(map(len, parts.values())) == len(whole) - 3 * (sum(map(bool, parts.values())) - 1)


def test_text_for_an_image_space() -> None:
    with pytest.raises(UsageError, match="pydoc is text, the space takes images"):
        load_dataset("pydoc", (3, 8, 8), "image")
