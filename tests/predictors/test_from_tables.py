"""Profiles without measuring, in a made-up world of GPUs whose true times are known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import search_spaces
from hw_profiles import registry
from hw_profiles.errors import ProfileError
from hw_profiles.op import Op
from hw_profiles.profile import DeviceProfile, load_profile
from nas.derived_profiles import WITHOUT_RELATIVE
from predictors.attention_fits import Group, timed_attention
from predictors.from_tables import (
    TimedGpu,
    profile_from_others,
    profile_from_sheet,
    profile_from_tables,
    profile_of_board,
    read_timed_gpu,
)
from predictors.gemm_fits import new_gemm, sizes_left_out
from predictors.gemm_time import RooflineMLP
from predictors.latency import latency_predictor
from predictors.op_time import OpTimes
from predictors.unseen_gemm import UnseenGemm

STEPS = 400
# name -> bandwidth, dense 16-bit peak, compute capability x 10
GPUS = {
    "a100_sxm": (2.0e12, 312e12, 80),
    "h200_sxm": (4.8e12, 989e12, 90),
    "l40s": (0.86e12, 362e12, 89),
}
GEMM = "framework,version,gemm_dtype,m,n,k,latency"
ENCODER = "framework,version,batch_size,isl,num_heads,head_dim,attn_dtype,latency"
CONTEXT = (
    "framework,version,batch_size,isl,num_heads,num_key_value_heads,head_dim,attn_dtype,latency"
)


def _sheet(folder: Path, name: str) -> Path:
    bandwidth, flops, capability = GPUS[name]
    path = folder / f"spec_{name}.yaml"
    path.write_text(
        f"gpu:\n  mem_bw: {bandwidth}\n  mem_capacity: 8e10\n  bfloat16_tc_flops: {flops}\n"
        f"  int8_tc_flops: {2 * flops}\n  fp8_tc_flops: {2 * flops}\n"
        f"  power: 400\n  sm_version: {capability}\n"
    )
    return path


def _true_ms(name: str, m: float, k: float, n: float) -> float:
    bandwidth, flops, _ = GPUS[name]
    return 0.003 + 1e3 * max(2 * m * k * n / (0.6 * flops), 2 * (m * k + k * n + m * n) / bandwidth)


def _gemm(folder: Path, name: str, dtypes: dict[str, float]) -> Path:
    rng = np.random.default_rng(len(name))
    lines = [GEMM]
    for dtype, share in dtypes.items():
        for m, k, n in itertools.product(
            (1, 16, 64, 256, 1024, 4096), (64, 256, 1024, 4096), (64, 256, 1024, 4096)
        ):
            for _ in range(3):
                ms = share * _true_ms(name, m, k, n) * np.exp(rng.normal(0, 0.01))
                lines.append(f"V,1,{dtype},{m},{n},{k},{ms}")
    path = folder / f"{name}_gemm.csv"
    path.write_text("\n".join(lines))
    return path


def _attention(folder: Path, name: str, causal: bool) -> Path:
    _, flops, _ = GPUS[name]
    lines = [CONTEXT if causal else ENCODER]
    for batch, tokens, heads in itertools.product(
        (1, 2, 4, 8, 16), (16, 64, 128, 200, 512, 1024), (2, 4, 8, 12)
    ):
        ms = 0.006 + 8e3 * batch * heads * tokens**2 * 64 / flops * (0.5 if causal else 1.0)
        shared = f"{heads},{heads}" if causal else f"{heads}"
        lines.append(f"V,1,{batch},{tokens},{shared},64,bfloat16,{ms}")
    path = folder / f"{name}_{'context' if causal else 'encoder'}_attention.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TimedGpu]:
    folder = tmp_path_factory.mktemp("tables")
    dtypes = {"bfloat16": 1.0, "fp8": 0.6}
    read = {}
    for name in GPUS:
        tables = [_gemm(folder, name, dtypes), _attention(folder, name, causal=True)]
        if name != "a100_sxm":
            tables.append(_attention(folder, name, causal=False))
        read[name] = read_timed_gpu(_sheet(folder, name), tables, "in tables of a test")
    return read


def _round_trip(profile: DeviceProfile, folder: Path) -> DeviceProfile:
    path = folder / f"{profile.name}.json"
    profile.save(path)
    return load_profile(path)


def _every_space_is_predicted(profile: DeviceProfile) -> None:
    predictor = latency_predictor(profile)
    for name in search_spaces.names():
        space = search_spaces.get(name)
        ops = [o.op.at(profile.precisions[0]) for _, o in space.workload(space.largest())]
        mean, upper = predictor.predict(predictor.op_features(ops).sum(axis=0)[None])
        assert 0 < mean[0] <= upper[0]


def test_a_gpu_with_tables_of_everything(world: dict[str, TimedGpu], tmp_path: Path) -> None:
    told = []
    made = profile_from_tables(
        "mine", world["h200_sxm"], tell=lambda what, _: told.append(what), steps=STEPS
    )
    profile = _round_trip(made, tmp_path)
    assert profile.precisions == ["bf16", "fp8"]
    assert {"linear bf16", "linear fp8", "attention"} <= set(told)
    for kind in ("linear", "attention"):
        model = profile.op_model(kind, "bf16")
        assert model is not None
        assert (model.provenance, "tables of a test" in model.source) == ("fitted", True)
        assert model.error is not None
        assert model.error.mape < 12
    quantized = profile.op_model("linear", "fp8")
    assert quantized is not None
    assert quantized.provenance == "fitted"  # its rows are of layers that quantize their inputs
    assert "whole layers" in quantized.source
    large = [Op("linear", (4096, 4096, 4096), "fp8")]
    whole = 0.6 * _true_ms("h200_sxm", 4096, 4096, 4096)
    np.testing.assert_allclose(OpTimes(profile).predict_ms(large), whole, rtol=0.3)
    shapes = [(1, 64, 64), (200, 300, 700), (4096, 4096, 4096)]
    times = OpTimes(profile).predict_ms([Op("linear", s, "bf16") for s in shapes])
    true = [_true_ms("h200_sxm", *s) for s in shapes]
    np.testing.assert_allclose(times, true, rtol=0.3)
    _every_space_is_predicted(profile)


def test_products_of_inputs_quantized_before_have_that_pass_added(tmp_path: Path) -> None:
    table = _gemm(tmp_path, "a100_sxm", {"bfloat16": 1.0, "sq": 0.6})
    timed = read_timed_gpu(_sheet(tmp_path, "a100_sxm"), [table], "in tables of a test")
    profile = _round_trip(profile_from_tables("mine", timed, steps=20), tmp_path)
    model = profile.op_model("linear", "int8")
    assert model is not None
    assert (model.form, model.provenance) == ("quantized_gemm", "derived")
    assert "quantizes each token's activations" in model.source
    ops = [Op("linear", (4096, 1024, 1024), "int8")]
    product = RooflineMLP.from_params(model.params).predict(np.array([[4096.0, 1024.0, 1024.0]]))
    assert OpTimes(profile).predict_ms(ops)[0] > product[0] > 0


def test_attention_that_was_not_timed_comes_from_others_or_the_sheet(
    world: dict[str, TimedGpu], tmp_path: Path
) -> None:
    others = [world["h200_sxm"], world["l40s"]]
    moved = profile_from_tables("moved", world["a100_sxm"], others, steps=STEPS)
    alone = profile_from_tables("alone", world["a100_sxm"], steps=STEPS)
    for profile, form in ((moved, "attention_mlp"), (alone, "attention_roofline")):
        model = _round_trip(profile, tmp_path).op_model("attention", "bf16")
        assert model is not None
        assert (model.form, model.provenance) == (form, "derived")
        _every_space_is_predicted(profile)
    source = moved.op_model("attention", "bf16")
    assert source is not None
    assert source.error is not None
    assert "H200" in source.source
    assert "L40S" in source.source


def test_a_gpu_without_tables(world: dict[str, TimedGpu], tmp_path: Path) -> None:
    others, asked = [world["a100_sxm"], world["l40s"]], world["h200_sxm"]
    bare = TimedGpu(asked.gpu, asked.device, (), "")
    tables = []
    for other in others:
        rows = other.products("bf16")
        shapes = np.array([row.op.shape for row in rows], np.float64)
        tables.append((other.gpu, shapes, np.array([row.latency_ms for row in rows])))
    product = UnseenGemm(bare.gpu, steps=40, rows=150).fit(tables)
    donor = others[0]
    rows = donor.products("fp8")
    time = new_gemm("fp8", donor.device, STEPS).fit(
        np.array([row.op.shape for row in rows], np.float64),
        np.array([row.latency_ms for row in rows]),
    )
    time.calibrate(np.ones(100), np.exp(np.linspace(-0.1, 0.1, 100)), 0.9)
    made = profile_from_others("bare", bare, product, others, donor.gpu, {"fp8": time}, steps=STEPS)
    profile = _round_trip(made, tmp_path)
    assert profile.precisions == ["bf16", "fp8"]
    assert all(m.provenance == "derived" for m in profile.op_models)
    assert "Nothing was timed" in profile.notes[0]
    _every_space_is_predicted(profile)
    shapes = [(256, 1024, 1024), (4096, 4096, 4096)]
    for precision in profile.precisions:
        ops = [Op("linear", s, precision) for s in shapes]
        before, after = OpTimes(made).predict_ms(ops), OpTimes(profile).predict_ms(ops)
        np.testing.assert_allclose(before, after, rtol=1e-5)
        assert (OpTimes(profile).upper_ratio(ops) > 1).all()


def test_too_few_products_are_refused(world: dict[str, TimedGpu]) -> None:
    full = world["l40s"]
    few = TimedGpu(full.gpu, full.device, (full.tables[0][:150],), full.source)
    with pytest.raises(ProfileError, match="150 products in bf16, too few"):
        profile_from_tables("few", few, steps=STEPS)


def test_rows_of_few_shapes_are_refused(world: dict[str, TimedGpu]) -> None:
    full = world["l40s"]
    one = TimedGpu(full.gpu, full.device, (full.tables[0][:1] * 300,), full.source)
    with pytest.raises(ProfileError, match="of 1 shapes only"):
        profile_from_tables("one", one, steps=STEPS)
    calls = np.tile([2.0, 128.0, 8.0, 64.0, 1.0, 8.0, 0.0], (150, 1))
    groups = [Group("l40s", False, "V 1", calls, np.full(150, 0.1))]
    with pytest.raises(ProfileError, match="attention are of 1 shapes only"):
        timed_attention(full.gpu, groups, "bf16", "made up", lambda *_: None, STEPS)


def test_sizes_are_left_out_only_where_others_are_left(world: dict[str, TimedGpu]) -> None:
    full = world["l40s"]
    rows = full.products("bf16")
    of_one_m = [row for row in rows if row.op.shape[0] == 1024]
    without = [row for row in rows if row.op.shape[0] not in (48, 384, 1024)]
    without = [row for row in without if 256 not in row.op.shape[1:]]
    assert sizes_left_out("bf16", of_one_m, full.device, STEPS) is None
    assert sizes_left_out("bf16", without, full.device, STEPS) is None
    assert sizes_left_out("bf16", rows, full.device, STEPS) is not None


@pytest.mark.parametrize("name", ["raspberry-pi-4", "stm32f746"])
def test_a_board_from_its_sheet(name: str, sheet_of: Callable[[str], Path], tmp_path: Path) -> None:
    profile = _round_trip(profile_of_board(name, sheet_of(name)), tmp_path)
    _every_space_is_predicted(profile)
    plain, quantized = OpTimes(profile).predict_ms(
        [Op("linear", (256, 512, 512), p) for p in ("fp32", "int8")]
    )
    assert quantized < plain
    assert profile.precisions == ["fp32", "int8"]


def test_a_gpu_from_its_sheet_alone(sheet_of: Callable[[str], Path], tmp_path: Path) -> None:
    relative = registry.load("jetson-orin")
    fast, slow = (
        profile_from_sheet(name, sheet_of(name), relative) for name in ("rtx3090", "jetson_orin")
    )
    _every_space_is_predicted(_round_trip(fast, tmp_path))
    big = [Op("linear", (4096, 4096, 4096), "bf16")]
    assert OpTimes(fast).predict_ms(big) < OpTimes(slow).predict_ms(big)
    model = fast.op_model("linear", "bf16")
    assert model is not None
    assert "NVIDIA A100-SXM4-80GB and NVIDIA H200-SXM-141GB and NVIDIA L40S" in model.timings
    # what a reader is told, in whatever words, is not read back
    told = [m.model_copy(update={"source": "as another."}) for m in relative.op_models]
    retold = relative.model_copy(update={"op_models": told})
    assert profile_from_sheet("rtx3090", sheet_of("rtx3090"), retold) == fast
    for other in ("a100", "v100"):
        with pytest.raises(ProfileError, match="no model of products that other GPUs share"):
            profile_from_sheet("x", sheet_of("t4"), registry.load(other))


@pytest.mark.parametrize(
    ("name", "sheet"),
    [("t4", "t4"), ("v100", "v100_sxm"), ("rtx3090", "rtx3090"), ("jetson-orin", "jetson_orin")],
)
def test_a_sheet_alone_bounds_products_as_the_shipped_profile_does(
    name: str, sheet: str, sheet_of: Callable[[str], Path]
) -> None:
    shipped = registry.load(name)
    made = profile_from_sheet("made", sheet_of(sheet), registry.load(WITHOUT_RELATIVE))
    shapes = [(1, 64, 64), (200, 300, 700), (4096, 4096, 4096)]
    ops = [Op("linear", shape, shipped.runtime.native) for shape in shapes]
    mine, theirs = OpTimes(made), OpTimes(shipped)
    np.testing.assert_allclose(mine.predict_ms(ops), theirs.predict_ms(ops), rtol=1e-6)
    np.testing.assert_allclose(mine.upper_ratio(ops), theirs.upper_ratio(ops), rtol=1e-6)
    assert made.notes == shipped.notes


@pytest.fixture
def sheet_of() -> Callable[[str], Path]:
    """Sheets that ship, by name."""
    folder = Path(registry.__file__).parent / "sheets"
    return lambda name: folder / f"{name}.yaml"
