"""Recipes of stages: each opens what it should, and weighs its losses as it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from recipe_turns import (
    assert_same,
    drawn,
    few_examples,
    first_turn,
    gradients_of,
    moment_of,
    values_of,
)
from torch import Tensor

import search_spaces
from nas.errors import UsageError
from nas.training.learner import Learner
from nas.training.recipes.multi_architecture import MultiArchitecture
from nas.training.recipes.progressive_shrinking import STEPS, ProgressiveShrinking, full
from nas.training.recipes.two_stage_distillation import TwoStageDistillation, spans
from nas.training.schedule import Schedule
from nas.training.teacher import Teacher
from nas.training.turn import on_soft_labels, soften
from search_spaces.space import Architecture

pytestmark = pytest.mark.usefixtures("one_thread")


# --- progressive shrinking ------------------------------------------------------------------------


def test_progressive_shrinking_opens_kernel_then_depth_then_width() -> None:
    space, recipe = search_spaces.get("ofa"), ProgressiveShrinking()
    n_open = {  # of three values each: kernel, depth, expand; and subnets a step
        "full": (1, 1, 1, 1),
        "kernel": (3, 1, 1, 1),
        "depth-1": (3, 2, 1, 2),
        "depth-2": (3, 3, 1, 2),
        "width-1": (3, 3, 2, 4),
        "width-2": (3, 3, 3, 4),
    }
    assert [stage.name for stage in recipe.stages()] == list(n_open)
    by_name = {choice.name: choice.values for choice in space.choices.choices}
    for stage, (*wanted, subnets) in n_open.items():
        steps = drawn(recipe, space, moment_of(stage), 300)
        assert {len(step) for step in steps} == {subnets}
        for ending, count in zip((".kernel", ".depth", ".expand"), wanted, strict=True):
            for name, values in values_of(steps, lambda n, e=ending: n.endswith(e)).items():
                assert values == set(by_name[name][-count:]), (stage, name)
        assert {len({arch["resolution"] for arch in step}) for step in steps} == {1}
        assert values_of(steps, lambda n: n == "resolution")["resolution"] == {4, 8, 16}


def test_progressive_shrinking_has_only_stages_that_open_something() -> None:
    recipe = ProgressiveShrinking()
    bottlenecks = recipe.stages(search_spaces.get("ofa", "resnet50"))
    assert [s.name for s in bottlenecks] == ["full", "depth-1", "depth-2", "width-1", "width-2"]
    assert recipe.stages(search_spaces.get("ofa")) == recipe.stages()


def test_progressive_shrinking_peaks_relate_as_published() -> None:
    recipe = ProgressiveShrinking(learning_rate=2.6, warmup=0.04)
    schedule = Schedule(recipe)
    shares = np.linspace(0, 1, 20_000, endpoint=False)
    peaks: dict[str, float] = {}
    for share in shares:
        stage = schedule.stages[schedule.index(share)].name
        peaks[stage] = max(peaks.get(stage, 0.0), schedule.rate(share, share))
    wanted = {"full": 2.6, "kernel": 0.96, "depth-1": 0.08, "depth-2": 0.24}
    wanted |= {"width-1": 0.08, "width-2": 0.24}
    assert peaks == pytest.approx(wanted, rel=2e-3)


@pytest.mark.parametrize("stage", ["full", "kernel", "depth-1", "width-1"])
def test_progressive_shrinking_sums_the_subnets_losses(stage: str) -> None:
    space, recipe = search_spaces.get("ofa"), ProgressiveShrinking(label_smoothing=0.0)
    turn, network = first_turn(recipe, space, few_examples("digits"), moment_of(stage))
    ours = gradients_of(network, recipe.losses(turn))

    teacher = turn.helpers["teacher"]
    assert isinstance(teacher, Teacher)
    total = torch.zeros(())
    with torch.no_grad():
        soft = soften(teacher.run(full(space, turn.subnets[0]), turn.inputs))
    for arch in turn.subnets:
        logits = turn.run(arch)
        total = total + turn.on_labels(logits)
        if stage != "full":
            total = total + on_soft_labels(logits, soft)
    assert len(turn.subnets) == STEPS[stage].subnets
    assert_same(ours, gradients_of(network, iter([(total, 1.0)])))


def test_progressive_shrinking_teaches_by_the_first_stages_end() -> None:
    space, recipe = search_spaces.get("ofa"), ProgressiveShrinking()
    network = space.supernet(0)
    learner = Learner(network, recipe.helpers(network), recipe)
    assert not any(name.startswith("helpers") for name in learner.parameters)
    with torch.no_grad():
        network.network.head.classifier.bias.fill_(3.0)
    recipe.begin_stage(moment_of("full"), learner)
    teacher = learner.helpers["teacher"]
    assert isinstance(teacher, Teacher)
    bias = teacher.network.network.head.classifier.bias
    assert not bias.equal(network.network.head.classifier.bias)
    recipe.begin_stage(moment_of("kernel"), learner)
    assert bias.equal(network.network.head.classifier.bias)
    with torch.no_grad():
        network.network.head.classifier.bias.fill_(4.0)
    recipe.begin_stage(moment_of("depth-1"), learner)
    assert set(bias.tolist()) == {3.0}


def test_progressive_shrinking_sorts_without_changing_what_is_trained() -> None:
    space, recipe = search_spaces.get("ofa"), ProgressiveShrinking()
    network = space.supernet(0).train()
    learner = Learner(network, recipe.helpers(network), recipe)
    images = torch.rand(8, *space.input_shape)
    medium = {k: 2 if k.endswith(".expand") else v for k, v in space.largest().items()}

    def outputs(arch: Architecture) -> Tensor:
        with torch.no_grad():
            out: Tensor = network.activate(arch)(images)
        return out

    largest, middle = outputs(space.largest()), outputs(medium)
    recipe.begin_stage(moment_of("width-1"), learner)
    assert torch.allclose(outputs(space.largest()), largest, atol=1e-4)
    assert not torch.allclose(outputs(medium), middle, atol=1e-4)  # nothing kept it yet

    with torch.no_grad():  # another importance, so that there is something to sort again
        for name, weight in network.named_parameters():
            if name.endswith("project.conv.weight"):
                weight.copy_(weight.flip(1))
    largest, middle = outputs(space.largest()), outputs(medium)
    project = "stages.0.0.project.conv"
    before = network.network.get_submodule(project).weight.clone()
    recipe.begin_stage(moment_of("width-2"), learner)
    assert not network.network.get_submodule(project).weight.equal(before)
    assert torch.allclose(outputs(space.largest()), largest, atol=1e-4)
    assert torch.allclose(outputs(medium), middle, atol=1e-4)


def test_sorting_what_is_trained_leaves_a_space_that_cannot_keep_it() -> None:
    space, recipe = search_spaces.get("vit-resnas"), MultiArchitecture()
    learner = Learner(space.supernet(0), {}, recipe)
    before = {n: w.clone() for n, w in learner.network.state_dict().items()}
    assert learner.sort(trained=1) == ()
    assert all(w.equal(before[n]) for n, w in learner.network.state_dict().items())
    assert learner.sort()


# --- multi-architectural sampling -----------------------------------------------------------------


def test_multi_architecture_opens_the_largest_first() -> None:
    space, recipe = search_spaces.get("vit-resnas"), MultiArchitecture(opening=0.5)
    by_name = {choice.name: choice.values for choice in space.choices.choices}
    for share in (0.0, 0.2, 0.25, 0.4, 0.5, 0.9):
        steps = drawn(recipe, space, moment_of(share=share), 200)
        for name, values in values_of(steps, lambda _: True).items():
            n_open = 1 + int(min(share / 0.5, 1.0) * (len(by_name[name]) - 1))
            assert values == set(by_name[name][-n_open:]), (share, name)
    assert all(a == space.largest() for s in drawn(recipe, space, moment_of(), 2) for a in s)


def test_multi_architecture_deals_each_value_an_equal_share() -> None:
    space, recipe = search_spaces.get("vit-resnas"), MultiArchitecture(architectures=6)
    for step in drawn(recipe, space, moment_of(share=1.0), 20):
        for name in ("stages.1.embed", "stages.0.blocks.0.heads"):  # three values each
            counts = np.unique([arch[name] for arch in step], return_counts=True)[1]
            assert counts.tolist() == [2, 2, 2]


def test_multi_architecture_averages_over_the_examples() -> None:
    space, recipe = search_spaces.get("vit-resnas"), MultiArchitecture(batch_size=14)
    turn, network = first_turn(recipe, space, few_examples("digits"), moment_of(share=1.0), n=14)
    ours = gradients_of(network, recipe.losses(turn))
    own = [slice(0, 4), slice(4, 8), slice(8, 11), slice(11, 14)]  # of unequal size
    each = [
        torch.nn.functional.cross_entropy(
            turn.run(arch, turn.inputs[part]), turn.labels[part], reduction="sum"
        )
        for arch, part in zip(turn.subnets, own, strict=True)
    ]
    assert_same(ours, gradients_of(network, iter([(sum(each, torch.zeros(())), 1 / 14)])))


def test_multi_architecture_sorts_while_it_opens() -> None:
    space, recipe = search_spaces.get("vit-resnas"), MultiArchitecture(opening=0.5)
    learner = Learner(space.supernet(0), {}, recipe)
    fc2 = learner.network.network.get_submodule("stages.0.blocks.0.mlp.fc2")
    before = fc2.weight.clone()
    recipe.begin_epoch(moment_of(share=0.6), learner)
    assert fc2.weight.equal(before)
    recipe.begin_epoch(moment_of(share=0.5), learner)
    assert not fc2.weight.equal(before)


def test_multi_architecture_needs_an_example_for_each() -> None:
    with pytest.raises(UsageError, match="cannot share"):
        MultiArchitecture(architectures=65)


# --- two-stage distillation -----------------------------------------------------------------------


def test_two_stages_train_the_largest_then_one_random_subnet() -> None:
    space, recipe = search_spaces.get("lighthubert"), TwoStageDistillation()
    assert [stage.name for stage in recipe.stages()] == ["largest", "subnets"]
    first = drawn(recipe, space, moment_of("largest"), 5)
    assert all(step == [space.largest()] for step in first)
    second = drawn(recipe, space, moment_of("subnets"), 200)
    assert {len(step) for step in second} == {1}
    by_name = {choice.name: choice.values for choice in space.choices.choices}
    for name, values in values_of(second, lambda _: True).items():
        assert values == set(by_name[name])


def test_two_stages_sum_labels_soft_labels_and_the_error_at_hidden_frames() -> None:
    space = search_spaces.get("lighthubert")
    recipe = TwoStageDistillation(soft_labels=0.5, regression=2.0)
    turn, network = first_turn(recipe, space, few_examples("vowels"), moment_of("subnets"))
    network.eval()
    teacher, prediction = turn.helpers["teacher"], turn.helpers["prediction"]
    assert isinstance(teacher, Teacher)
    (arch,) = turn.subnets
    torch.manual_seed(5)
    ours = gradients_of(network, recipe.losses(turn))
    learned = prediction.weight.grad
    assert learned is not None
    width = int(arch["embed"])
    assert float(learned[:, :width].abs().sum()) > 0
    assert float(learned[:, width:].abs().sum()) == 0

    with torch.no_grad():
        wanted = teacher.network.network.states(turn.inputs)
        soft = soften(teacher.run(space.largest(), turn.inputs))
    torch.manual_seed(5)
    mask = spans(len(turn.labels), wanted.shape[1], recipe.masked, recipe.span)
    logits = turn.run(arch)
    total = turn.on_labels(logits) + 0.5 * on_soft_labels(logits, soft)
    states = network.network.states(turn.inputs, mask)
    target = (wanted - wanted.mean(-1, keepdim=True)) / wanted.std(-1, keepdim=True, correction=0)
    error = (states @ prediction.weight[:, :width].T - target).square().mean(-1)
    per_example = torch.stack([e[m].mean() for e, m in zip(error, mask, strict=True)])
    total = total + 2.0 * per_example.mean()
    assert_same(ours, gradients_of(network, iter([(total, 1.0)])))


def test_two_stages_without_states_learn_soft_labels_alone() -> None:
    space, recipe = search_spaces.get("vit"), TwoStageDistillation()
    turn, _ = first_turn(recipe, space, few_examples("digits"), moment_of("subnets"))
    assert set(turn.helpers) == {"teacher"}
    assert len(list(recipe.losses(turn))) == 1


def test_spans_hide_a_part_of_every_example() -> None:
    torch.manual_seed(0)
    mask = spans(500, 18, 0.65, 3)
    assert mask.shape == (500, 18)
    assert mask.any(1).all()
    assert not mask.all(1).any()  # four spans of three cover 12 of 18 at most
    assert mask.any(0).all()
    assert spans(2, 2, 1.0, 10).all()  # a span is no longer than the example


@pytest.mark.parametrize("kw", [{"first": 1.0}, {"masked": 0.0}, {"span": 0}])
def test_two_stages_refuse_what_is_no_share(kw: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="two-stage-distillation"):
        TwoStageDistillation(**kw)
