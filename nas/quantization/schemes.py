"""How one linear layer is held and computed: the schemes that each runtime really runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hw_profiles.errors import nearest
from hw_profiles.op import PRECISIONS
from hw_profiles.plugins import load_plugins

Granularity = Literal["tensor", "channel", "group"]


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a runtime holds and computes one linear layer.

    Attributes:
        name: a precision of `hw_profiles.op`.
        runtime: that runs it.
        weight_granularity: what shares one weight scale; None for plain floating point.
        weight_range: smallest and largest integer that a weight takes; of fp8, its largest floats.
        group_size: weights of a group along the input features (granularity `group`).
        activation_range: smallest and largest integer that an activation takes, both 0 if
            activations stay in the runtime's native float. What shares a scale, and which integer
            is zero, is the arithmetic's.
    """

    name: str
    runtime: str
    weight_granularity: Granularity | None = None
    weight_range: tuple[int, int] = (0, 0)
    group_size: int = 0
    activation_range: tuple[int, int] = (0, 0)

    @property
    def is_native(self) -> bool:
        """Whether this is the runtime's own float type, not quantized at all."""
        return self.weight_granularity is None

    @property
    def weight_bits(self) -> int:
        """Bits of one stored weight."""
        return PRECISIONS[self.name].weight_bits


_SCHEMES: dict[tuple[str, str], Scheme] = {}


def register_scheme(scheme: Scheme) -> Scheme:
    """Register a scheme, offered once it has an arithmetic and, if quantized, its ONNX nodes.

    See `register_arithmetic` and `register_nodes`. A package outside this one registers by an entry
    point in the group `nas.schemes` that names a module with all of them.

    Raises:
        NotFoundError: if its name is no precision of `hw_profiles.op`.
    """
    if scheme.name not in PRECISIONS:
        raise nearest(scheme.name, PRECISIONS, "precision")
    _SCHEMES[scheme.runtime, scheme.name] = scheme
    return scheme


#: PyTorch runs a network in any float type; which one is native is the profile's to say.
TORCH_FLOATS = tuple(
    register_scheme(Scheme(name, runtime))
    for runtime in ("eager", "compile", "cudagraph")
    for name in ("bf16", "fp16", "fp32")
)
ORT_FP32 = register_scheme(Scheme("fp32", "onnxruntime"))
# Weights keep to 7 bits because kernels for x86 without VNNI add pairs of uint8 x int8 products in
# saturating 16 bits: 2 x 255 x 64 = 32640 still fits; with 127 they overflow silently and results
# differ by machine.
ORT_INT8 = register_scheme(
    Scheme("int8", "onnxruntime", "channel", (-64, 64), activation_range=(0, 255))
)
OPENVINO_FP32 = register_scheme(Scheme("fp32", "openvino"))
ORT_INT4 = register_scheme(Scheme("int4_wo", "onnxruntime", "group", (-8, 7), 32))
# Kernels for tensor cores want multiples of 8 (int8), 16 (fp8) or 32 (int4) features, and int8 more
# than 16 rows: a deployment pads smaller layers with zeros, which changes no result.
GRAPH_INT8 = register_scheme(
    Scheme("int8", "cudagraph", "channel", (-128, 127), activation_range=(-128, 127))
)
GRAPH_INT8_WO = register_scheme(Scheme("int8_wo", "cudagraph", "channel", (-128, 127)))
GRAPH_INT4 = register_scheme(Scheme("int4_wo", "cudagraph", "group", (0, 15), 32))
GRAPH_FP8 = register_scheme(
    Scheme("fp8", "cudagraph", "channel", (-448, 448), activation_range=(-448, 448))
)
# Kernels for Cortex-M multiply 8-bit numbers in 16 bits and add in 32: nothing saturates.
CMSIS_FP32 = register_scheme(Scheme("fp32", "cmsis-nn"))
CMSIS_INT8 = register_scheme(
    Scheme("int8", "cmsis-nn", "channel", (-127, 127), activation_range=(0, 255))
)


def _all() -> dict[tuple[str, str], Scheme]:
    """Those that have all their parts, which register themselves."""
    from nas.quantization.arithmetic import ARITHMETIC
    from nas.quantization.graph import NODES

    load_plugins("nas.schemes")
    return {
        key: scheme
        for key, scheme in _SCHEMES.items()
        if key in ARITHMETIC and (scheme.is_native or key in NODES)
    }


def runtimes() -> tuple[str, ...]:
    """Runtimes that have schemes."""
    return tuple(sorted({runtime for runtime, _ in _all()}))


def schemes_of(runtime: str) -> tuple[Scheme, ...]:
    """Every scheme of a runtime, its native ones first.

    Raises:
        NotFoundError: if there is no such runtime.
    """
    found = tuple(s for (r, _), s in _all().items() if r == runtime)
    if not found:
        raise nearest(runtime, runtimes(), "runtime")
    return found


def get_scheme(runtime: str, name: str) -> Scheme:
    """The scheme of a runtime by name.

    Raises:
        NotFoundError: if there is no such runtime, or it does not run such a scheme.
    """
    known = {s.name: s for s in schemes_of(runtime)}
    if name not in known:
        raise nearest(name, known, f"scheme of {runtime}")
    return known[name]
