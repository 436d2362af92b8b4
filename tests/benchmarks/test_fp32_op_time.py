import fp32_world as world
import numpy as np
import pytest
from models.fp32_op_time import FULL_ISSUE_SHARE, Fp32OpTimes

from hw_profiles.errors import ProfileError

BIG = world.sheet("big", 1.5e12, 40e9)
SMALL = world.sheet("small", 0.3e12, 15e9)  # held back by power: reaches little of its peak
PRODUCTS = np.array([[1.0, 1024, 1024, 1024], [64, 512, 128, 512], [1, 700, 900, 1100]])


@pytest.fixture(scope="module")
def fitted():
    rows = world.tables(BIG, 0.8) + world.tables(SMALL, 0.4, seed=1)
    return Fp32OpTimes(trees=60).fit(rows, {"big": BIG, "small": SMALL})


def test_a_known_device_gives_its_kernels_without_the_time_to_issue_them(fitted):
    for kind in ("linear", "bmm"):
        truth = world.kernel_ms(kind, PRODUCTS, BIG, 0.8)
        assert fitted.predict(kind, PRODUCTS, BIG) == pytest.approx(truth, rel=0.06)
    rows = np.array([[8192.0, 1024.0], [5000.0, 3000.0]])
    for kind in ("softmax", "layer_norm"):
        truth = world.kernel_ms(kind, rows, BIG, 0.8)
        assert fitted.predict(kind, rows, BIG) == pytest.approx(truth, rel=0.1)
    moved = np.array([[12e8]])
    assert fitted.predict("stream", moved, BIG)[0] == pytest.approx(1e3 * 12e8 / 1.5e12 / 0.8, 0.02)
    assert fitted.issue_ms("stream", BIG) == pytest.approx(0.015, rel=0.1)


def test_an_unknown_device_takes_the_shares_of_the_board_of_its_class(fitted):
    newer = world.sheet("newer", 0.35e12, 24e9, flops=30e12)
    assert fitted.neighbour(newer).sheet is SMALL
    truth = world.kernel_ms("linear", PRODUCTS[:1], newer, 0.4)
    assert fitted.predict("linear", PRODUCTS[:1], newer) == pytest.approx(truth, rel=0.1)
    assert not fitted.known(newer)
    assert fitted.spread("linear", newer) > 5 * fitted.spread("linear", SMALL)


def test_twice_the_lanes_cost_issue_slots_unless_power_is_what_binds(fitted):
    def ratio(bandwidth, memory):
        plain, wide = (world.sheet("x", bandwidth, memory, lanes=n) for n in (64, 128))
        return fitted.predict("bmm", PRODUCTS, wide) / fitted.predict("bmm", PRODUCTS, plain)

    assert ratio(2e12, 80e9) == pytest.approx(np.full(3, 1 / FULL_ISSUE_SHARE))
    assert ratio(0.3e12, 24e9) == pytest.approx(np.ones(3))


def test_no_product_is_faster_than_its_roofline(fitted):
    shapes = np.round(2 ** np.random.default_rng(2).uniform(0, 16, (300, 4)))
    roofline = world.kernel_ms("linear", shapes, BIG, 1.0)
    assert np.all(fitted.predict("linear", shapes, BIG) >= roofline * (1 - 1e-12))


def test_without_a_whole_device_it_says_what_is_needed():
    rows = [t for t in world.tables(BIG, 0.8) if t.kind != "softmax"]
    with pytest.raises(ProfileError, match="no device has fp32 times"):
        Fp32OpTimes().fit(rows, {"big": BIG})
