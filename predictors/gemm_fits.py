"""Matrix products of a GPU from its kernel-timing tables, with errors on shapes kept out.

The public tables time every shape of a lattice once in one or two software stacks. Errors and
bounds come from folds of whole shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hw_profiles.errors import ProfileError
from hw_profiles.profile import Device, FitError, OpModel, Provenance
from hw_profiles.tables import TableRow
from predictors import metrics
from predictors.gemm_time import QuantizedGemm, RooflineMLP
from predictors.op_time import Array, OpForm
from predictors.sheet_models import COVERAGE, form_name, stream
from predictors.unseen_gemm import QuantizedUnseenGemm, UnseenGemm

#: Told what was fitted and its error.
Tell = Callable[[str, FitError], None]
FOLDS = 4
FEWEST, FEWEST_SHAPES = 200, 40  # rows of a precision, and shapes among them, that make a fit
STEPS = 12_000
# precision -> bytes of a weight, bytes of an input, peak used, hidden units
GEMMS = {
    "bf16": (2.0, 2.0, "bf16", 64),
    "fp16": (2.0, 2.0, "fp16", 64),
    "int8_wo": (1.0, 2.0, "bf16", 48),
    "int4_wo": (0.5, 2.0, "bf16", 48),
    "int8": (1.0, 1.0, "int8", 48),
    "fp8": (1.0, 1.0, "fp8", 48),
}
# reads 16-bit activations for their scales, reads them again, writes one byte
QUANTIZING_BYTES = 5.0
# Whose rows time the product of inputs that are quantized already. Those of fp8 time a whole
# layer, which quantizes its inputs itself, at a cost that grows with their rows.
QUANTIZED_BEFORE = ("int8",)


def arrays(rows: Sequence[TableRow]) -> tuple[Array, Array]:
    """Shapes (n, fields) and milliseconds (n,)."""
    return (
        np.array([row.op.shape for row in rows], np.float64),
        np.array([row.latency_ms for row in rows], np.float64),
    )


def new_gemm(precision: str, device: Device, steps: int = STEPS) -> RooflineMLP:
    """An unfitted form for that precision on that device."""
    weight_bytes, activation_bytes, peak, hidden = GEMMS[precision]
    return RooflineMLP(
        cores=float(device.cores or 1),
        flops_per_s=device.peak_flops[peak],
        bandwidth_bytes_per_s=device.bandwidth_bytes_per_s or 0.0,
        weight_bytes=weight_bytes,
        activation_bytes=activation_bytes,
        hidden=hidden,
        steps=steps,
    )


def folds_of(shapes: Array, seed: int = 0) -> NDArray[np.int64]:
    """A fold for every row, the same for all rows of one shape."""
    _, shape_ids = np.unique(shapes, axis=0, return_inverse=True)
    rng = np.random.default_rng(seed)
    return np.asarray((rng.permutation(shape_ids.max() + 1) % FOLDS)[shape_ids])


def require_shapes(what: str, shapes: Array) -> None:
    """Refuse rows of which folds of whole shapes would be empty or alike.

    Args:
        what: the rows, for the message.
        shapes: of each row, (n, sizes).

    Raises:
        ProfileError: if there are too few distinct ones.
    """
    n_shapes = len(np.unique(shapes, axis=0))
    if n_shapes < FEWEST_SHAPES:
        raise ProfileError(
            f"{what} are of {n_shapes} shapes only, too few to fit.",
            f"Give tables of {FEWEST_SHAPES} shapes or more.",
        )


def fit_gemm(
    precision: str, rows: Sequence[TableRow], device: Device, steps: int = STEPS
) -> tuple[RooflineMLP, FitError]:
    """Fit on all rows of one precision; errors and bound from folds of whole shapes.

    Raises:
        ProfileError: if there are too few rows.
    """
    if len(rows) < FEWEST:
        raise ProfileError(
            f"{len(rows)} products in {precision} are too few to fit.",
            f"Give tables of {FEWEST} or more.",
        )
    shapes, times = arrays(rows)
    require_shapes(f"the products in {precision}", shapes)
    fold = folds_of(shapes)
    predicted = np.empty_like(times)
    for i in range(FOLDS):
        form = new_gemm(precision, device, steps).fit(shapes[fold != i], times[fold != i])
        predicted[fold == i] = form.predict(shapes[fold == i])
    # the bound is judged on folds that did not set it
    half = fold < FOLDS // 2
    bounds = new_gemm(precision, device).calibrate(predicted[half], times[half], COVERAGE)
    upper = predicted[~half] * bounds.bound_.ratio(predicted[~half])
    error = plain_error(times, predicted, f"whole shapes, {FOLDS} folds").model_copy(
        update={"coverage": round(metrics.coverage(times[~half], upper), 3)}
    )
    final = new_gemm(precision, device, steps).fit(shapes, times)
    return final.calibrate(predicted, times, COVERAGE), error


def sizes_left_out(
    precision: str, rows: Sequence[TableRow], device: Device, steps: int = STEPS
) -> FitError | None:
    """The error on sizes of which the fit saw none: the case of shapes between the grid.

    None where the table has no such sizes, or hardly any others.
    """
    shapes, times = arrays(rows)
    out = (
        np.isin(shapes[:, 0], [48, 384, 1024])
        | np.isin(shapes[:, 1], [512, 3072, 10240])
        | np.isin(shapes[:, 2], [256, 2560, 7168])
    )
    if not out.any() or len(np.unique(shapes[~out], axis=0)) < FEWEST_SHAPES:
        return None
    form = new_gemm(precision, device, steps).fit(shapes[~out], times[~out])
    return plain_error(times[out], form.predict(shapes[out]), "three sizes each of m, k, n")


def stack_to_stack(
    rows: Sequence[TableRow], device: Device, tell: Tell, steps: int = STEPS
) -> float | None:
    """Errors of a bf16 fit on one software stack when judged on the others.

    Returns:
        The worst MAPE on shapes that the fit lacked; None where there is one stack.
    """
    stacks = sorted({row.stack for row in rows})
    if len(stacks) < 2:
        return None
    worst = 0.0
    for fitted_on in stacks:
        shapes, times = arrays([row for row in rows if row.stack == fitted_on])
        other_shapes, other_times = arrays([row for row in rows if row.stack != fitted_on])
        unseen = folds_of(other_shapes) == 0
        form = new_gemm("bf16", device, steps).fit(
            shapes[folds_of(shapes) != 0], times[folds_of(shapes) != 0]
        )
        for name, part in (("other stack", slice(None)), ("other stack, other shapes", unseen)):
            error = plain_error(other_times[part], form.predict(other_shapes[part]), name)
            tell(f"linear bf16, {fitted_on}", error)
        worst = max(worst, error.mape)
    return worst


def gemm_model(
    precision: str,
    product: RooflineMLP | UnseenGemm,
    error: FitError,
    device: Device,
    floor_ms: float,
    source: str,
    timings: str = "",
) -> OpModel:
    """The profile's entry of products that were fitted, or of those of a GPU without any.

    Where activations are quantized before the product that was timed, that pass is added.

    Args:
        source: in words, for a reader.
        timings: that a model of a GPU without any rests on.
    """
    unseen = isinstance(product, UnseenGemm)
    form: OpForm = product
    provenance: Provenance = "derived" if unseen else "fitted"
    if precision in QUANTIZED_BEFORE:
        quantized = QuantizedUnseenGemm if unseen else QuantizedGemm
        form = quantized(product, stream(device, floor_ms, QUANTIZING_BYTES))
        source = f"{source if unseen else f'the product fitted: {source}'}{_PASS}"
        provenance = "derived"
    elif GEMMS[precision][1] == 1.0:
        source += _WHOLE
    return OpModel(
        kind="linear",
        precision=precision,
        form=form_name(form),
        params=form.to_params(),
        provenance=provenance,
        source=source,
        timings=timings,
        error=error,
    )


_WHOLE = " The times are of whole layers, each with the kernel that quantizes its activations."
_PASS = (
    " Added to it, derived from the sheet and never timed: one fused kernel that quantizes each "
    "token's activations. The error is that of the product alone."
)


def plain_error(measured: Array, predicted: Array, kept_out: str) -> FitError:
    """Errors without a bound."""
    return FitError(
        mape=round(metrics.mape(measured, predicted), 2),
        median_error=round(metrics.median_error(measured, predicted), 2),
        kendall_tau=round(metrics.kendall_tau(measured, predicted), 4),
        rows=len(measured),
        kept_out=kept_out,
    )
