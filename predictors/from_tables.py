"""A device profile without measuring: from kernel-timing tables, or from a sheet and other GPUs.

What a table times is fitted to it. What none times comes from other GPUs' tables where there are
some, else from the sheet; every op model says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hw_profiles.boards import read_board
from hw_profiles.errors import ProfileError
from hw_profiles.gpus import Gpu, read_sheet
from hw_profiles.profile import (
    Device,
    DeviceProfile,
    FitError,
    NetworkModel,
    OpModel,
    Runtime,
)
from hw_profiles.tables import TableRow, read_table
from predictors.attention_fits import Group, groups_of, moved_attention, timed_attention
from predictors.conformal import UpperBound
from predictors.gemm_fits import (
    FEWEST,
    GEMMS,
    STEPS,
    Tell,
    arrays,
    fit_gemm,
    gemm_model,
    plain_error,
    sizes_left_out,
    stack_to_stack,
)
from predictors.gemm_time import RooflineMLP
from predictors.power_fits import board_energy, fit_energy, scaled_energy
from predictors.sheet_models import board_models, gpu_attention, gpu_models, sum_of_ops
from predictors.unseen_gemm import STACK_ALLOWANCE, UnseenGemm

# Native types, then schemes, in the order in which a profile offers them.
OFFERED = ("bf16", "fp16", "int8", "fp8", "int8_wo", "int4_wo")
# Libraries have other kernels for GPUs older than any that was timed (FlashAttention-2 and
# asynchronous copies begin with compute capability 8.0): the power of what bounds other GPUs'
# timings set there.
OLDEST_TIMED, OLDER_KERNELS = 80, 2.0
MEASURE = "Measure it with `nas profile` where you have one."
# The smallest product, of whose time a derived floor is made: m, k, n.
SMALLEST = np.array([[1.0, 32.0, 32.0]])


def _silent(what: str, error: FitError) -> None:
    """For a caller that does not listen."""


@dataclass(frozen=True)
class TimedGpu:
    """A GPU with its tables.

    Attributes:
        tables: the rows of each table.
        metered: rows whose power was read.
        source: where they are from, in words.
    """

    gpu: Gpu
    device: Device
    tables: tuple[tuple[TableRow, ...], ...]
    source: str
    metered: tuple[TableRow, ...] = ()

    @property
    def native(self) -> str:
        """Its 16-bit float type."""
        return next(iter(self.device.peak_flops))

    def products(self, precision: str) -> list[TableRow]:
        """Matrix products of that precision."""
        return [
            row
            for table in self.tables
            for row in table
            if (row.op.kind, row.op.precision) == ("linear", precision)
        ]

    def attention(self) -> list[Group]:
        """Attention by kind and stack, table by table."""
        return [g for table in self.tables for g in groups_of(table, self.gpu.name)]


def read_timed_gpu(
    sheet: Path, tables: Sequence[Path], source: str = "", power_tables: Sequence[Path] = ()
) -> TimedGpu:
    """Read a GPU's sheet and its kernel-timing tables; there may be none.

    Args:
        source: of the tables; their names unless given.
        power_tables: further ones that are read for their power alone.

    Raises:
        ProfileError: if a file cannot be read or is none.
    """
    rows = tuple(read_table(path, fp8=True).rows for path in tables)
    said = source or (f"of {', '.join(path.name for path in tables)}" if tables else "")
    further = tuple(read_table(path, fp8=True).rows for path in power_tables)
    metered = tuple(row for table in rows + further for row in table if row.power_w is not None)
    return TimedGpu(*read_sheet(sheet), rows, said, metered)


def profile_from_tables(
    name: str,
    timed: TimedGpu,
    others: Sequence[TimedGpu] = (),
    *,
    tell: Tell = _silent,
    steps: int = STEPS,
) -> DeviceProfile:
    """A profile of a GPU from tables of its own products, and of attention where they have it.

    Args:
        name: of the profile.
        others: other GPUs, for attention that was not timed on this one.
        tell: told each fit and its error.
        steps: of the fits.

    Raises:
        ProfileError: if its tables have too few products in its native type.
    """
    device, native = timed.device, timed.native
    if len(timed.products(native)) < FEWEST:
        raise ProfileError(
            f"the tables have {len(timed.products(native))} products in {native}, too few to fit.",
            f"Give a GEMM table of {FEWEST} or more.",
        )
    models, floor_ms = [], 0.0
    for precision in [p for p in GEMMS if p == native or len(timed.products(p)) >= FEWEST]:
        if GEMMS[precision][2] not in device.peak_flops:
            continue  # the sheet does not say what it could reach
        rows = timed.products(precision)
        product, error = fit_gemm(precision, rows, device, steps)
        tell(f"linear {precision}", error)
        between = sizes_left_out(precision, rows, device, steps)
        if between is not None:
            tell(f"linear {precision}", between)
        floor_ms = floor_ms or product.floor_ms_
        stacks = " and ".join(sorted({row.stack for row in rows}))
        source = f"GEMM times on {device.name} {timed.source}, in {stacks}."
        models.append(gemm_model(precision, product, error, device, floor_ms, source))
    across = stack_to_stack(timed.products(native), device, tell, steps)
    models.append(_attention(timed, others, floor_ms, tell, steps))
    models += gpu_models(device, floor_ms, native, f"the smallest {native} kernel timed there")
    return _profile(
        name,
        timed,
        models,
        "No gap is added between kernels: the times are those of calls replayed back to back in a "
        f"CUDA graph, so each holds its own launch already (the smallest takes {1e3 * floor_ms:.2f}"
        " us).",
        [
            *_across(across),
            "Sizes outside of those timed take the nearest timed size's correction, with a wider "
            "bound.",
        ],
        fit_energy(timed.metered, device, native, timed.source),
    )


def fit_unseen(gpu: Gpu, others: Sequence[TimedGpu]) -> UnseenGemm:
    """Products in 16 bits on a GPU of which none was timed, from those timed on others."""
    tables = []
    for other in others:
        shapes, times = arrays(other.products(other.native))
        tables.append((other.gpu, shapes, times))
    return UnseenGemm(gpu).fit(tables)


def profile_from_others(
    name: str,
    timed: TimedGpu,
    product: UnseenGemm,
    others: Sequence[TimedGpu],
    donor: Gpu,
    donated: Mapping[str, RooflineMLP],
    energy: NetworkModel | None = None,
    *,
    tell: Tell = _silent,
    steps: int = STEPS,
) -> DeviceProfile:
    """A profile of a GPU of which nothing was timed, from its sheet and other GPUs' tables.

    Args:
        timed: the GPU; it has no tables.
        product: the fit on the others (`fit_unseen`); beside a GPU with the same kernels, for this
            one.
        others: on which the products, and some attention, were timed.
        donor: whose times of products in other precisions are scaled to this GPU.
        donated: precision -> those times.
        energy: of a GPU that was metered.
    """
    names = " and ".join(other.gpu.name for other in others)
    near = product.sibling_ is not None
    if not near:
        product = _asked_about(product, timed.gpu)

    def adjusted(bound: UpperBound) -> UpperBound:
        if near:
            return bound.nearer(product.bound_share_, STACK_ALLOWANCE)
        return _for_age(bound, timed.gpu)

    predicted, measured = product.left_out_
    error = plain_error(measured, predicted, f"{names}, each predicted from the rest")
    tell(f"linear {timed.native}", error)
    attention = _attention(timed, others, _floor_ms(product), tell, steps, adjusted)
    timings = f"products timed on {names} {others[0].source}"
    return _unseen_profile(name, timed, product, error, attention, timings, donor, donated, energy)


def profile_from_sheet(name: str, sheet: Path, relative: DeviceProfile) -> DeviceProfile:
    """A profile of a GPU from its sheet alone.

    Args:
        relative: of a GPU of which nothing was timed, that has no relative among those that were
            and is no older than they are: its model of products is asked about this GPU.

    Raises:
        ProfileError: if the sheet is none, or the profile has no such model.
    """
    timed = read_timed_gpu(sheet, [])
    model = relative.op_model("linear", relative.runtime.native)
    shared = UnseenGemm.from_params(model.params) if model and model.form == "unseen_gemm" else None
    if (
        model is None
        or shared is None
        or _is_older(shared.gpu)
        or model.error is None
        or not model.timings
    ):
        raise ProfileError(
            f"the profile {relative.name} has no model of products that other GPUs share.",
            "Name one of compute capability 8.0 or more that was derived from other GPUs' tables, "
            "such as jetson-orin.",
        )
    product = _asked_about(shared, timed.gpu)
    attention = gpu_attention(timed.device, _floor_ms(product), timed.native)
    return _unseen_profile(
        name, timed, product, model.error, attention, model.timings, timed.gpu, {}, relative.energy
    )


def _is_older(gpu: Gpu) -> bool:
    return gpu.capability < OLDEST_TIMED


def _for_age(bound: UpperBound, gpu: Gpu) -> UpperBound:
    """What a bound that other GPUs' timings set is on a GPU, for the age of its kernels."""
    return bound.wider(OLDER_KERNELS) if _is_older(gpu) else bound


