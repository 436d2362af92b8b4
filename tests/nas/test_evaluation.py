"""Quality of a candidate: sliced, quantized as deployed, and never of garbage."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import search_spaces
from nas.candidate import CandidateSpace
from nas.data.dataset import Part
from nas.data.first_look import FirstLook
from nas.data.metric import ACCURACY
from nas.data.registry import load_dataset
from nas.evaluation import EvaluationError, Evaluator, evaluating
from nas.training.obtain import obtain_supernet

SPACE = search_spaces.get("vit", "digits")
DATA = load_dataset("digits-hard")
SUPERNET = obtain_supernet(SPACE, DATA).network  # the one that ships
FEW = Part(
    DATA.validation.stored[::8].contiguous(),
    DATA.validation.labels[::8].contiguous(),
    DATA.validation.preprocessing,
)


def test_the_shipped_supernet_ranks_architectures() -> None:
    evaluator = Evaluator(SUPERNET, "onnxruntime", "fp32")
    candidates = CandidateSpace(SPACE, ("fp32",))
    shallow = {**SPACE.largest(), "depth": 1}
    shallow = {k: v for k, v in shallow.items() if k in {"embed", "depth"} or ".0." in k or
               k.startswith("layers.0")}  # fmt: skip
    small, flat, large = (
        evaluator.quality(candidates.uniform(arch, "fp32"), FEW, ACCURACY)[0]
        for arch in (SPACE.smallest(), shallow, SPACE.largest())
    )
    assert small < 0.7
    assert large > 0.9
    assert flat < large - 0.1


def test_float_evaluation_is_that_of_the_extracted_network() -> None:
    evaluator = Evaluator(SUPERNET, "onnxruntime", "fp32")
    arch = SPACE.smallest()
    candidate = CandidateSpace(SPACE, ("fp32",)).uniform(arch, "fp32")
    plain = SUPERNET.extract(arch).eval()
    with torch.inference_mode():
        expected = plain(FEW.inputs)
    torch.testing.assert_close(evaluator.logits(candidate, FEW), expected, atol=1e-4, rtol=1e-4)
    assert len(evaluator.logits(candidate, FEW, 7)) == 7


@pytest.mark.parametrize(
    ("runtime", "native", "schemes"),
    [
        ("onnxruntime", "fp32", ("int8", "int4_wo")),
        ("cudagraph", "bf16", ("bf16", "int8", "int8_wo", "int4_wo")),
        ("eager", "fp16", ("fp16",)),
    ],
)
def test_quantized_accuracy_is_near_but_not_equal_to_float(
    runtime: str, native: str, schemes: tuple[str, ...]
) -> None:
    arch = SPACE.largest()
    exact = Evaluator(SUPERNET, "onnxruntime", "fp32")
    reference = exact.logits(CandidateSpace(SPACE, ("fp32",)).uniform(arch, "fp32"), FEW)
    evaluator = Evaluator(SUPERNET, runtime, native)
    for scheme in schemes:
        candidate = CandidateSpace(SPACE, schemes).uniform(arch, scheme)
        logits = evaluator.logits(candidate, FEW)
        assert not torch.equal(logits, reference)
        assert (logits.argmax(1) == reference.argmax(1)).double().mean() > 0.9
        assert torch.equal(logits, evaluator.logits(candidate, FEW))  # the same twice


def test_outputs_that_are_no_numbers_are_refused() -> None:
    broken = SPACE.supernet(0)
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(float("nan"))
    candidate = CandidateSpace(SPACE, ("fp32",)).uniform(SPACE.smallest(), "fp32")
    with pytest.raises(EvaluationError, match="not finite"):
        Evaluator(broken, "onnxruntime", "fp32").quality(candidate, FEW, ACCURACY)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_parts_of_an_evaluation_are_the_whole(batch_size: int) -> None:
    evaluator = Evaluator(SUPERNET, "onnxruntime", "fp32", batch_size)
    candidate = CandidateSpace(SPACE, ("int8",)).uniform(SPACE.largest(), "int8")
    look = FirstLook.of(DATA.validation, 0.25, batch_size)
    with evaluator.judging(candidate, DATA.validation, ACCURACY.scores) as scores_of:
        whole = scores_of(torch.arange(len(DATA.validation)))
        first, rest = scores_of(look.first), scores_of(look.rest)
    # Sums of other shapes may round another way: a decision on the edge may turn.
    assert (first != whole[look.first]).sum() + (rest != whole[look.rest]).sum() <= 2
    value, noise = evaluator.quality(candidate, DATA.validation, ACCURACY)
    assert value == float(whole.mean())

    candidates = CandidateSpace(SPACE, ("int8",))
    genome = candidates.encode(candidate.architecture, candidate.policy)
    evaluate = evaluating(evaluator, candidates, DATA.validation, ACCURACY, 0.25)
    assert evaluate(genome, 0, None) == {"accuracy": value, "noise": noise, "examples": 4044}
    together = float(torch.cat([first, rest]).mean())
    found = evaluate(genome, 0, 0.9)
    assert (found["accuracy"], found["examples"]) == (pytest.approx(together), 4044)
    assert "part_noise" not in found
    given_up = evaluate(genome, 0, 0.999)
    assert given_up["examples"] == len(look.first)
    # The same network tells how much harder the first examples are.
    off = abs(given_up["accuracy"] - value)
    assert off < min(abs(float(first.mean()) - value), 2 * given_up["part_noise"])
    assert given_up["part_noise"] < 0.7 * look.estimate(first).noise
    assert 0 < given_up["part_noise"] < given_up["noise"]
    assert given_up["noise"] > noise * 0.9
    assert given_up["seconds_saved"] > 0


def test_memory_bounds_what_runs_side_by_side() -> None:
    space = search_spaces.get("vit", "tiny")
    with torch.device("meta"):
        supernet = space.supernet()
    few, one, many = (
        Evaluator(supernet, "onnxruntime", "fp32", n, threads=8) for n in (1, 64, 512)
    )
    assert (few.per_pass, few.threads) == (29, 8)
    assert (one.per_pass, one.threads) == (64, 3)
    assert (many.per_pass, many.threads) == (512, 1)


def test_noise_counts_originals_not_draws() -> None:
    evaluator = Evaluator(SUPERNET, "onnxruntime", "fp32")
    candidate = CandidateSpace(SPACE, ("fp32",)).uniform(SPACE.smallest(), "fp32")
    accuracy, noise = evaluator.quality(candidate, FEW, ACCURACY)
    assert noise == pytest.approx((accuracy * (1 - accuracy) / len(FEW)) ** 0.5)
    alike = replace(FEW, draws=4)
    assert evaluator.quality(candidate, alike, ACCURACY)[1] == pytest.approx(2 * noise, rel=0.01)
