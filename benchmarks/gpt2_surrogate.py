"""GPT-2 subnets as a search problem: a perplexity surrogate, and latency of the ops on an A100.

The perplexity is that of the surrogate in HW-GPT-Bench (arXiv:2405.10299), a ReLU network on a
one-hot code; it is no measured perplexity. The latency is that of this project's `a100` profile
for the ops of the subnet as a decoder: one forward pass over `BATCH` sequences of `TOKENS` tokens
in bf16, with logits for every token. A head is 64 wide at every scale, as in the supernets that
the surrogate was made from; a bias costs no op of its own.
"""

from __future__ import annotations

import zipfile
import zlib
from itertools import product
from pathlib import Path

import numpy as np
from known_problems import Floats, Known
from numpy.lib.npyio import NpzFile

from hw_profiles import registry
from hw_profiles.op import Op
from nas.engine.candidates import corners
from nas.engine.inner import search
from nas.engine.problem import Objective, Problem
from nas.errors import UsageError
from predictors.latency import latency_predictor
from search_spaces.choices import Choice, ChoiceSet, Condition, Genomes
from search_spaces.transformer import Layer, norm_op

RATIOS = (2, 3, 4)
SCALES = {
    "small": ((192, 384, 768), (10, 11, 12), (4, 8, 12)),
    "medium": ((256, 512, 1024), (22, 23, 24), (8, 12, 16)),
    "large": ((320, 640, 1280), (34, 35, 36), (8, 16, 20)),
}
"""Embedding widths, numbers of layers, and heads of a layer, of each scale."""

HEAD_WIDTH = 64
VOCABULARY = 50_257
TOKENS = 1_024
BATCH = 1
PRECISION = "bf16"

MARGIN = 1.05
"""The reference point: this times the smallest network's perplexity and the largest's latency."""
POPULATION = 200
GENERATIONS = 299
"""With the first population, 60,000 evaluations of the surrogate."""


def choice_set(scale: str) -> ChoiceSet:
    """Genes of a scale: embed, layers, then ratio and heads of each layer slot, and bias."""
    widths, depths, heads = SCALES[scale]
    choices = [Choice("embed", widths), Choice("layers", depths)]
    for i in range(depths[-1]):
        deeper = frozenset(depth for depth in depths if depth > i)
        when = None if len(deeper) == len(depths) else Condition("layers", deeper)
        choices.append(Choice(f"layers.{i}.mlp_ratio", RATIOS, when))
        choices.append(Choice(f"layers.{i}.heads", heads, when))
    return ChoiceSet((*choices, Choice("bias", ("yes", "no"), ordinal=False)))


class Surrogate:
    """The perplexity surrogate of one scale.

    Args:
        path: of the NPZ file with `fc1` to `fc5`, weights (out, in) and biases (out,).
        choices: of the scale.

    Raises:
        UsageError: if the file holds no such network, or one of another scale.
    """

    def __init__(self, path: Path, choices: ChoiceSet) -> None:
        self.choices = choices
        try:
            self._layers = _layers(path)
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UsageError(
                f"{path} holds no perplexity surrogate ({error}).",
                "It needs weights and biases of fc1 to fc5.",
            ) from None
        inputs = self._layers[0][0].shape[1]
        if inputs != choices.sizes.sum():
            raise UsageError(
                f"the surrogate takes {inputs} inputs, this scale has {choices.sizes.sum()}.",
                f"Choose --scale from {', '.join(SCALES)}.",
            )
        # The surrogate has all ratios before all heads.
        names = choices.names
        ratios = [g for g, name in enumerate(names) if name.endswith("ratio")]
        heads = [g for g, name in enumerate(names) if name.endswith("heads")]
        genes = [0, 1, *ratios, *heads, len(names) - 1]
        starts = np.cumsum(choices.sizes) - choices.sizes
        self._order = np.concatenate([starts[g] + np.arange(choices.sizes[g]) for g in genes])

    def __call__(self, genomes: Genomes) -> Floats:
        """Perplexity of genomes (n, genes), (n,)."""
        x = self.choices.one_hot(self.choices.canonical(genomes))[:, self._order]
        for i, (weight, bias) in enumerate(self._layers):
            x = x @ weight.T + bias
            if i + 1 < len(self._layers):
                x = np.maximum(x, 0.0)
        return x[:, 0]


