"""A recipe as a user types it: its name, and the fields that differ from its own.

sandwich:batch_size=256,learning_rate=1e-3
"""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from typing import Any

from nas.errors import UsageError
from nas.training.fields import KINDS, describe, write_value
from nas.training.recipe import Recipe, get_recipe, require_one_of, settable
from search_spaces.space import SearchSpace

EXAMPLE = "batch_size=256,learning_rate=1e-3"


def parse_recipe(text: str) -> Recipe:
    """The recipe of a text.

    Raises:
        NotFoundError: if there is no such recipe.
        UsageError: if a field is unknown, stands twice, or cannot have its value.

    >>> parse_recipe("sandwich:batch_size=256").batch_size
    256
    >>> parse_recipe("sandwich:warmup=0.1,ema=0.0") == parse_recipe("sandwich:warmup=1e-1")
    True
    """
    name, colon, rest = text.partition(":")
    name = name.strip()
    recipe = get_recipe(name)
    kinds = settable(type(recipe))
    found: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        field, equals, value = (piece.strip() for piece in part.partition("="))
        if not (equals and value):
            raise UsageError(
                f"cannot read {part!r} in the recipe {text!r}.",
                f"Write its fields as in {name}:{EXAMPLE}; see `nas recipes {name}`.",
            )
        require_one_of(field, kinds, f"field of {name}")
        if field in found:
            raise UsageError(f"{field} stands twice in the recipe {text!r}.", "Give it once.")
        read, what = KINDS[kinds[field]]
        try:
            found[field] = read(value)
        except ValueError:
            raise UsageError(
                f"{field} of {name} must be {what}, not {value!r}.", f"See `nas recipes {name}`."
            ) from None
    # What equals the recipe's own value is left as it is there: 1 and 1.0 are hashed unlike.
    return replace(recipe, **{f: v for f, v in found.items() if v != getattr(recipe, f)})


def recipe_text(recipe: Recipe) -> str:
    """The one text of a recipe, which `parse_recipe` reads back.

    >>> recipe_text(parse_recipe("sandwich: learning_rate=1e-4, batch_size=32, ema=0"))
    'sandwich:batch_size=32,learning_rate=0.0001'
    """
    usual = get_recipe(recipe.name)
    values = {field: getattr(recipe, field) for field in settable(type(recipe))}
    changed = [f"{f}={write_value(v)}" for f, v in values.items() if v != getattr(usual, f)]
    return ":".join(filter(None, (recipe.name, ",".join(changed))))


def recipe_for(space: SearchSpace, text: str | None) -> Recipe:
    """The recipe that a space is to be trained by: that of a text, or the space's own.

    Raises:
        NotFoundError: if there is no such recipe.
        UsageError: if the text cannot be read, or the recipe cannot train the space.
    """
    recipe = parse_recipe(space.default_recipe if text is None else text)
    recipe.check(space)
    return recipe


def recipe_fields(name: str) -> list[dict[str, str]]:
    """The fields of a recipe that may be set: default, what they may be, what they are.

    Raises:
        NotFoundError: if there is no such recipe.
    """
    recipe = get_recipe(name)
    said = _said_of(type(recipe))
    return [
        {
            "field": field,
            "default": write_value(getattr(recipe, field)),
            "may be": describe(kind, recipe.allowed.get(field)),
            "what": said.get(field, "-"),
        }
        for field, kind in settable(type(recipe)).items()
    ]


def _said_of(recipe: type[Recipe]) -> dict[str, str]:
    """What the docstrings of a recipe's classes say of their attributes."""
    said: dict[str, str] = {}
    for each in reversed(recipe.__mro__):
        _, _, listed = inspect.cleandoc(each.__doc__ or "").partition("\nAttributes:\n")
        for field, text in re.findall(r"^    (\w+): (.+(?:\n     .*)*)", listed, re.MULTILINE):
            said[field] = " ".join(text.split()).removesuffix(".")
    return said
