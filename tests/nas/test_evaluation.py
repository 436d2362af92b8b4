"""Quality of a candidate: sliced, quantized as deployed, and never of garbage."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import search_spaces
from nas.candidate import CandidateSpace
from nas.data.dataset import Part
from nas.data.metric import ACCURACY
from nas.data.registry import load_dataset
from nas.evaluation import EvaluationError, Evaluator
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


def test_noise_counts_originals_not_draws() -> None:
    evaluator = Evaluator(SUPERNET, "onnxruntime", "fp32")
    candidate = CandidateSpace(SPACE, ("fp32",)).uniform(SPACE.smallest(), "fp32")
    accuracy, noise = evaluator.quality(candidate, FEW, ACCURACY)
    assert noise == pytest.approx((accuracy * (1 - accuracy) / len(FEW)) ** 0.5)
    alike = replace(FEW, draws=4)
    assert evaluator.quality(candidate, alike, ACCURACY)[1] == pytest.approx(2 * noise, rel=0.01)