def _asked_about(shared: UnseenGemm, gpu: Gpu) -> UnseenGemm:
    """A model of products that all GPUs share, asked about one."""
    product = shared.asked_of(gpu)
    product.bound_ = _for_age(product.bound_, gpu)
    return product


def profile_of_board(name: str, sheet: Path) -> DeviceProfile:
    """A profile of a single-board computer or a microcontroller from its sheet.

    Raises:
        ProfileError: if the sheet is none.
    """
    board = read_board(sheet)
    return DeviceProfile(
        name=name,
        device=board.device,
        runtime=board.runtime,
        precisions=["fp32", "int8"],
        op_models=board_models(board),
        network=sum_of_ops("Each op has what the runtime spends on it."),
        energy=board_energy(board),
        notes=[
            f"Derived from the sheet {sheet.name} alone; nothing was timed on this device."
            + ("" if board.device.kind == "mcu" else f" {MEASURE}"),
        ],
    )


def _unseen_profile(
    name: str,
    timed: TimedGpu,
    product: UnseenGemm,
    error: FitError,
    attention: OpModel,
    timings: str,
    donor: Gpu,
    donated: Mapping[str, RooflineMLP],
    energy: NetworkModel | None,
) -> DeviceProfile:
    device, native, floor_ms = timed.device, timed.native, _floor_ms(product)
    near = "" if product.sibling_ is None else f"; kernels are those of {product.sibling_.name}"
    said = f"from {timings}, by the {device.source}{near}. Nothing was timed on this device."
    models = [gemm_model(native, product, error, device, floor_ms, said, timings)]
    for precision, time in donated.items():
        scaled = product.at_precision(donor, time)
        how = f"times in {precision} on {donor.name}, scaled by 16-bit products {said}"
        models.append(gemm_model(precision, scaled, error, device, floor_ms, how, timings))
    models.append(attention)
    models += gpu_models(device, floor_ms, native, "the smallest product predicted")
    notes = [f"Nothing was timed on this device. {MEASURE}"]
    if _is_older(timed.gpu):
        notes.append(
            "It is older than any GPU that was timed: bounds by their timings are squared for that."
        )
    return _profile(
        name,
        timed,
        models,
        "No gap is added between kernels, as on the GPUs whose calls were timed in CUDA graphs.",
        notes,
        None if energy is None else scaled_energy(energy, timed.gpu, device),
    )


