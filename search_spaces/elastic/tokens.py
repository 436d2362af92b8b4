"""Class token and learned absolute positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.elastic.base import Elastic, within


class Tokens(nn.Module):
    """Class token and learned absolute positions: (batch, patches, width) -> one token more.

    Args:
        n_patches: tokens of an image.
        width: of a token.
        position_std: of the initial positions. On small images little else tells patches apart.
    """

    def __init__(self, n_patches: int, width: int, position_std: float) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, n_patches + 1, width))
        nn.init.normal_(self.cls, std=0.02)
        nn.init.normal_(self.position, std=position_std)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.position


class ElasticTokens(Elastic, Tokens):
    """Class token and positions whose first features are used."""

    def __init__(self, n_patches: int, width: int, position_std: float) -> None:
        Tokens.__init__(self, n_patches, width, position_std)
        self.active_width = width

    def activate(self, width: int) -> None:
        """Use this many features."""
        self.active_width = within(width, self.cls.shape[-1], "width")

    def active_state(self) -> dict[str, Tensor]:
        """The active slices."""
        return {
            "cls": self.cls[..., : self.active_width],
            "position": self.position[..., : self.active_width],
        }

    def forward(self, x: Tensor) -> Tensor:
        state = self.active_state()
        return torch.cat([state["cls"].expand(x.shape[0], -1, -1), x], dim=1) + state["position"]


def resample_positions(position: Tensor, side: int, extra: int = 1) -> Tensor:
    """Learned positions of a square grid of patches, resampled to another side.

    The grid is interpolated (bicubic); the `extra` first entries, such as the class token's, stay.

    Args:
        position: (1, extra + old side ** 2, width).
        side: of the new grid, in patches.
        extra: entries that belong to no patch.

    Returns:
        (1, extra + side ** 2, width).
    """
    old = round((position.shape[1] - extra) ** 0.5)
    grid = position[:, extra:].unflatten(1, (old, old)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([position[:, :extra], grid.flatten(2).transpose(1, 2)], dim=1)
