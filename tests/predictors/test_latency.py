"""Op times and their sum, from profiles: the shipped one, and broken ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hw_profiles
from hw_profiles import registry
from hw_profiles.errors import ProfileError
from hw_profiles.op import KINDS, Op
from hw_profiles.profile import DeviceProfile, load_profile
from predictors.latency import latency_predictor
from predictors.op_time import OpTimes

A100 = Path(hw_profiles.__file__).parent / "data" / "a100.json"
MAX_PROFILE_KIB = 1024


def _vit_block(batch: int, tokens: int, embed: int, hidden: int, precision: str) -> list[Op]:
    rows, heads = batch * tokens, embed // 16
    return [
        Op("layer_norm", (rows, embed), "bf16"),
        Op("linear", (rows, embed, 3 * embed), precision),
        Op("attention", (batch, heads, tokens, tokens, 16), "bf16"),
        Op("linear", (rows, embed, embed), precision),
        Op("add", (rows, embed), "bf16"),
        Op("layer_norm", (rows, embed), "bf16"),
        Op("linear", (rows, embed, hidden), precision),
        Op("gelu", (rows, hidden), "bf16"),
        Op("linear", (rows, hidden, embed), precision),
        Op("add", (rows, embed), "bf16"),
    ]


@pytest.fixture(scope="module")
def a100() -> DeviceProfile:
    return load_profile(A100)


def test_the_shipped_profile_says_where_every_figure_is_from(a100: DeviceProfile) -> None:
    assert A100.stat().st_size < MAX_PROFILE_KIB * 1024
    assert not a100.ops
    said = {(m.kind, m.precision): m.provenance for m in a100.op_models}
    assert {p for (kind, p) in said if kind == "linear"} == set(a100.precisions)
    assert said["linear", "bf16"] == said["linear", "int4_wo"] == "fitted"
    assert said["linear", "int8"] == said["gelu", "bf16"] == "derived"
    for model in a100.op_models:
        assert model.source
        assert model.provenance == "derived" or model.error is not None


@pytest.mark.parametrize("precision", ["bf16", "int8", "int8_wo", "int4_wo"])
@pytest.mark.parametrize("batch", [1, 64])
def test_every_op_of_a_vision_transformer_is_predicted(
    a100: DeviceProfile, precision: str, batch: int
) -> None:
    times = OpTimes(a100)
    ops = _vit_block(batch, 17, 16, 8, precision) + _vit_block(batch, 197, 640, 2560, precision)
    assert np.all(times.predict_ms(ops) >= 0.002)
    assert np.all(times.upper_ratio(ops) >= 1.0)


def test_each_op_is_predicted_as_if_alone(a100: DeviceProfile) -> None:
    times = OpTimes(a100)
    ops = _vit_block(8, 197, 192, 768, "int8") + _vit_block(1, 17, 64, 256, "bf16")
    alone = [times.predict_ms([op])[0] for op in ops]
    np.testing.assert_allclose(times.predict_ms(ops), alone, rtol=1e-5)


def test_a_gpu_with_more_of_everything_is_faster_where_all_of_it_is_used() -> None:
    shapes = {"attention": (8, 8, 512, 512, 64), "linear": (4096, 4096, 4096)}
    t4, rtx3090 = map(registry.load, ("t4", "rtx3090"))
    for kind, shape in shapes.items():
        slow, fast = (
            OpTimes(profile).predict_ms([Op(kind, shape, profile.runtime.native)])
            for profile in (t4, rtx3090)
        )
        assert fast < slow


def test_ops_that_are_never_quantized_run_in_the_native_type(a100: DeviceProfile) -> None:
    native, default = OpTimes(a100).predict_ms([Op("gelu", (17, 64), "bf16"), Op("gelu", (17, 64))])
    assert native == default


def test_a_network_is_the_sum_of_its_ops(a100: DeviceProfile) -> None:
    predictor = latency_predictor(a100)
    block = _vit_block(8, 17, 64, 256, "bf16")
    features = predictor.op_features(block)
    assert features.shape == (len(block), predictor.n_features)
    one = features.sum(axis=0)
    latency_ms, upper_ms = predictor.predict(np.stack([one, 6 * one]))
    times = OpTimes(a100)
    assert latency_ms[0] == pytest.approx(times.predict_ms(block).sum())
    assert latency_ms[1] == pytest.approx(6 * latency_ms[0])
    assert np.all(upper_ms > latency_ms)
    assert upper_ms[0] == pytest.approx((times.predict_ms(block) * times.upper_ratio(block)).sum())
    assert predictor.coverage == 0.9
    assert "no whole network was timed" in predictor.provenance
    assert "derived (" in predictor.provenance


def test_more_of_anything_takes_longer(a100: DeviceProfile) -> None:
    predictor = latency_predictor(a100)
    sizes = [(1, 17, 16, 64), (8, 197, 192, 768), (64, 197, 192, 768), (64, 197, 640, 2560)]
    features = [predictor.op_features(_vit_block(*size, "bf16")).sum(axis=0) for size in sizes]
    latency_ms, _ = predictor.predict(np.stack(features))
    assert np.all(np.diff(latency_ms) > 0)


def test_a_precision_that_the_profile_lacks(a100: DeviceProfile) -> None:
    with pytest.raises(ProfileError, match=r"no time for linear in fp32.*It offers bf16"):
        OpTimes(a100).predict_ms([Op("linear", (1, 2, 3), "fp32")])


def test_a_form_of_another_version(a100: DeviceProfile) -> None:
    strange = a100.op_models[0].model_copy(update={"form": "oracle"})
    with pytest.raises(ProfileError, match=r"unknown form 'oracle'.*upgrade"):
        OpTimes(a100.model_copy(update={"op_models": [strange]}))


def test_broken_numbers(a100: DeviceProfile) -> None:
    params = dict(a100.op_models[0].params)
    for name, value in (
        ("weights_2", [1.0]),
        ("floor_ms", [1.0]),
        ("floor_ms", -1.0),
        ("cores", -1.0),
        ("flops_per_s", 0.0),
        ("weight_bytes", 0.0),
        ("low", 3.0),
        ("upper_scales", [-1.0] * len(params["upper_scales"])),  # type: ignore[arg-type]
        ("upper_positions", params["upper_positions"][::-1]),  # type: ignore[index]
    ):
        broken = a100.op_models[0].model_copy(update={"params": {**params, name: value}})
        with pytest.raises(ProfileError, match="broken numbers for linear in bf16"):
            OpTimes(a100.model_copy(update={"op_models": [broken]}))


def test_numbers_that_give_no_times_are_refused(a100: DeviceProfile) -> None:
    model = a100.op_models[0]
    weights = [1e300, *model.params["weights_1"][1:]]  # type: ignore[index]
    broken = model.model_copy(update={"params": model.params | {"weights_1": weights}})
    times = OpTimes(a100.model_copy(update={"op_models": [broken]}))
    with pytest.raises(ProfileError, match="broken numbers for linear in bf16"):
        times.predict_ms([Op("linear", (17, 64, 64), "bf16")])


@settings(deadline=None, max_examples=30)
@given(target=st.sampled_from(sorted(registry.shipped())), data=st.data())
def test_every_time_is_positive_and_every_bound_above_it(target: str, data: st.DataObject) -> None:
    profile = registry.load(target)
    model = data.draw(st.sampled_from(profile.op_models))
    sizes = st.integers(1, 20) | st.integers(0, 16).map(lambda n: 2**n) | st.integers(1, 2**16)
    fields = KINDS[model.kind].fields
    small = {"kernel": 1, "stride": 1, "padding": 0, "groups": 1}
    shapes = data.draw(
        st.lists(
            st.tuples(*(st.just(small[f]) if f in small else sizes for f in fields)),
            min_size=1,
            max_size=20,
        )
    )
    ops = [Op(model.kind, shape, model.precision) for shape in shapes]
    times = OpTimes(profile)
    assert (times.predict_ms(ops) > 0).all()
    assert (times.upper_ratio(ops) >= 1).all()


def test_a_negative_gap_is_refused(a100: DeviceProfile) -> None:
    assert a100.network is not None
    faster = a100.network.model_copy(update={"params": {"gap_ms": -1.0}})
    with pytest.raises(ProfileError, match="gap_ms must not be negative"):
        latency_predictor(a100.model_copy(update={"network": faster}))


def test_a_profile_without_a_network_model(a100: DeviceProfile) -> None:
    with pytest.raises(ProfileError, match="does not say how op times add up"):
        latency_predictor(a100.model_copy(update={"network": None}))


def test_a_network_model_without_its_numbers(a100: DeviceProfile) -> None:
    assert a100.network is not None
    empty = a100.network.model_copy(update={"params": {}})
    with pytest.raises(ProfileError, match="broken numbers in its network model"):
        latency_predictor(a100.model_copy(update={"network": empty}))
