"""What a search space is: choices, the blocks its networks are made of, and its supernet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hw_profiles.errors import UsageError, nearest
from hw_profiles.op import Op
from hw_profiles.plugins import load_plugins
from search_spaces.choices import ChoiceSet, Condition, Value

if TYPE_CHECKING:
    from torch import Tensor, nn

    from search_spaces.elastic import Supernet

Architecture = Mapping[str, Value]
InputKind = Literal["image", "waveform", "tokens"]


@dataclass(frozen=True, slots=True)
class LayerOp:
    """An op of a block.

    Attributes:
        op: the call, in native precision.
        group: the quantizable layer group it belongs to within its block ("" if none).
        live: activation elements that are held while it runs, its input and output included.
        extra: parameters beside the op's own, kept in the native type: biases, tokens, tables,
            affine numbers of a batch norm. Negative where a weight is another op's too and was
            counted there.
    """

    op: Op
    group: str = ""
    live: int = 0
    extra: int = 0

    @property
    def params(self) -> int:
        """Parameters owned."""
        return self.op.weights + self.extra


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the network whose ops depend on few choices.

    Attributes:
        name: prefix of its modules and groups, such as `layers.3`.
        kind: blocks of one kind have the same ops for the same values.
        reads: the choices whose values decide the ops, in the order of the kind's arguments.
        active: when the block exists; None means always.
        groups: quantizable layer group -> names of its modules, both relative to `name`.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    active: Condition | None
    groups: Mapping[str, tuple[str, ...]]


class SearchSpace(ABC):
    """A family of networks at one preset.

    A family implements `build`, `supernet`, `slices`, `ops`, `describe`; all else follows.

    Args:
        name: of the family, such as `vit`.
        preset: of the sizes, such as `digits`.
        choices: of the architecture.
        blocks: in the order in which they run.
        input_shape: of one example as a data set gives it: an image (channels, height, width), a
            waveform (samples,) or tokens (length,).
        n_classes: outputs: classes, or the vocabulary.
        default_data: name of the data set that needs no choice; "" if the user must name one.
        input_kind: what an example is: `image`, `waveform` or `tokens`.
        default_recipe: training recipe that suits it, perhaps with fields of it.

    Attributes:
        references: kinds of foreign weights that `from_reference` reads, such as `timm`.
        ordered: those of them that are a trained supernet's, in the order that its subnets
            learned; to `sort` them would spoil every subnet but the largest.
    """

    references: tuple[str, ...] = ()
    ordered: frozenset[str] = frozenset()

    def __init__(
        self,
        name: str,
        preset: str,
        choices: ChoiceSet,
        blocks: tuple[Block, ...],
        input_shape: tuple[int, ...],
        n_classes: int,
        default_data: str = "",
        input_kind: InputKind = "image",
        default_recipe: str = "sandwich",
    ) -> None:
        self.name = name
        self.preset = preset
        self.choices = choices
        self.blocks = blocks
        self.input_shape = input_shape
        self.n_classes = n_classes
        self.default_data = default_data
        self.input_kind = input_kind
        self.default_recipe = default_recipe

    @property
    def in_channels(self) -> int:
        """Channels of an example."""
        return self.input_shape[0] if self.input_kind == "image" else 1

    @abstractmethod
    def ops(self, kind: str, batch: int, *values: Value) -> list[LayerOp]:
        """The ops of a block of this kind for the values of the choices that it reads."""

    @abstractmethod
    def build(self, arch: Architecture) -> nn.Module:
        """A plain network of this architecture, freshly initialised, in training mode."""

    @abstractmethod
    def supernet(self, seed: int = 0) -> Supernet:
        """The weight-sharing network of the whole space, freshly initialised from the seed."""

    @abstractmethod
    def slices(self, arch: Architecture) -> dict[str, tuple[Any, ...]]:
        """What an architecture activates: elastic module name -> arguments of its `activate`."""

    @abstractmethod
    def describe(self, arch: Architecture) -> str:
        """A compact form to read, on one line."""

    def fit_input(self, arch: Architecture, x: Tensor) -> Tensor:
        """Examples of a data set as the architecture's network takes them (its resolution)."""
        return x

    def example(self, arch: Architecture, batch: int = 1) -> Tensor:
        """A batch of zeros that the architecture's plain network takes."""
        import torch

        dtype = torch.int64 if self.input_kind == "tokens" else torch.float32
        return self.fit_input(arch, torch.zeros(batch, *self.input_shape, dtype=dtype))

    def sort(self, network: nn.Module, trained: int = 0) -> tuple[str, ...]:
        """Put the most important units of the largest network first; its output stays the same.

        Args:
            network: the largest, plain or elastic; permuted in place.
            trained: how many of the smaller widths are trained, from the larger on. Their units
                stay among themselves; a space that cannot keep them so does not sort then.

        Returns:
            what was sorted, by name; nothing where an order is learned, not sorted.
        """
        return ()

    def from_reference(self, kind: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Foreign weights under the names and layouts of this family's largest network.

        Entries may be missing or of another size: the caller keeps what fits.

        Args:
            kind: one of `references`.
            state: foreign name -> tensor.

        Raises:
            UsageError: if these are no weights of that kind.
        """
        raise UsageError(f"{self.name} reads no {kind} weights.", "See `nas spaces`.")

    def reference_settings(self, kind: str) -> dict[str, object]:
        """What the `config.json` of foreign weights must say, where it says it.

        It is what shapes do not show, and without which they would compute something else. A dot
        in a name leads into what lies within, such as `rope_parameters.rope_theta`.

        Args:
            kind: one of `references`.
        """
        return {}

    def largest(self) -> dict[str, Value]:
        """The architecture of all last values."""
        return self.choices.decode(self.choices.extreme(largest=True)[0])

    def smallest(self) -> dict[str, Value]:
        """The architecture of all first values."""
        return self.choices.decode(self.choices.extreme(largest=False)[0])

    def workload(self, arch: Architecture, batch: int = 1) -> list[tuple[Block, LayerOp]]:
        """The ops of one architecture at a batch size, in order, each with its block."""
        full = self.choices.decode(self.choices.encode(arch))
        found = []
        for block in self.blocks:
            if block.active is None or full.get(block.active.choice) in block.active.values:
                values = [full[name] for name in block.reads]
                found += [(block, op) for op in self.ops(block.kind, batch, *values)]
        return found

    def group_modules(self) -> dict[str, tuple[str, ...]]:
        """Quantizable layer groups -> full names of their modules, of the largest network."""
        return {
            f"{block.name}.{group}": tuple(f"{block.name}.{m}" for m in modules)
            for block in self.blocks
            for group, modules in block.groups.items()
        }


SpaceFactory = Callable[..., SearchSpace]


@dataclass(frozen=True, slots=True)
class _Family:
    factory: SpaceFactory
    presets: tuple[str, ...]
    title: str


_FAMILIES: dict[str, _Family] = {}


def register_space(
    name: str, presets: tuple[str, ...], title: str
) -> Callable[[SpaceFactory], SpaceFactory]:
    """Register a family's factory `(preset, **overrides) -> SearchSpace`; first preset is default.

    A package outside this one registers by an entry point in the group `nas.spaces` that names
    a module with such a decorated factory.
    """

    def add(factory: SpaceFactory) -> SpaceFactory:
        _FAMILIES[name] = _Family(factory, presets, title)
        return factory

    return add


def _families() -> dict[str, _Family]:
    import search_spaces.lighthubert
    import search_spaces.matlm
    import search_spaces.ofa
    import search_spaces.vit  # registers itself
    import search_spaces.vit_resnas  # noqa: F401

    load_plugins("nas.spaces", _FAMILIES)
    return _FAMILIES


def names() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Registered families: name -> (title, presets)."""
    return {name: (f.title, f.presets) for name, f in sorted(_families().items())}


def get(
    name: str,
    preset: str | None = None,
    *,
    n_classes: int | None = None,
    in_channels: int | None = None,
) -> SearchSpace:
    """A space by name; the data's classes and channels may differ from the preset's own.

    Raises:
        NotFoundError: if there is no such family or preset.
        UsageError: if a number of classes or channels is not positive.
    """
    families = _families()
    if name not in families:
        raise nearest(name, families, "space")
    family = families[name]
    if preset is not None and preset not in family.presets:
        raise nearest(preset, family.presets, f"preset of {name}")
    for what, value in (("classes", n_classes), ("channels", in_channels)):
        if value is not None and value < 1:
            raise UsageError(f"a network needs at least one of its {what}.", "Check the data.")
    overrides = {"n_classes": n_classes, "in_channels": in_channels}
    return family.factory(
        preset or family.presets[0], **{k: v for k, v in overrides.items() if v is not None}
    )
