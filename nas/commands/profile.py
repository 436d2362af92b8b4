"""`nas profile`: a device becomes a target, by measuring it or from figures of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.commands.options import BatchSize, kept, seconds, typed
from nas.report.terminal import print_lines

FromTable = Annotated[
    list[Path] | None,
    typer.Option(
        "--from-table",
        help="Repeatable. Do not measure: fit kernel timings of a GPU, a CSV with the columns "
        "gemm_dtype,m,n,k,latency (ms), or attn_dtype,batch_size,isl,num_heads,head_dim,latency.",
    ),
]
Sheet = Annotated[
    Path | None,
    typer.Option(
        "--spec",
        help="Sheet of that GPU: YAML with mem_bw, bfloat16_tc_flops, power, sm_version under "
        "gpu:. Alone: derive the profile from it, or from a board's sheet.",
    ),
]


def profile(
    context: typer.Context,
    device: Annotated[str, typer.Option(help="What to measure: cpu, cuda or cuda:1.")] = "cpu",
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; default is target `cpu` itself.")
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="cpu: onnxruntime (default), eager, openvino; cuda: cudagraph (default), eager, "
            "compile."
        ),
    ] = None,
    native: Annotated[
        str | None,
        typer.Option(help="Float type; cpu: fp32; cuda: bf16 (default), fp16 or fp32."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Of the runtime, on a CPU.")] = 1,
    flush_l2: Annotated[
        bool, typer.Option("--flush-l2", help="Overwrite a GPU's cache before every call.")
    ] = False,
    batch_size: BatchSize = 1,
    space: Annotated[
        list[str] | None, typer.Option("--space", help="Repeatable; default all spaces.")
    ] = None,
    time_limit: Annotated[
        str, typer.Option("--time", help="For the measurements, such as 90s.")
    ] = "110s",
    tables: FromTable = None,
    sheet: Sheet = None,
) -> None:
    """Measure this machine in the runtime that will serve, or fit tables of another device."""
    from hw_profiles.harness import require_harness
    from nas import service
    from nas.errors import UsageError
    from nas.report.progress import progress
    from nas.targets import THIS_CPU, local_profile

    if tables or sheet:
        for name, option in typed(context).items():
            if name not in ("tables", "sheet", "out"):
                raise UsageError(
                    f"{option} is of measuring, which figures of a device replace.",
                    "Leave it out, or measure without --spec and --from-table.",
                )
        _from_figures(tables or [], sheet, out)
        return
    harness = require_harness(device, runtime, native, threads, flush_l2)
    kept[:] = ["nothing was written: measure again."]
    with progress() as listener:
        limit_s = seconds(time_limit) or 110.0
        path, lines = service.profile(harness, out, batch_size, space, limit_s, listener)
    print_lines(lines)
    target = THIS_CPU if path == local_profile(batch_size) else path
    typer.echo(f"written to {path}; use it with --target {target}")


def _from_figures(tables: list[Path], sheet: Path | None, out: Path | None) -> None:
    from nas.derived_profiles import profile_from_figures
    from nas.errors import UsageError
    from nas.report.progress import progress

    if sheet is None:
        raise UsageError("a table does not say what its GPU is.", "Give its sheet with --spec.")
    if out is None:
        raise UsageError("the profile needs a file.", "Give one with --out, such as mygpu.json.")
    with progress() as listener:
        path, lines = profile_from_figures(tables, sheet, out, listener)
    print_lines(lines)
    typer.echo(
        f"written to {path}; use it with --target {path}, or keep it: nas targets add {path}"
    )
