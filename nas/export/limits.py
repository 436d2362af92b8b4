"""What an ONNX file cannot hold, known before anything is searched."""

from __future__ import annotations

from nas.errors import ExportError

MOST_BYTES = 2**31 - 2**20
"""Of weights in fp32: protobuf ends at 2 GiB, and the graph needs some of them."""


def require_onnx_size(n_parameters: int, what: str) -> None:
    """Refuse a network whose weights do not fit into one ONNX file.

    Args:
        n_parameters: of the network.
        what: it is called in the message.

    Raises:
        ExportError: if they do not.
    """
    if 4 * n_parameters > MOST_BYTES:
        raise ExportError(
            f"{what} has {4 * n_parameters / 2**30:.1f} GiB of weights, an ONNX file holds 2.",
            "Search with --no-export, or choose a smaller preset.",
        )
