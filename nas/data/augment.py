"""What training does to a batch: a few lines of torch an augmentation, drawn from a generator."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from nas.errors import nearest

PADDING = 8  # an image is padded by an eighth of its side: 4 pixels of 32, as usual for CIFAR
FARTHEST_SHIFT = 10  # a waveform is shifted by a tenth of its length: 0.1 s of 1 s
JITTER = 0.2  # of brightness in standard deviations, and of contrast as a ratio


def augment(name: str, inputs: Tensor, generator: Generator) -> Tensor:
    """A batch as training sees it; the shape stays.

    Args:
        name: of the augmentation, see `AUGMENTATIONS`.
        inputs: network input, (n, channels, height, width) or (n, samples).
        generator: on the device of the inputs; the same state gives the same batch.

    Raises:
        NotFoundError: if there is no such augmentation.
    """
    if name not in AUGMENTATIONS:
        raise nearest(name, AUGMENTATIONS, "augmentation")
    return AUGMENTATIONS[name](inputs, generator)


def none(inputs: Tensor, generator: Generator) -> Tensor:
    """The batch as it is."""
    return inputs


def crop_flip(images: Tensor, generator: Generator) -> Tensor:
    """Each image cut out of a padded one at random, every second one mirrored.

    The padding is 0, which is the mean of normalised input.
    """
    n, _, height, width = images.shape
    device = images.device
    high, wide = height // PADDING, width // PADDING
    top = torch.randint(2 * high + 1, (n, 1), generator=generator, device=device)
    left = torch.randint(2 * wide + 1, (n, 1), generator=generator, device=device)
    mirrored = torch.randint(2, (n, 1), generator=generator, device=device) == 1
    rows = top + torch.arange(height, device=device)
    columns = left + torch.arange(width, device=device)
    columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (wide, wide, high, high))
    each = torch.arange(n, device=device)[:, None, None]
    cut = padded[each, :, rows[:, :, None], columns[:, None, :]]  # (n, height, width, channels)
    return cut.permute(0, 3, 1, 2).contiguous()


def crop_flip_jitter(images: Tensor, generator: Generator) -> Tensor:
    """`crop-flip`, then another brightness and contrast for each image."""
    cut = crop_flip(images, generator)
    drawn = torch.rand(2, len(cut), 1, 1, 1, generator=generator, device=cut.device) * 2 - 1
    brightness, contrast = drawn * JITTER
    mean = cut.mean(dim=(1, 2, 3), keepdim=True)
    changed: Tensor = (cut - mean) * (1 + contrast) + mean + brightness
    return changed


def shift(waveforms: Tensor, generator: Generator) -> Tensor:
    """Each waveform earlier or later; silence fills the gap."""
    n, samples = waveforms.shape
    farthest = samples // FARTHEST_SHIFT
    start = torch.randint(2 * farthest + 1, (n, 1), generator=generator, device=waveforms.device)
    padded = F.pad(waveforms, (farthest, farthest))
    moved: Tensor = padded.gather(1, start + torch.arange(samples, device=waveforms.device))
    return moved


AUGMENTATIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "none": none,
    "crop-flip": crop_flip,
    "crop-flip-jitter": crop_flip_jitter,
    "shift": shift,
}
