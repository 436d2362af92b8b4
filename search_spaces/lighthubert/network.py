"""The HuBERT network, plain or elastic, and the layers that are elastic in a way of their own."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.elastic import Elastic, ElasticLinear, Toolbox, within
from search_spaces.lighthubert.sizes import Sizes, hidden_units
from search_spaces.space import Architecture

# --- what is elastic in its own way -------------------------------------------------------------


class ElasticPositionConv(Elastic, nn.Conv1d):
    """A weight-normed convolution with a fixed number of groups, run on the first channels.

    The weight is `gain * weight / |weight|`, where the norm is over channels, one for each place
    in the kernel. It is taken of the FULL weight, whichever channels are active. With the groups
    fixed, the groups of a narrower network have fewer channels: others than in the largest.

    Args:
        width: channels of the largest, in and out.
        kernel: size; padded by half of it, so that an even one gives a frame too many.
        groups: at every width.
    """

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        nn.Conv1d.__init__(self, width, width, kernel, padding=kernel // 2, groups=groups)
        self.gain = nn.Parameter(self.weight.detach().norm(dim=(0, 1), keepdim=True))
        self.active_width = width

    def activate(self, width: int) -> None:
        """Run on this many channels, a multiple of the groups."""
        self.active_width = within(width, self.in_channels, "width")
        if width % self.groups:
            raise ValueError(f"{self.groups} groups do not divide {width} channels")

    def active_state(self) -> dict[str, Tensor]:
        """The normed slices: weight (width, width / groups, kernel) and bias (width,)."""
        assert self.bias is not None
        width, each = self.active_width, self.active_width // self.groups
        scale = self.gain / self.weight.norm(dim=(0, 1), keepdim=True)
        return {"weight": self.weight[:width, :each] * scale, "bias": self.bias[:width]}

    def forward(self, x: Tensor) -> Tensor:
        """(batch, active width, frames) -> (batch, active width, frames or one more)."""
        state = self.active_state()
        return F.conv1d(x, state["weight"], state["bias"], padding=self.padding, groups=self.groups)


class ElasticHidden(ElasticLinear):
    """The linear layer before or after the hidden units, which lie in rows of the largest width.

    At an active width, the start of each row is used: units 0 to width of the first row, then of
    the second, until there are as many as asked for.

    Args:
        embed: width of the largest.
        hidden: units of the largest.
        before: whether the units are this layer's outputs; else they are its inputs.
    """

    def __init__(self, embed: int, hidden: int, before: bool) -> None:
        super().__init__(*((embed, hidden) if before else (hidden, embed)))
        self.before = before

    def active_state(self) -> dict[str, Tensor]:
        """The active slices: weight (out, in) and bias (out,)."""
        assert self.bias is not None
        (inputs,), (outputs,) = self.active_in, self.active_out
        if self.before:
            rows = (self.in_features, inputs, outputs)
            weight = leading_units(self.weight[:, :inputs], 0, *rows)
            return {"weight": weight, "bias": leading_units(self.bias, 0, *rows)}
        weight = leading_units(self.weight[:outputs], 1, self.out_features, outputs, inputs)
        return {"weight": weight, "bias": self.bias[:outputs]}


def leading_units(tensor: Tensor, dim: int, row: int, width: int, count: int) -> Tensor:
    """The first `count` of the units that start each row, `width` of them, along a dimension."""
    if width == row:
        return tensor.narrow(dim, 0, count)
    taken = range(0, count, width)
    parts = [tensor.narrow(dim, i * row, min(width, count - t)) for i, t in enumerate(taken)]
    return torch.cat(parts, dim)


# --- the network --------------------------------------------------------------------------------


class ConvLayer(nn.Module):
    """One convolution of the extractor, with a layer norm over its channels."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, bias=False)
        self.norm = nn.LayerNorm(outputs)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, inputs) -> (batch, frames, outputs)."""
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(self.norm(x))


class Features(nn.Module):
    """From a waveform to the frames that the layers take."""

    def __init__(self, tools: Toolbox, sizes: Sizes, embed: int) -> None:
        super().__init__()
        kernel, groups = sizes.position
        self.convs = nn.Sequential(
            *(
                ConvLayer(inputs, *conv)
                for inputs, conv in zip(sizes.channels, sizes.convs, strict=False)
            )
        )
        self.norm = nn.LayerNorm(sizes.channels[-1])
        self.projection = tools.linear(sizes.channels[-1], embed)
        self.masked = tools.embedding(1, embed)
        self.position: nn.Conv1d = (
            ElasticPositionConv(embed, kernel, groups)
            if tools.elastic
            else nn.Conv1d(embed, embed, kernel, padding=kernel // 2, groups=groups)
        )
        self.position_norm = tools.layer_norm(embed)
        nn.init.uniform_(self.masked.weight)
        nn.init.normal_(self.position.weight, std=2 / math.sqrt(kernel * embed))
        nn.init.zeros_(self.position.bias)  # type: ignore[arg-type]  # there is one
        if isinstance(self.position, ElasticPositionConv):
            with torch.no_grad():
                self.position.gain.copy_(self.position.weight.norm(dim=(0, 1), keepdim=True))

    def forward(self, waveforms: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, samples) -> (batch, frames, embed)."""
        x = self.projection(self.norm(self.convs(waveforms.unsqueeze(-1))))
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.masked(torch.zeros_like(mask).long()), x)
        position = self.position(x.transpose(1, 2))[..., : x.shape[1]]
        out: Tensor = self.position_norm(x + F.gelu(position).transpose(1, 2))
        return out


