"""Targets that a user adds, how two compare, and the pictures of a profile."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import search_spaces
from hw_profiles import registry
from hw_profiles.harness import require_harness
from hw_profiles.machine import this_cpu
from hw_profiles.op import Op
from hw_profiles.profile import (
    Anchor,
    Device,
    DeviceProfile,
    NetworkTiming,
    OpTiming,
    Runtime,
    Timing,
)
from nas import inquiry, service, targets
from nas.comparison import compare_targets
from nas.derived_profiles import profile_from_figures
from nas.errors import ExportError, MeasureError, NotFoundError, ProfileError, UsageError
from nas.events import Event
from nas.paths import cache_dir
from nas.probes import ops_of
from nas.report.target_pictures import save_comparison, save_profile
from predictors.measured_ops import errors_of_ops
from predictors.network import fit_network_model

SPACE = search_spaces.get("vit")
A100 = registry.shipped()["a100"]
SHEETS = Path(registry.__file__).parent / "sheets"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were made, none of them written."""
    figures: list[Figure] = []
    monkeypatch.setattr(
        "nas.report.target_pictures.save_figure", lambda figure, _: figures.append(figure)
    )
    return figures


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))


def _timing(ms: float) -> Timing:
    return Timing(median_ms=ms, spread_within=0.01, spread_between=0.01, repeats=9, processes=3)


def measured(slowness: float) -> DeviceProfile:
    """A made-up CPU on which an op takes 1 us and 30 ns a thousand MACs, times the slowness."""

    def ms(op: Op) -> float:
        return slowness * (1e-3 + 3e-8 * op.macs + 1e-7 * (op.reads + op.writes))

    ops = [
        OpTiming(kind=o.kind, shape=o.shape, precision="fp32", timing=_timing(ms(o)))
        for o in ops_of(SPACE, ["fp32"], 1)
    ]
    networks = []
    for i, genome in enumerate(SPACE.choices.sample(24, np.random.default_rng(0))):
        arch = SPACE.choices.decode(genome)
        workload = [o.op for _, o in SPACE.workload(arch)]
        networks.append(
            NetworkTiming(
                space=SPACE.name,
                preset=SPACE.preset,
                candidate=arch,
                batch_size=1,
                ops=[(o.kind, o.shape, "fp32") for o in workload],
                timing=_timing(sum(map(ms, workload)) * (1 + 0.01 * (-1) ** i)),
                held_out=i % 4 == 3,
            )
        )
    return DeviceProfile(
        name="made-up",
        device=Device(name="Made Up", vendor="x", kind="cpu"),
        runtime=Runtime(name="onnxruntime", native="fp32"),
        precisions=["fp32"],
        ops=ops,
        networks=networks,
        network=fit_network_model(ops, networks),
        anchor=Anchor(
            undisturbed_ms=0.4,
            slow_above=1.1,
            times_s=[0.0, 0.1, 5.0],
            relative=[1.0, 1.01, 3.0],
            starts=[0, 2],
        ),
    )


