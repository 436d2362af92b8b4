"""A recipe's text: read and written, one for each recipe, refused in one line if it is wrong."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import search_spaces
from nas.data.dataset import Dataset
from nas.equipment import space_and_data
from nas.errors import NasError, NotFoundError, UsageError
from nas.training.fields import KINDS, Allowed, Numbers, write_value
from nas.training.recipe import get_recipe, recipes, settable
from nas.training.recipe_text import parse_recipe, recipe_fields, recipe_for, recipe_text
from nas.training.store import SHIPPED, find_supernet, supernet_fingerprint
from search_spaces.space import SearchSpace

NAMES = tuple(recipes())
#: where one field limits another
TOGETHER = {"batch_size": st.integers(8, 999_999_999)}
TOGETHER |= dict.fromkeys(("accumulate", "architectures"), st.integers(1, 8))


def _floats(allowed: Numbers) -> st.SearchStrategy[float]:
    low = allowed.least if allowed.above is None else allowed.above
    high = allowed.most if allowed.below is None else allowed.below
    return st.floats(
        low,
        high,
        exclude_min=allowed.above is not None,
        exclude_max=allowed.below is not None,
        allow_nan=False,
        allow_infinity=False,
    )


def _values(field: str, kind: Any, allowed: Allowed) -> st.SearchStrategy[Any]:
    if field in TOGETHER:
        return TOGETHER[field]
    if isinstance(allowed, tuple):
        return st.sampled_from(allowed)
    if kind is float:
        return _floats(allowed)
    if kind == tuple[float, float]:
        return st.tuples(_floats(allowed), _floats(allowed))
    whole = st.integers(int(allowed.least or 0), int(allowed.most or 999_999_999))
    return whole if kind is int else st.none() | whole


def _spellings(value: Any) -> st.SearchStrategy[str]:
    """Ways to type a value; 17 significant digits are all of a number."""
    if isinstance(value, float):
        return st.sampled_from([repr(value), f"{value:.16e}", f" {value!r} ", f"+{value!r}"])
    if isinstance(value, tuple):
        return st.tuples(*map(_spellings, value)).map("/".join)
    if isinstance(value, int):
        return st.sampled_from([str(value), f"+{value}", f" {value}"])
    return st.just(write_value(value))


@st.composite
def _typed(draw: st.DrawFn) -> tuple[str, dict[str, Any], list[str]]:
    """A recipe's name, some of its fields, and two texts of them."""
    name = draw(st.sampled_from(NAMES))
    recipe = get_recipe(name)
    kinds = settable(type(recipe))
    chosen = draw(st.lists(st.sampled_from(list(kinds)), unique=True))
    fields = {f: draw(_values(f, kinds[f], recipe.allowed[f])) for f in chosen}
    usual = [f for f in kinds if f not in fields]
    texts = []
    for _ in range(2):
        beside = draw(st.lists(st.sampled_from(usual), unique=True)) if usual else []
        named = {**fields, **{f: getattr(recipe, f) for f in beside}}
        order = draw(st.permutations(list(named)))
        parts = [f"{f}={draw(_spellings(named[f]))}" for f in order]
        texts.append(f"{name}:{','.join(parts)}" if parts else name)
    return name, fields, texts


@given(_typed())
def test_every_spelling_is_read_and_written_as_the_same_recipe(
    typed: tuple[str, dict[str, Any], list[str]],
) -> None:
    name, fields, texts = typed
    recipe = get_recipe(name, **fields)
    for text in texts:
        read = parse_recipe(text)
        assert (read, read.record()) == (recipe, recipe.record())
        assert recipe_text(read) == recipe_text(recipe)
    assert parse_recipe(recipe_text(recipe)) == recipe


@pytest.mark.parametrize("name", NAMES)
def test_a_bare_name_is_its_own_text(name: str) -> None:
    assert parse_recipe(name).record() == get_recipe(name).record()
    assert recipe_text(get_recipe(name)) == name


def test_one_recipe_has_one_fingerprint(space: SearchSpace, data: Dataset) -> None:
    def fingerprint(text: str) -> str:
        return supernet_fingerprint(space, data, parse_recipe(text), 0)

    same = (
        "sandwich:learning_rate=1e-3,batch_size=256",
        "sandwich:batch_size=256,learning_rate=0.001",
        "sandwich: batch_size=256 , learning_rate=.001, ema=0, betas=.9/.98, clip_norm=1",
    )
    assert len({fingerprint(text) for text in same}) == 1
    assert fingerprint("sandwich:warmup=-0.0") == fingerprint("sandwich:warmup=0")
    assert fingerprint("sandwich:batch_size=256") not in map(fingerprint, (*same, "sandwich"))


@pytest.mark.parametrize("name", search_spaces.names())
def test_what_ships_is_found_by_the_space_s_own_recipe(name: str) -> None:
    space, data = space_and_data(name)
    usual = parse_recipe(space.default_recipe)
    every = ",".join(f"{f}={write_value(getattr(usual, f))}" for f in settable(type(usual)))
    for text in (None, space.default_recipe, f"{usual.name}:{every}"):
        found = find_supernet(space, data, recipe_for(space, text), 0, folders=(SHIPPED,))
        assert found is not None, text