class Layer(nn.Module):
    """One post-norm transformer layer."""

    def __init__(
        self, tools: Toolbox, embed: int, heads: int, head_width: int, hidden: int
    ) -> None:
        super().__init__()
        self.attention = tools.attention(embed, heads, head_width)
        self.attention_norm = tools.layer_norm(embed)
        if tools.elastic:
            self.fc1: nn.Linear = ElasticHidden(embed, hidden, before=True)
            self.fc2: nn.Linear = ElasticHidden(embed, hidden, before=False)
        else:
            self.fc1, self.fc2 = nn.Linear(embed, hidden), nn.Linear(hidden, embed)
        self.norm = tools.layer_norm(embed)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, embed) -> the same."""
        x = self.attention_norm(x + self.attention(x))
        out: Tensor = self.norm(x + self.fc2(F.gelu(self.fc1(x))))
        return out


class Hubert(nn.Module):
    """The network of one architecture, plain, or of the largest with elastic layers.

    Shapes: waveforms (batch, samples) -> logits (batch, classes).
    """

    def __init__(self, sizes: Sizes, arch: Architecture, elastic: bool = False) -> None:
        super().__init__()
        tools = Toolbox(elastic)
        embed = int(arch["embed"])
        self.features = Features(tools, sizes, embed)
        self.layers = tools.stack(
            {
                i: Layer(
                    tools,
                    embed,
                    int(arch[f"layers.{i}.heads"]),
                    sizes.head_width,
                    hidden_units(embed, arch[f"layers.{i}.ffn"]),
                )
                for i in sizes.layers(int(arch["depth"]))
            }
        )
        self.head = tools.linear(embed, sizes.n_classes)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=sizes.init_std)
                nn.init.zeros_(module.bias)

    def states(self, waveforms: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the last layer makes of each frame.

        Args:
            waveforms: (batch, samples).
            mask: bool (batch, frames): frames that a learned vector takes the place of, after the
                projection, as in masked prediction.

        Returns:
            (batch, frames, embed).
        """
        out: Tensor = self.layers(self.features(waveforms, mask))
        return out

    def forward(self, waveforms: Tensor) -> Tensor:
        logits: Tensor = self.head(self.states(waveforms).mean(1))
        return logits
