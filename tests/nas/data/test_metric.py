"""Metrics: scores an example, noise of their mean."""

from __future__ import annotations

import math

import pytest
import torch

from nas.data.metric import ACCURACY, BITS_PER_BYTE, LOSS


def test_accuracy_scores_are_right_or_wrong() -> None:
    logits = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
    scores = ACCURACY.scores(logits, torch.tensor([1, 1, 1]))
    assert scores.tolist() == [1.0, 0.0, 1.0]


def test_bits_per_byte_of_known_distributions() -> None:
    labels = torch.randint(0, 256, (3, 5))
    uniform = BITS_PER_BYTE.scores(torch.zeros(3, 5, 256), labels)
    assert uniform.tolist() == pytest.approx([8.0] * 3)
    sure = torch.nn.functional.one_hot(labels, 256) * 100.0
    assert BITS_PER_BYTE.scores(sure, labels).tolist() == pytest.approx([0.0] * 3, abs=1e-6)


def test_loss_of_known_distributions() -> None:
    labels = torch.tensor([1, 0, 3])
    assert LOSS.scores(torch.zeros(3, 4), labels).tolist() == pytest.approx([math.log(4)] * 3)
    sure = torch.nn.functional.one_hot(labels, 4) * 100.0
    assert LOSS.scores(sure, labels).tolist() == pytest.approx([0.0] * 3, abs=1e-6)
    assert (LOSS.format(0.5), LOSS.format_difference(0.05)) == ("0.500", "0.050 nats")


def test_noise_is_the_standard_error_of_the_mean() -> None:
    scores = torch.tensor([1.0, 0.0] * 50, dtype=torch.float64)
    assert ACCURACY.noise(scores) == pytest.approx(0.5 / math.sqrt(100))
    assert ACCURACY.noise(scores, draws=4) == pytest.approx(0.5 / math.sqrt(25))
