import pytest
import torch

from nas.data.dataset import Part
from nas.verification import compared_inputs


@pytest.mark.parametrize(
    ("n", "length", "compared"),
    [(600, 128, 79), (50, 128, 50), (2000, 4, 1000)],  # 79 of 128 tokens: 10,112 decisions
)
def test_texts_are_compared_on_so_many_tokens(n, length, compared):
    stored = torch.zeros(n, length + 1, dtype=torch.uint8)
    part = Part(stored, torch.empty(0, dtype=torch.int64), {"kind": "tokens"})
    assert compared_inputs(part).shape == (compared, length)


@pytest.mark.parametrize(("n", "compared"), [(1200, 1000), (300, 300)])
def test_images_are_compared_on_so_many_examples(n, compared):
    stored = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
    preprocessing = {"kind": "image", "scale": 1.0, "mean": [0.0], "std": [1.0]}
    part = Part(stored, torch.zeros(n, dtype=torch.int64), preprocessing)
    assert compared_inputs(part).shape == (compared, 1, 8, 8)