def _layers(path: Path) -> list[tuple[Floats, Floats]]:
    """Weights (out, in) and biases (out,) of the surrogate's layers, the last one's out being 1."""
    file = np.load(path, allow_pickle=False)
    if not isinstance(file, NpzFile):
        raise ValueError("it is one array")
    with file:
        layers: list[tuple[Floats, Floats]] = [
            (
                file[f"fc{i}.weight"].astype(np.float64),
                file[f"fc{i}.bias"].astype(np.float64),
            )
            for i in range(1, 6)
        ]
    width = layers[0][0].shape[1:]
    for weight, bias in layers:
        if weight.shape != (*bias.shape, *width):
            raise ValueError("its layers do not follow one another")
        width = bias.shape
    if width != (1,):
        raise ValueError("it does not end in one output")
    if not all(np.isfinite(each).all() for layer in layers for each in layer):
        raise ValueError("it holds what is no finite number")
    return layers


class Latency:
    """Latency in ms on the shipped A100 profile.

    The ops of a layer depend on embed, ratio and heads alone, so a population is looked up in one
    table of the 27 different layers.
    """

    def __init__(self, choices: ChoiceSet) -> None:
        self.choices = choices
        self._predictor = latency_predictor(registry.load("a100"))
        widths, _, heads = (choices.choices[g].values for g in (0, 1, 3))
        rows = BATCH * TOKENS
        self._ends = np.stack([
            self._features([
                Op("embedding", (rows, VOCABULARY, width)),
                Op("add", (rows, width)),  # of the positions
                norm_op(rows, width).op,
                Op("linear", (rows, width, VOCABULARY)),
            ])
            for width in map(int, widths)
        ])  # fmt: skip
        layers = [
            self._features([op.op for op in Layer.ops(BATCH, TOKENS, w, h, HEAD_WIDTH, r * w)])
            for w, r, h in product(map(int, widths), RATIOS, map(int, heads))
        ]
        self._layers = np.stack(layers).reshape(len(widths), len(RATIOS), len(heads), -1)

    def _features(self, ops: list[Op]) -> Floats:
        at = [op.at(PRECISION) if op.kind == "linear" else op for op in ops]
        summed: Floats = self._predictor.op_features(at).sum(axis=0)
        return summed

    def __call__(self, genomes: Genomes) -> Floats:
        """Latency of genomes (n, genes), (n,)."""
        embed, ratios, heads = genomes[:, 0], genomes[:, 2:-1:2], genomes[:, 3:-1:2]
        active = self.choices.active(genomes)[:, 2:-1:2]
        layers = self._layers[embed[:, None], ratios, heads] * active[:, :, None]
        latency: Floats = self._predictor.predict(self._ends[embed] + layers.sum(axis=1))[0]
        return latency


def read_gpt2(path: Path, scale: str) -> Known:
    """The search problem of a scale.

    Raises:
        UsageError: if the file is not that scale's surrogate.
    """
    choices = choice_set(scale)
    perplexity, latency = Surrogate(path, choices), Latency(choices)
    largest, smallest = choices.extreme(largest=True), choices.extreme(largest=False)
    reference = {
        "perplexity": MARGIN * float(perplexity(smallest)[0]),
        "latency_ms": MARGIN * float(latency(largest)[0]),
    }
    problem = Problem(
        choices,
        (Objective("perplexity", False, known=False), Objective("latency_ms", False, known=True)),
        costs=lambda g: {"latency_ms": latency(g)},
        violation=lambda g: np.zeros(len(g)),
        features=lambda g: np.log(latency(g))[:, None],
        reference=reference,
    )

    def best() -> Floats:
        found = search(
            choices,
            lambda g: (np.stack([perplexity(g), latency(g)], axis=1), np.zeros(len(g))),
            2,
            start=corners(choices),
            seed=0,
            population=POPULATION,
            generations=GENERATIONS,
        )
        return found.objectives

    return Known(problem, lambda g: {"perplexity": perplexity(g)}, best, exact=False)
