"""Recipes in bfloat16: a GPU's mixed precision, with the same operators on this processor."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from recipe_turns import few
from torch import nn

from nas.equipment import space_and_data
from nas.training import teacher, turn
from nas.training.loop import Training, fit
from nas.training.recipe import get_recipe
from nas.training.recipes import two_stage_distillation

pytestmark = pytest.mark.usefixtures("one_thread")

CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("sandwich", "vit", "digits", {"random_subnets": 2, "apart": 2}),
    ("progressive-shrinking", "ofa", "digits", {}),
    ("matformer", "matlm", "pydoc", {}),
    ("multi-architecture", "vit-resnas", "digits", {}),
    ("two-stage-distillation", "lighthubert", "vowels", {}),
]


def on_cpu(device: torch.device) -> contextlib.AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize(("name", "space", "data", "fields"), CASES, ids=[c[1] for c in CASES])
def test_a_recipe_trains_in_bfloat16_with_float32_weights(
    monkeypatch: pytest.MonkeyPatch, name: str, space: str, data: str, fields: dict[str, Any]
) -> None:
    made, parts = space_and_data(space, data_name=data)
    parts = replace(parts, train=few(parts.train), validation=few(parts.validation))
    recipe = get_recipe(name, epochs=2, examples_per_epoch=16, batch_size=8, **fields)
    types = set()

    def note(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        types.add(output.dtype)

    def trained() -> Training:
        types.clear()
        return fit(made, parts, recipe, seed=3)

    whole = trained()
    for module in (turn, teacher, two_stage_distillation):
        monkeypatch.setattr(module, "precision", on_cpu)
    hook = nn.modules.module.register_module_forward_hook(note)
    try:
        mixed = trained()
    finally:
        hook.remove()
    assert torch.bfloat16 in types
    assert {w.dtype for w in mixed.network.parameters()} == {torch.float32}
    for now, then in zip(mixed.history, whole.history, strict=True):
        assert now["loss"] == pytest.approx(then["loss"], rel=0.03)
    states = (mixed.network.state_dict(), whole.network.state_dict())
    assert any(not states[0][key].equal(states[1][key]) for key in states[0])