def _attention(
    timed: TimedGpu,
    others: Sequence[TimedGpu],
    floor_ms: float,
    tell: Tell,
    steps: int,
    adjusted: Callable[[UpperBound], UpperBound] = lambda bound: bound,
) -> OpModel:
    """From the GPU's own timings without a mask, else from other GPUs', else from the sheet."""
    own = timed.attention()
    if any(not g.causal for g in own):
        return timed_attention(timed.gpu, own, timed.native, timed.source, tell, steps)
    groups = {other.gpu: other.attention() for other in others}
    if not any(not g.causal for mine in groups.values() for g in mine):
        return gpu_attention(timed.device, floor_ms, timed.native)
    if own:
        groups = {timed.gpu: own, **groups}
    source = timed.source or others[0].source
    return moved_attention(timed.gpu, groups, timed.native, source, tell, steps, adjusted)


def _floor_ms(product: UnseenGemm) -> float:
    return float(product.predict(SMALLEST)[0])


def _across(error: float | None) -> list[str]:
    if error is None:
        return []
    return [
        "A fit on one software stack, judged on the other's products of shapes it lacked, errs by "
        f"{error:.1f} %."
    ]


def _profile(
    name: str,
    timed: TimedGpu,
    models: list[OpModel],
    gaps: str,
    notes: list[str],
    energy: NetworkModel | None,
) -> DeviceProfile:
    runtime = Runtime(name="cudagraph", native=timed.native)
    linear = [m.precision for m in models if m.kind == "linear"]
    return DeviceProfile(
        name=name,
        device=timed.device,
        runtime=runtime,
        precisions=[p for p in OFFERED if p in linear],
        op_models=models,
        network=sum_of_ops(gaps),
        energy=energy,
        notes=notes,
    )
