"""The published once-for-all spaces, and a small one for the embedded data."""

from __future__ import annotations

from dataclasses import replace

from search_spaces.ofa.layers import round_channels
from search_spaces.ofa.mobile import MobileSizes, MobileSpace, Stage
from search_spaces.ofa.resnet import ResNetSizes, ResNetSpace
from search_spaces.ofa.space import OfaSpace
from search_spaces.space import register_space


def _published(smallest: int) -> tuple[int, ...]:
    """Resolutions up to 224 in steps of 4."""
    return tuple(range(smallest, 225, 4))


def mobilenet_v3(width: float, smallest: int) -> MobileSizes:
    """Once-for-all's MobileNetV3 at a width multiplier."""
    stages = (
        Stage(24, 2, "relu"),
        Stage(40, 2, "relu", se=True),
        Stage(80, 2, "hardswish"),
        Stage(112, 1, "hardswish", se=True),
        Stage(160, 2, "hardswish", se=True),
    )
    return MobileSizes(
        stem=round_channels(16 * width),
        stem_activation="hardswish",
        first=round_channels(16 * width),
        first_activation="relu",
        stages=tuple(replace(s, width=round_channels(s.width * width)) for s in stages),
        last=round_channels(960 * width),
        mix=round_channels(1280 * width),
        head_activation="hardswish",
        resolutions=_published(smallest),
        eps=1e-5,
        dropout=0.1,
        image=224,
        in_channels=3,
        n_classes=1000,
    )


def proxyless(width: float) -> MobileSizes:
    """Once-for-all's ProxylessNAS at a width multiplier; its last stage has a single block."""
    layers = ((24, 2), (40, 2), (80, 2), (96, 1), (192, 2), (320, 1))
    stages = [Stage(round_channels(c * width), stride, "relu6") for c, stride in layers]
    return MobileSizes(
        stem=round_channels(32 * width),
        stem_activation="relu6",
        first=round_channels(16 * width),
        first_activation="relu6",
        stages=(*stages[:-1], replace(stages[-1], depths=(1,))),
        last=round_channels(1280 * width),
        mix=0,
        head_activation="relu6",
        resolutions=_published(128),
        eps=1e-3,
        dropout=0.1,
        image=224,
        in_channels=3,
        n_classes=1000,
    )


#: The 8x8 images are halved to doubled; kernels are no larger than a stage's images need.
DIGITS = MobileSizes(
    stem=16,
    stem_activation="hardswish",
    first=8,
    first_activation="relu",
    stages=(
        Stage(8, 1, "relu", False, (1, 2, 3), (3, 5, 7), (1, 2, 4)),
        Stage(16, 2, "hardswish", True, (1, 2, 3), (3, 5), (1, 2, 4)),
        Stage(32, 2, "hardswish", True, (1, 2, 3), (3,), (1, 2, 4)),
    ),
    last=128,
    mix=128,
    head_activation="hardswish",
    resolutions=(4, 8, 16),
    eps=1e-5,
    dropout=0.0,
    image=8,
    in_channels=1,
    n_classes=10,
    own_norms=True,
)

RESNET50D = ResNetSizes(
    stem=64,
    stages=(256, 512, 1024, 2048),
    base_depths=(2, 2, 4, 2),
    extra_depths=(0, 1, 2),
    widths=(0.65, 0.8, 1.0),
    expands=(0.2, 0.25, 0.35),
    resolutions=_published(128),
    image=224,
    in_channels=3,
    n_classes=1000,
)

PRESETS: dict[str, MobileSizes | ResNetSizes] = {
    "digits": DIGITS,
    "mbv3-w1.0": mobilenet_v3(1.0, smallest=128),
    "mbv3-w1.2": mobilenet_v3(1.2, smallest=160),
    "proxyless-w1.3": proxyless(1.3),
    "resnet50": RESNET50D,
}


@register_space("ofa", tuple(PRESETS), "once-for-all: MobileNetV3, ProxylessNAS, ResNet50D")
def ofa(preset: str, n_classes: int | None = None, in_channels: int | None = None) -> OfaSpace:
    """The space at a preset, fitted to the data's classes and channels."""
    sizes = PRESETS[preset]
    classes, channels = n_classes or sizes.n_classes, in_channels or sizes.in_channels
    if isinstance(sizes, MobileSizes):
        return MobileSpace(preset, replace(sizes, n_classes=classes, in_channels=channels))
    return ResNetSpace(preset, replace(sizes, n_classes=classes, in_channels=channels))
