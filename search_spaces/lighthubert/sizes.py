"""Sizes of the LightHuBERT spaces: the published ones, and one for the embedded data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from search_spaces.choices import Value


@dataclass(frozen=True, slots=True)
class Sizes:
    """A preset: the values of each choice, and what is fixed.

    Attributes:
        ratios: hidden units of a feed-forward layer as a multiple of the embedding width.
        convs: (channels, kernel, stride) of each convolution of the extractor.
        position: (kernel, groups) of the position convolution.
        samples: of a waveform.
        kept: depth -> layers that run, where these are not the first ones.
        init_std: of the initial linear weights of the layers; 0.02 as published. Narrow layers
            need more.
    """

    embed: tuple[int, ...]
    depth: tuple[int, ...]
    heads: tuple[int, ...]
    ratios: tuple[float, ...]
    head_width: int
    convs: tuple[tuple[int, int, int], ...]
    position: tuple[int, int]
    samples: int
    n_classes: int
    kept: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    init_std: float = 0.02

    @property
    def lengths(self) -> tuple[int, ...]:
        """Samples of a waveform, and frames after each convolution."""
        lengths = [self.samples]
        for _, kernel, stride in self.convs:
            lengths.append((lengths[-1] - kernel) // stride + 1)
        return tuple(lengths)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of a waveform, and after each convolution."""
        return (1, *(channels for channels, _, _ in self.convs))

    def layers(self, depth: int) -> tuple[int, ...]:
        """Layers that run at a depth, as indices in the largest network."""
        return self.kept.get(depth, tuple(range(depth)))


_HUBERT = ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)  # 50 frames a second at 16 kHz

PRESETS: dict[str, Sizes] = {
    # 0.2 s at 8 kHz, 20 frames; the published shape, scaled down. Only one convolution, without
    # overlap, for all subnets share it: with one of twice the length, or with two, narrow
    # subnets come too near to wide ones, and shallow ones to deep ones.
    "vowels": Sizes(
        (3, 6, 12, 24), (1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 4), 8,
        ((32, 80, 80),), (4, 3), 1600, 10, init_std=0.1,
    ),
    # 1 s at 16 kHz; the twelve classes of Speech Commands as SUPERB has them
    "base": Sizes(
        (512, 640, 768), (12,), (8, 10, 12), (3.5, 4), 64, _HUBERT, (128, 16), 16000, 12,
    ),
    "small": Sizes(
        (256, 384, 512), (10, 11, 12), (4, 6, 8), (3, 3.5, 4), 64, _HUBERT, (128, 16), 16000, 12,
        kept={10: (0, 1, 2, 3, 4, 5, 6, 8, 9, 10)},
    ),
}  # fmt: skip


def hidden_units(embed: int, ratio: Value) -> int:
    """Feed-forward hidden units at an embedding width and a ratio."""
    return int(float(ratio) * embed)
