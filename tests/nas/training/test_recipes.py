"""Each recipe trains, opens what it should, continues exactly, scales gradients as it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import search_spaces
from nas.data import Dataset, load_dataset
from nas.data.dataset import Part
from nas.errors import UsageError
from nas.training.learner import Learner
from nas.training.loop import Progress, Training, fit
from nas.training.recipe import Moment, Recipe, Stage, get_recipe
from nas.training.recipes.multi_architecture import MultiArchitecture
from nas.training.recipes.progressive_shrinking import STEPS, ProgressiveShrinking, full
from nas.training.recipes.sandwich import Sandwich
from nas.training.recipes.two_stage_distillation import TwoStageDistillation, spans
from nas.training.schedule import Schedule
from nas.training.teacher import Teacher
from nas.training.turn import Turn, on_soft_labels, soften
from search_spaces.elastic import Supernet
from search_spaces.space import Architecture, SearchSpace

SIZES = {"epochs": 4, "examples_per_epoch": 64, "batch_size": 16}
CASES = [  # recipe, space, data, fields
    ("progressive-shrinking", "ofa", "digits", {}),
    ("multi-architecture", "vit-resnas", "digits", {"opening": 0.5}),
    ("two-stage-distillation", "lighthubert", "vowels", {}),
    # which hides nothing of its input; the second stage begins where an epoch does
    ("two-stage-distillation", "vit", "digits", {"first": 0.5}),
    ("sandwich", "ofa", "digits", {"random_subnets": 1, "accumulate": 2, "ema": 0.9}),
    ("matformer", "vit", "digits", {"drop_path": 0.3, "optimizer": "sgd"}),
]
IDS = [f"{recipe}-{space}" for recipe, space, _, _ in CASES]


class _Interrupted(Exception):
    pass


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


_DATA: dict[str, Dataset] = {}
_WHOLE: dict[str, Training] = {}


def _few(part: Part) -> Part:
    """The first examples; all would take longer to evaluate than to train on."""
    return Part(part.stored[:256], part.labels[:256], part.preprocessing, part.draws)


def _data(name: str) -> Dataset:
    if name not in _DATA:
        data = load_dataset(name)
        _DATA[name] = replace(data, train=_few(data.train), validation=_few(data.validation))
    return _DATA[name]


def _whole(
    name: str, space: str, data: str, kw: dict[str, Any]
) -> tuple[Training, SearchSpace, Recipe]:
    """A tiny training, done once."""
    recipe, made = get_recipe(name, **SIZES, **kw), search_spaces.get(space)
    key = f"{name}-{space}"
    if key not in _WHOLE:
        _WHOLE[key] = fit(made, _data(data), recipe, seed=3)
    return _WHOLE[key], made, recipe


def _moment(stage: str = "all", share: float = 0.0) -> Moment:
    return Moment(Stage(stage), 0, share)


def _drawn(recipe: Recipe, space: SearchSpace, moment: Moment, n: int) -> list[list[Architecture]]:
    rng = np.random.default_rng(0)
    return [list(recipe.subnets(space, moment, rng)) for _ in range(n)]


def _values(
    steps: list[list[Architecture]], ending: Callable[[str], bool]
) -> dict[str, set[int | float | str]]:
    found: dict[str, set[int | float | str]] = {}
    for arch in (arch for step in steps for arch in step):
        for name, value in arch.items():
            if ending(name):
                found.setdefault(name, set()).add(value)
    return found


def _turn(
    recipe: Recipe, space: SearchSpace, data: Dataset, moment: Moment, n: int = 12
) -> tuple[Turn, Supernet]:
    """A step's turn on the data's first examples; nothing is trained yet."""
    network = space.supernet(1).train()
    inputs, labels = data.train.batch(torch.arange(n))
    subnets = recipe.subnets(space, moment, np.random.default_rng(1))
    helpers = recipe.helpers(network)
    return Turn(network, helpers, moment, subnets, inputs, labels, recipe.label_smoothing), network


def _gradients(network: Supernet, losses: Iterator[tuple[Tensor, float]]) -> dict[str, Tensor]:
    """As the loop collects them."""
    network.zero_grad()
    for loss, weight in losses:
        torch.autograd.backward(loss * weight)
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def _assert_same(ours: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert ours.keys() == wanted.keys()
    largest = max(float(g.abs().max()) for g in wanted.values())
    assert largest > 0
    for name, gradient in wanted.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-4, atol=1e-5 * largest), name


# --- of all ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "space", "data", "kw"), CASES, ids=IDS)
def test_trains_to_finite_figures(name: str, space: str, data: str, kw: dict[str, Any]) -> None:
    trained, made, recipe = _whole(name, space, data, kw)
    assert len(trained.history) == recipe.epochs
    start = made.supernet(3).state_dict()
    moved = [n for n, w in trained.network.state_dict().items() if not w.equal(start[n])]
    assert len(moved) > len(start) / 2
    for entry in trained.history:
        assert np.isfinite(entry["loss"])
        assert 0 <= entry["quality_smallest"] <= 1


@pytest.mark.parametrize(("name", "space", "data", "kw"), CASES, ids=IDS)
def test_interrupted_and_continued_ends_in_the_same_weights(
    tmp_path: Path, name: str, space: str, data: str, kw: dict[str, Any]
) -> None:
    whole, made, recipe = _whole(name, space, data, kw)

    def stop(now: Progress) -> None:
        if (now.epoch, now.step) == (3, 1):  # within a taught stage that began in epoch 2
            raise _Interrupted

    checkpoint = tmp_path / "unfinished"
    with pytest.raises(_Interrupted):
        fit(made, _data(data), recipe, seed=3, progress=stop, checkpoint=checkpoint)
    torch.manual_seed(99)  # a new process has another global generator
    parts = fit(made, _data(data), recipe, seed=3, checkpoint=checkpoint)
    for key, weight in whole.network.state_dict().items():
        assert weight.equal(parts.network.state_dict()[key]), key


ALL = [  # on a network without batch norms, whose statistics are of what runs at once
    ("sandwich", {"random_subnets": 1}),
    ("progressive-shrinking", {}),
    ("matformer", {"variant": "sampled"}),
    ("matformer", {"variant": "summed"}),
    ("multi-architecture", {}),
    ("two-stage-distillation", {}),
]


@pytest.mark.parametrize(("name", "kw"), ALL)
def test_accumulated_gradients_are_those_of_the_whole_batch(name: str, kw: dict[str, Any]) -> None:
    sizes = {**SIZES, "epochs": 2, "optimizer": "sgd", "learning_rate": 0.05}
    ended = []
    for accumulate in (1, 4):
        recipe = get_recipe(name, **sizes, **kw, accumulate=accumulate)
        ended.append(fit(search_spaces.get("vit"), _data("digits"), recipe, seed=3))
    whole, parts = (trained.network.state_dict() for trained in ended)
    start = search_spaces.get("vit").supernet(3).state_dict()
    for key, weight in whole.items():
        torch.testing.assert_close(parts[key], weight, atol=1e-5, rtol=1e-5)
    moved = max(float((w - start[k]).abs().max()) for k, w in whole.items())
    assert moved > 1e-2


@pytest.mark.parametrize(
    ("space", "name", "kw", "least"),
    [
        ("vit", "multi-architecture", {"accumulate": 5}, 20),
        ("vit", "sandwich", {"batch_size": 300, "accumulate": 70}, 70),  # of 64 examples in all
        ("ofa", "sandwich", {"batch_size": 1}, 2),
        ("ofa", "multi-architecture", {"batch_size": 4}, 8),
    ],
)
def test_parts_that_are_too_small_are_refused(
    space: str, name: str, kw: dict[str, Any], least: int
) -> None:
    recipe = get_recipe(name, **{**SIZES, **kw})
    with pytest.raises(UsageError, match="fewer than") as refused:
        fit(search_spaces.get(space), _data("digits"), recipe, seed=3)
    assert f"{least} at least" in refused.value.hint


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
        steps = _drawn(recipe, space, _moment(stage), 300)
        assert {len(step) for step in steps} == {subnets}
        for ending, count in zip((".kernel", ".depth", ".expand"), wanted, strict=True):
            for name, values in _values(steps, lambda n, e=ending: n.endswith(e)).items():
                assert values == set(by_name[name][-count:]), (stage, name)
        assert {len({arch["resolution"] for arch in step}) for step in steps} == {1}
        assert _values(steps, lambda n: n == "resolution")["resolution"] == {4, 8, 16}


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
    turn, network = _turn(recipe, space, _data("digits"), _moment(stage))
    ours = _gradients(network, recipe.losses(turn))

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
    _assert_same(ours, _gradients(network, iter([(total, 1.0)])))


def test_progressive_shrinking_teaches_by_the_first_stages_end() -> None:
    space, recipe = search_spaces.get("ofa"), ProgressiveShrinking()
    network = space.supernet(0)
    learner = Learner(network, recipe.helpers(network), recipe)
    assert not any(name.startswith("helpers") for name in learner.parameters)
    with torch.no_grad():
        network.network.head.classifier.bias.fill_(3.0)
    recipe.begin_stage(_moment("full"), learner)
    teacher = learner.helpers["teacher"]
    assert isinstance(teacher, Teacher)
    bias = teacher.network.network.head.classifier.bias
    assert not bias.equal(network.network.head.classifier.bias)
    recipe.begin_stage(_moment("kernel"), learner)
    assert bias.equal(network.network.head.classifier.bias)
    with torch.no_grad():
        network.network.head.classifier.bias.fill_(4.0)
    recipe.begin_stage(_moment("depth-1"), learner)
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
    recipe.begin_stage(_moment("width-1"), learner)
    assert torch.allclose(outputs(space.largest()), largest, atol=1e-4)
    assert not torch.allclose(outputs(medium), middle, atol=1e-4)  # nothing kept it yet

    with torch.no_grad():  # another importance, so that there is something to sort again
        for name, weight in network.named_parameters():
            if name.endswith("project.conv.weight"):
                weight.copy_(weight.flip(1))
    largest, middle = outputs(space.largest()), outputs(medium)
    project = "stages.0.0.project.conv"
    before = network.network.get_submodule(project).weight.clone()
    recipe.begin_stage(_moment("width-2"), learner)
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
        steps = _drawn(recipe, space, _moment(share=share), 200)
        for name, values in _values(steps, lambda _: True).items():
            n_open = 1 + int(min(share / 0.5, 1.0) * (len(by_name[name]) - 1))
            assert values == set(by_name[name][-n_open:]), (share, name)
    assert all(a == space.largest() for s in _drawn(recipe, space, _moment(), 2) for a in s)


def test_multi_architecture_deals_each_value_an_equal_share() -> None:
    space, recipe = search_spaces.get("vit-resnas"), MultiArchitecture(architectures=6)
    for step in _drawn(recipe, space, _moment(share=1.0), 20):
        for name in ("stages.1.embed", "stages.0.blocks.0.heads"):  # three values each
            counts = np.unique([arch[name] for arch in step], return_counts=True)[1]
            assert counts.tolist() == [2, 2, 2]


def test_multi_architecture_averages_over_the_examples() -> None:
    space, recipe = search_spaces.get("vit-resnas"), MultiArchitecture(batch_size=14)
    turn, network = _turn(recipe, space, _data("digits"), _moment(share=1.0), n=14)
    ours = _gradients(network, recipe.losses(turn))
    own = [slice(0, 4), slice(4, 8), slice(8, 11), slice(11, 14)]  # of unequal size
    each = [
        torch.nn.functional.cross_entropy(
            turn.run(arch, turn.inputs[part]), turn.labels[part], reduction="sum"
        )
        for arch, part in zip(turn.subnets, own, strict=True)
    ]
    _assert_same(ours, _gradients(network, iter([(sum(each, torch.zeros(())), 1 / 14)])))


def test_multi_architecture_sorts_while_it_opens() -> None:
    space, recipe = search_spaces.get("vit-resnas"), MultiArchitecture(opening=0.5)
    learner = Learner(space.supernet(0), {}, recipe)
    fc2 = learner.network.network.get_submodule("stages.0.blocks.0.mlp.fc2")
    before = fc2.weight.clone()
    recipe.begin_epoch(_moment(share=0.6), learner)
    assert fc2.weight.equal(before)
    recipe.begin_epoch(_moment(share=0.5), learner)
    assert not fc2.weight.equal(before)


def test_multi_architecture_needs_an_example_for_each() -> None:
    with pytest.raises(UsageError, match="cannot share"):
        MultiArchitecture(architectures=65)


# --- two-stage distillation -----------------------------------------------------------------------


def test_two_stages_train_the_largest_then_one_random_subnet() -> None:
    space, recipe = search_spaces.get("lighthubert"), TwoStageDistillation()
    assert [stage.name for stage in recipe.stages()] == ["largest", "subnets"]
    first = _drawn(recipe, space, _moment("largest"), 5)
    assert all(step == [space.largest()] for step in first)
    second = _drawn(recipe, space, _moment("subnets"), 200)
    assert {len(step) for step in second} == {1}
    by_name = {choice.name: choice.values for choice in space.choices.choices}
    for name, values in _values(second, lambda _: True).items():
        assert values == set(by_name[name])


def test_two_stages_sum_labels_soft_labels_and_the_error_at_hidden_frames() -> None:
    space = search_spaces.get("lighthubert")
    recipe = TwoStageDistillation(soft_labels=0.5, regression=2.0)
    turn, network = _turn(recipe, space, _data("vowels"), _moment("subnets"))
    network.eval()
    teacher, prediction = turn.helpers["teacher"], turn.helpers["prediction"]
    assert isinstance(teacher, Teacher)
    (arch,) = turn.subnets
    torch.manual_seed(5)
    ours = _gradients(network, recipe.losses(turn))
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
    _assert_same(ours, _gradients(network, iter([(total, 1.0)])))


def test_two_stages_without_states_learn_soft_labels_alone() -> None:
    space, recipe = search_spaces.get("vit"), TwoStageDistillation()
    turn, _ = _turn(recipe, space, _data("digits"), _moment("subnets"))
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


# --- sandwich, matformer --------------------------------------------------------------------------


def test_sandwich_averages_its_losses() -> None:
    space = search_spaces.get("vit")
    recipe = get_recipe("sandwich", random_subnets=1, soft_labels=0.25)
    turn, network = _turn(recipe, space, _data("digits"), _moment())
    assert list(turn.subnets[:2]) == [space.largest(), space.smallest()]
    ours = _gradients(network, recipe.losses(turn))
    logits = turn.run(turn.subnets[0])
    total, soft = turn.on_labels(logits), soften(logits)
    for arch in turn.subnets[1:]:
        logits = turn.run(arch)
        total = total + 0.75 * turn.on_labels(logits) + 0.25 * on_soft_labels(logits, soft)
    _assert_same(ours, _gradients(network, iter([(total, 1 / 3)])))


class _Watched(Sandwich):
    """Notes what each update finds."""

    seen: ClassVar[list[tuple[int, Tensor, Tensor, bool]]] = []

    def losses(self, turn: Turn) -> Iterator[tuple[Tensor, float]]:
        weights = torch.cat([p.detach().flatten() for p in turn.network.parameters()])
        self.seen.append((len(turn.subnets), turn.inputs, weights, "soft" in turn.kept))
        yield from super().losses(turn)


def test_sandwich_draws_what_a_time_limit_leaves_time_for() -> None:
    space, recipe = search_spaces.get("vit"), get_recipe("sandwich", random_subnets=14)
    for affordable, steps in ((math.inf, 16), (40.0, 16), (9.7, 9), (3.0, 4), (0.0, 4)):
        moment = replace(_moment(), affordable=affordable)
        assert len(_drawn(recipe, space, moment, 1)[0]) == steps
    one = get_recipe("sandwich", random_subnets=1)  # fewer were asked for than the fewest
    assert len(_drawn(one, space, replace(_moment(), affordable=0.0), 1)[0]) == 3


def test_sandwich_changes_the_weights_after_every_few_subnets() -> None:
    recipe = _Watched(
        epochs=1, examples_per_epoch=32, batch_size=16, random_subnets=3, together=2, warmup=0
    )
    _Watched.seen.clear()
    fit(search_spaces.get("vit"), _data("digits"), recipe, seed=0)
    sizes, inputs, weights, taught = zip(*_Watched.seen, strict=True)
    assert sizes == (2, 2, 1) * 2
    assert taught == (False, True, True) * 2
    for at in range(5):
        assert inputs[at].equal(inputs[at + 1]) == (at != 2)
        assert not weights[at].equal(weights[at + 1])


@pytest.mark.parametrize(
    "kw", [{"random_subnets": -1}, {"together": 0}, {"soft_labels": -0.1}, {"soft_labels": 2}]
)
def test_sandwich_refuses_what_is_no_number_or_weight(kw: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="sandwich"):
        get_recipe("sandwich", **kw)


def test_matformer_has_one_granularity_in_all_layers() -> None:
    space = search_spaces.get("matlm")
    sampled = _drawn(get_recipe("matformer"), space, _moment(), 100)
    seen = set()
    for (arch,) in sampled:
        sizes = {value for name, value in arch.items() if name.endswith(".ffn")}
        assert len(sizes) == 1
        seen |= sizes
    assert len(seen) == 4
    (summed,) = _drawn(get_recipe("matformer", variant="summed"), space, _moment(), 1)
    assert summed[0] == space.largest()
    widths = [{v for n, v in arch.items() if n.endswith(".ffn")} for arch in summed]
    assert [len(w) for w in widths] == [1] * 4
    assert set.union(*widths) == seen


def test_matformer_sums_all_granularities() -> None:
    space, recipe = search_spaces.get("matlm"), get_recipe("matformer", variant="summed")
    turn, network = _turn(recipe, space, _data(space.default_data), _moment(), n=4)
    ours = _gradients(network, recipe.losses(turn))
    total = torch.stack([turn.on_labels(turn.run(arch)) for arch in turn.subnets]).sum()
    _assert_same(ours, _gradients(network, iter([(total, 1.0)])))