def test_cpu_without_a_profile_names_what_a_search_measured(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no profile yet") as caught:
        targets.resolve_target("cpu")
    assert caught.value.hint.endswith("--batch-size 1`.")
    path = targets.local_profile(space=SPACE)
    path.parent.mkdir(parents=True)
    path.write_text(measured(1.0).model_dump_json())
    with pytest.raises(NotFoundError, match="no profile yet") as caught:
        targets.resolve_target("cpu")
    named = Path(caught.value.hint.rpartition(": ")[2])
    assert targets.resolve_target(str(named)).device.name == "Made Up"


def test_what_a_search_measured_is_told_and_taken_for_its_own_space() -> None:
    path = targets.local_profile(space=SPACE)
    path.parent.mkdir(parents=True)
    measured(1.0).model_copy(update={"device": this_cpu()}).save(path)
    rows = {row["target"]: row for row in inquiry.list_targets()}
    said = "measured for vit:digits by a search"
    assert rows["cpu"]["source"].startswith(said)
    assert inquiry.doctor("sqlite://")["cpu profile"].startswith(said)
    assert inquiry.predict("vit", "digits", "cpu", "largest", None)["latency_ms"] > 0
    assert inquiry.describe_space("vit", "digits", "cpu")["extremes"][0]["latency_ms"] > 0
    with pytest.raises(NotFoundError, match="no profile yet"):
        inquiry.predict("vit", "tiny", "cpu", "largest", None)
    for other in (measured(1.0).to_json(), "{"):  # of another machine; damaged
        path.write_text(other)
        assert inquiry.doctor("sqlite://")["cpu profile"] == "none yet (`nas profile`)"


def test_an_added_target_is_used_by_its_name(tmp_path: Path) -> None:
    assert targets.add_target(A100, "mine") == "mine"
    found = targets.resolve_target("mine")
    assert found.name == "mine"
    assert found.op_models == registry.load("a100").op_models
    assert [row["target"] for row in inquiry.list_targets()].count("mine") == 1
    with pytest.raises(UsageError, match="added before"):
        targets.add_target(A100, "mine")
    measured(1.0).save(tmp_path / "other.json")
    assert targets.add_target(tmp_path / "other.json", "mine", replace=True) == "mine"
    assert targets.resolve_target("mine").device.name == "Made Up"


def test_a_profile_file_needs_no_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    profile_from_figures([], SHEETS / "stm32f746.yaml", Path("board"))
    assert targets.resolve_target("board").name == "board"


@pytest.mark.parametrize(
    ("name", "says"),
    [("a100", "part of"), ("cpu", "part of"), ("../up", "cannot name"), ("x" * 65, "cannot name")],
)
def test_names_that_are_taken_or_no_names(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        targets.add_target(A100, name)
    assert targets.added_targets() == {}


def test_a_profile_that_cannot_be_named_is_refused_before_any_work(tmp_path: Path) -> None:
    out = tmp_path / "my board.json"
    with pytest.raises(UsageError, match="'my board' cannot name a target"):
        profile_from_figures([], SHEETS / "t4.yaml", out)
    with pytest.raises(UsageError, match="'my board' cannot name a target"):
        service.profile(require_harness("cpu"), out, 1, ["no such space"], 1.0)
    assert not out.exists()


@pytest.mark.parametrize(
    ("spaces", "lost"),
    [(["vit:tiny"], True), (["vit:tiny", "vit:digits"], False), (["vit"], False)],
)
def test_spaces_that_a_new_profile_will_not_cover_are_named_before_it_is_measured(
    spaces: list[str], lost: bool
) -> None:
    path, said = targets.local_profile(), list[Event]()
    measured(1.0).save(path)
    with pytest.raises(MeasureError, match="too short"):
        service.profile(require_harness("cpu"), None, 1, spaces, 1e-6, said.append)
    text = f"{path} is replaced: it covers vit:digits too, the new profile will not. Give another"
    notes = [event.text for event in said if event.stage == "note"]
    assert notes == [f"{text} --out to keep both."] * lost
    path.write_text("{")
    with pytest.raises(MeasureError, match="too short"):
        service.profile(require_harness("cpu"), None, 1, spaces, 1e-6, said.append)
    assert len([event for event in said if event.stage == "note"]) == lost


def test_a_broken_profile_is_not_added(tmp_path: Path) -> None:
    whole = A100.read_text()
    (tmp_path / "half.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(ProfileError, match="no whole JSON"):
        targets.add_target(tmp_path / "half.json", "mine")
    (tmp_path / "numbers.json").write_text(whole.replace('"gap_ms"', '"gap"'))
    with pytest.raises(ProfileError, match="broken numbers"):
        targets.add_target(tmp_path / "numbers.json", "mine")
    assert targets.added_targets() == {}


def test_a_profile_that_cannot_be_read_is_listed_as_such() -> None:
    for path in (targets.local_profile(), cache_dir() / "targets" / "mine.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{")
    found = {row["target"]: row["device"] for row in inquiry.list_targets()}
    assert all(found[name].startswith("unreadable: ") for name in ("mine", "cpu"))


def test_a_profile_that_was_deleted_meanwhile_is_not_taken_for_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inquiry, "added_targets", lambda: {"gone": Path("gone.json")})
    rows = {row["target"]: row for row in inquiry.list_targets()}
    assert rows["gone"]["device"].startswith("unreadable: ")
    assert "not profiled yet" in rows["cpu"]["source"]


def test_a_target_twice_as_slow_compares_so(tmp_path: Path) -> None:
    for name, slowness in (("fast", 1.0), ("slow", 2.0)):
        measured(slowness).save(tmp_path / f"{name}.json")
        targets.add_target(tmp_path / f"{name}.json", name)
    compared = compare_targets("fast", "slow")
    (row,) = compared.rows()
    assert row["space"] == "vit:digits"
    assert row["lowest"] == pytest.approx(2.0, rel=0.01)
    assert row["highest"] == pytest.approx(2.0, rel=0.01)
    assert row["same order (Kendall tau)"] == 1.0
    others = [name for name in search_spaces.names() if name != "vit"]
    assert [line.split(":")[0] for line in compared.left_out] == others
    with pytest.raises(ProfileError, match="no time for"):
        compare_targets("fast", "slow", ["ofa"])
    save_comparison(compared, tmp_path / "deep" / "both.png")
    assert (tmp_path / "deep" / "both.png").read_bytes().startswith(b"\x89PNG")


def test_a_comparison_s_legend_names_its_line_and_hides_nothing(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    save_comparison(compare_targets("a100", "t4", ["vit"]), tmp_path / "both.png")
    (axes,) = drawn[0].axes
    legend = axes.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"vit:digits", "equally fast"}
    drawn[0].draw_without_rendering()
    assert legend.get_window_extent().y1 < axes.get_window_extent().y0


@pytest.mark.parametrize(
    ("relative", "limits", "ticks"),
    [
        ([1.0, 1.01, 1.02], (-5, 13), [0, 5, 10]),
        ([0.9, 1.0, 9.0], (-10, 1040), [0, 5, 10, 100, 1000]),
    ],
)
def test_the_speed_of_a_machine_fills_its_panel(
    tmp_path: Path,
    drawn: list[Figure],
    relative: list[float],
    limits: tuple[float, float],
    ticks: list[float],
) -> None:
    profile = measured(1.0)
    assert profile.anchor is not None
    anchor = profile.anchor.model_copy(update={"relative": relative})
    save_profile(profile.model_copy(update={"anchor": anchor}), tmp_path / "p.png")
    axes = drawn[0].axes[-1]
    low, high = axes.get_ylim()
    assert (low, high) == pytest.approx(limits)
    assert [t for t in axes.get_yticks() if low <= t <= high] == ticks


@pytest.mark.parametrize("profile", [measured(1.0), registry.load("a100")], ids=lambda p: p.name)
def test_a_profile_is_drawn_whether_measured_or_fitted(
    tmp_path: Path, profile: DeviceProfile
) -> None:
    save_profile(profile, tmp_path / "p.png")
    picture = (tmp_path / "p.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    # A panel for each that it has figures of: the errors of ops, and of what was measured more.
    width, height = struct.unpack(">II", picture[16:24])
    assert (width > 2 * height) == bool(profile.networks)
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write"):
        save_profile(profile, tmp_path / "file" / "p.png")


def test_a_profile_without_errors_says_what_to_draw_instead(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no errors to draw") as refused:
        save_profile(registry.load("raspberry-pi-4"), tmp_path / "p.png")
    assert "nas targets compare raspberry-pi-4 a100" in refused.value.hint


def test_a_profile_with_too_few_ops_to_judge_is_drawn_without_them(tmp_path: Path) -> None:
    profile = measured(1.0)
    save_profile(
        profile.model_copy(
            update={
                "ops": profile.ops[:1],
                "network": None,
                "anchor": Anchor(undisturbed_ms=1.0, slow_above=1.1, times_s=[0.0], relative=[1.0]),
            }
        ),
        tmp_path / "few.png",
    )
    assert (tmp_path / "few.png").stat().st_size > 0


def test_errors_of_ops_are_of_ops_that_were_left_out() -> None:
    ops = measured(1.0).ops
    errors = errors_of_ops(ops)
    n_linear = sum(t.kind == "linear" for t in ops)
    assert len(errors["linear", "fp32"]) == n_linear
    assert errors["linear", "fp32"].max() < 0.1  # the made-up device is a line
    odd = next(t for t in ops if t.kind == "linear")
    slow = odd.model_copy(update={"timing": _timing(1000 * odd.timing.median_ms)})
    disturbed = errors_of_ops([slow if t is odd else t for t in ops])
    assert disturbed["linear", "fp32"].max() > 0.9