@pytest.mark.parametrize("name", NAMES)
def test_every_field_but_the_version_is_shown_with_its_bounds(name: str) -> None:
    recipe, shown = get_recipe(name), {row["field"]: row for row in recipe_fields(name)}
    assert {*shown, "version"} == {field.name for field in fields(recipe)}
    assert recipe.allowed.keys() == shown.keys()
    for field, kind in settable(type(recipe)).items():
        default, row = getattr(recipe, field), shown[field]
        read = KINDS[kind][0](row["default"])
        assert (read, type(read)) == (default, type(default))  # 1 and 1.0 are hashed unlike
        assert len(row["what"]) > 3
        assert row["may be"]


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("sandwitch:batch_size=3", NotFoundError, "Did you mean 'sandwich'?"),
        ("", NotFoundError, "Known: matformer"),
        (":batch_size=3", NotFoundError, "Known: matformer"),
        ("sandwich:batchsize=3", UsageError, "Did you mean 'batch_size'"),
        ("sandwich:version=3", UsageError, "no field of sandwich 'version'"),
        ("sandwich:variant=summed", UsageError, "no field of sandwich 'variant'"),
        ("sandwich:", UsageError, "batch_size=256,learning_rate=1e-3"),
        ("sandwich:batch_size", UsageError, "cannot read 'batch_size'"),
        ("sandwich:batch_size=", UsageError, "cannot read"),
        ("sandwich:=3", UsageError, "no field of sandwich ''"),
        ("sandwich:batch_size=3,", UsageError, "cannot read ''"),
        ("sandwich:batch_size=3;ema=0", UsageError, "a whole number, not '3;ema=0'"),
        ("sandwich:batch_size=3,batch_size=4", UsageError, "stands twice"),
        ("sandwich:batch_size=1e3", UsageError, "a whole number"),
        ("sandwich:batch_size=all", UsageError, "a whole number"),
        ("sandwich:batch_size=1000000000", UsageError, "a whole number"),
        ("sandwich:batch_size=0", UsageError, "at least 1, not 0"),
        ("sandwich:accumulate=17", UsageError, "a batch of 16 in 17 parts"),
        ("sandwich:examples_per_epoch=0", UsageError, "at least 1, not 0"),
        ("sandwich:examples_per_epoch=None", UsageError, "a whole number or all"),
        ("sandwich:learning_rate=fast", UsageError, "a number, not 'fast'"),
        ("sandwich:learning_rate=nan", UsageError, "a number, not 'nan'"),
        ("sandwich:weight_decay=inf", UsageError, "a number, not 'inf'"),
        ("sandwich:learning_rate=1e300", UsageError, "at most 1e+06, not 1e+300"),
        ("sandwich:learning_rate=0", UsageError, "above 0 and at most 1e+06, not 0.0"),
        ("sandwich:warmup=1", UsageError, "below 1, not 1.0"),
        ("sandwich:betas=0.9", UsageError, "0.9/0.98"),
        ("sandwich:betas=0.9/0.98/0.99", UsageError, "0.9/0.98"),
        ("sandwich:betas=0.9/1", UsageError, "below 1, not 0.9/1.0"),
        ("sandwich:optimizer=adam", UsageError, "Did you mean 'adamw' or 'lazy-adamw'?"),
        ("sandwich:soft_labels=1.1", UsageError, "at most 1"),
        ("matformer:variant=sum", UsageError, "Did you mean 'summed'"),
        ("progressive-shrinking:soft_labels=-1", UsageError, "at least 0"),
        ("multi-architecture:batch_size=2", UsageError, "cannot share 2 examples"),
        ("two-stage-distillation:first=1", UsageError, "above 0 and below 1"),
    ],
)
def test_wrong_texts_are_refused_in_one_line(text: str, error: type[NasError], says: str) -> None:
    with pytest.raises(error) as refused:
        parse_recipe(text)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.hint


def test_a_recipe_that_cannot_train_a_space_is_refused() -> None:
    with pytest.raises(UsageError, match="--recipe sandwich:epochs=6"):
        recipe_for(search_spaces.get("ofa"), "matformer:epochs=3")


@given(st.text(alphabet="sandwich:,=/ \n0e9.-_batlr_z", max_size=40))
def test_any_text_is_read_or_refused(tail: str) -> None:
    for text in (tail, f"sandwich:{tail}", f"sandwich:betas={tail}"):
        try:
            read = parse_recipe(text)
        except NasError:
            continue
        assert parse_recipe(recipe_text(read)) == read


def test_bounds_are_told_apart() -> None:
    number = Numbers(above=0, most=1)
    assert [number.allows(n) for n in (0, 1e-300, 1, 1.1, float("nan"))] == [
        False, True, True, False, False,
    ]  # fmt: skip
    assert all(a.allows(1.0) for a in (Numbers(), Numbers(least=1), Numbers(most=1)))
    assert not any(a.allows(1.0) for a in (Numbers(above=1), Numbers(below=1)))
