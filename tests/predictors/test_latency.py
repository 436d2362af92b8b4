"""Op times and their sum, from profiles: the shipped one, and broken ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hw_profiles
from hw_profiles import registry
from hw_profiles.errors import ProfileError
from hw_profiles.op import Op
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
    for name, value in (("weights_2", [1.0]), ("floor_ms", [1.0]), ("low", 3.0)):
        broken = a100.op_models[0].model_copy(update={"params": {**params, name: value}})
        with pytest.raises(ProfileError, match="broken numbers for linear in bf16"):
            OpTimes(a100.model_copy(update={"op_models": [broken]}))


def test_a_profile_without_a_network_model(a100: DeviceProfile) -> None:
    with pytest.raises(ProfileError, match="does not say how op times add up"):
        latency_predictor(a100.model_copy(update={"network": None}))


def test_a_network_model_without_its_numbers(a100: DeviceProfile) -> None:
    assert a100.network is not None
    empty = a100.network.model_copy(update={"params": {}})
    with pytest.raises(ProfileError, match="broken numbers in its network model"):
        latency_predictor(a100.model_copy(update={"network": empty}))
