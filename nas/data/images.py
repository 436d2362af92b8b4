"""An image, decoded by Pillow and fitted to a space's input."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Channel statistics of ImageNet, which the 224-pixel presets of the literature are trained with.
STATISTICS: Mapping[int, tuple[list[float], list[float]]] = {
    1: ([0.5], [0.5]),
    3: ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}


def image_preprocessing(
    input_shape: tuple[int, ...], statistics: tuple[list[float], list[float]] | None = None
) -> dict[str, Any]:
    """How images become a space's input of (channels, height, width).

    Args:
        input_shape: of the space.
        statistics: mean and standard deviation by channel of colour images; ImageNet's if None.

    Raises:
        UsageError: if images have no such number of channels.
    """
    channels = input_shape[0]
    if channels not in STATISTICS:
        raise UsageError(f"images have 1 or 3 channels, not {channels}.", "Choose another space.")
    mean, std = statistics if statistics and channels == 3 else STATISTICS[channels]
    return {
        "kind": "image",
        "input_shape": list(input_shape),
        "resize": "shorter side, bicubic, centre crop",
        "scale": 1 / 255,
        "mean": mean,
        "std": std,
    }


def decode(where: object, content: bytes, input_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An image file's content as (channels, height, width).

    The shorter side is resized and the centre cut out.

    Args:
        where: the content is from, for the message.
        content: of the file.
        input_shape: (channels, height, width); one channel means grey, three colour.

    Raises:
        UsageError: if the content is no image, or Pillow is not installed.
    """
    image_module = pillow()
    from PIL import UnidentifiedImageError

    try:
        with image_module.open(io.BytesIO(content)) as image:
            return _fit(image, input_shape)
    except (  # a broken PNG is a SyntaxError, or a ValueError
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        image_module.DecompressionBombError,
    ) as error:
        unknown = isinstance(error, UnidentifiedImageError)  # which names a buffer in memory
        said = "no format that Pillow knows" if unknown else error
        raise UsageError(
            f"{where} cannot be read as an image ({said}).", "Remove or replace it."
        ) from None


def refit(pixels: NDArray[np.uint8], input_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A colour image (3, height, width) as (channels, height, width) of the input."""
    return _fit(pillow().fromarray(pixels.transpose(1, 2, 0)), input_shape)


def pillow() -> Any:
    """Pillow's `Image` module.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise UsageError(
            "images are read with Pillow, which is not installed.",
            "Install it: pip install 'frontier-nas[images]'.",
        ) from None
    return Image


def _fit(image: Any, input_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    channels, height, width = input_shape
    if image.mode.startswith("I"):  # of 16 bits; to convert it would cut off all above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    plain = image.convert("L" if channels == 1 else "RGB")
    fitted = ImageOps.fit(plain, (width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(fitted, np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
