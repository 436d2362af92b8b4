"""A real Ray cluster on this machine, where Ray is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from toy_work import EXHAUST, FAIL, KILL

from hw_profiles.errors import MeasureError
from hw_profiles.machine import this_cpu
from nas.errors import ExecutorError
from nas.executors.executor import Outcome
from nas.executors.work import Work
from nas.training import store

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the actors' cache is in."""
    cache = tmp_path_factory.mktemp("cache")
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    ray.init(
        num_cpus=2,
        resources={"bench": 1},
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": path, "NAS_CACHE": str(cache)}},
    )
    yield cache
    ray.shutdown()


def _outcomes(work: Work, genes: dict[int, list[int]], workers: int = 2) -> dict[int, Outcome]:
    from nas.executors.ray_cluster import RayCluster

    found: dict[int, Outcome] = {}
    with RayCluster(work, workers) as executor:
        for number, row in genes.items():
            executor.submit(number, np.array(row), 10.0)
        while len(found) < len(genes):
            for outcome in executor.wait():
                if outcome.values is None and outcome.again and outcome.number not in found:
                    found[outcome.number] = outcome
                    if "lost" in outcome.reason:
                        del found[outcome.number]
                        executor.submit(outcome.number, np.array(genes[outcome.number]))
                else:
                    found[outcome.number] = outcome
    return found


def test_actors_evaluate_fail_and_are_restarted(
    cluster: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    supernet = tmp_path / "f-d"
    supernet.mkdir()
    (supernet / "config.json").write_text("{}")
    (supernet / "model.safetensors").write_bytes(b"w" * 1_000_000)
    genes = {0: [1, 2], 1: [FAIL, 0], 2: [EXHAUST, 0], 3: [KILL, 1], 4: [3, 4], 5: [2, 2]}
    work = Work("toy_work:summing", {"folder": str(tmp_path)}, supernet=supernet)
    found = _outcomes(work, genes)
    sums = {n: o.values["sum"] for n, o in found.items() if o.values}
    assert sums == {0: 3.0, 3: KILL + 1.0, 4: 7.0, 5: 4.0}
    assert found[0].values is not None
    assert found[0].values["missing"] == 7.0
    assert found[1].reason == "no number"
    assert found[2].reason.startswith("out of memory")
    assert (cluster / "supernets" / "f-d" / "model.safetensors").stat().st_size == 1_000_000
    assert "core_worker" not in capfd.readouterr().err  # nothing of Ray's own between the lines


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_cannot_begin_ends_it() -> None:
    with pytest.raises(ExecutorError, match="no supernet here"):
        _outcomes(Work("toy_work:broken"), {0: [1]}, workers=1)


@pytest.mark.usefixtures("cluster")
def test_actors_beyond_the_cluster_s_room_hold_nothing_up() -> None:
    found = _outcomes(Work("toy_work:summing"), {n: [1, n] for n in range(6)}, workers=4)
    assert {n: (o.values or {})["sum"] for n, o in found.items()} == {n: 1.0 + n for n in range(6)}
    with pytest.raises(ExecutorError, match="3 CPUs of a worker: the largest has 2"):
        _outcomes(Work("toy_work:summing", threads=3), {0: [1]}, workers=1)


def test_a_supernet_is_received_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path))
    files = {"model.safetensors": b"weights", "config.json": b"{}"}
    store.receive_supernet("f-d", files)
    kept = store.user_store() / "f-d"
    assert {p.name: p.read_bytes() for p in kept.iterdir()} == files
    store.receive_supernet("f-d", {})  # it is here: nothing is written


def _model() -> onnx.ModelProto:
    """y = x W of 64 numbers."""
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["output"])],
        "product",
        [helper.make_tensor_value_info("input", float32, [1, 64])],
        [helper.make_tensor_value_info("output", float32, [1, 64])],
        [numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.usefixtures("cluster")
def test_networks_are_timed_on_the_node_with_the_label() -> None:
    from nas.executors.ray_measure import RayMeasurer

    with RayMeasurer("bench") as measurer:
        assert measurer.device() == this_cpu()
        measured = measurer.measure([_model()], 1, 2)
        (timing,) = measured.timings
        assert timing.median_ms > 0
        assert timing.processes == 2
        assert measured.undisturbed_ms > 0
        # nothing else is measured beside it
        assert ray.available_resources().get("bench", 0) == 0
        broken = onnx.ModelProto()
        with pytest.raises((MeasureError, ExecutorError)) as caught:
            measurer.measure([broken], 1, 2)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.usefixtures("cluster")
def test_a_measurement_whose_actor_is_lost_is_made_again() -> None:
    from nas.executors.ray_measure import RayMeasurer

    with RayMeasurer("bench") as measurer:
        measurer.device()
        ray.kill(measurer._actor, no_restart=False)
        (timing,) = measurer.measure([_model()], 1, 1).timings
        assert timing.median_ms > 0


@pytest.mark.usefixtures("cluster")
def test_a_label_that_no_node_has_is_named() -> None:
    from nas.executors.ray_measure import RayMeasurer

    with pytest.raises(ExecutorError, match=r"offers the resource 'orin'.*bench"):
        RayMeasurer("orin")


def test_a_cluster_that_asks_for_its_token_is_joined(tmp_path: Path) -> None:
    alone = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    alone |= {"HOME": str(tmp_path), "RAY_TMPDIR": "/tmp"}
    head = """
import sys, ray
context = ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
print("at", context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""
    joining = """
import signal
from nas.executors.ray_cluster import join
def ends(signum, frame): ...
signal.signal(signal.SIGTERM, ends)
ray, _ = join()
assert signal.getsignal(signal.SIGTERM) is ends  # Ray's own would skip what the command says
print("has", ray.cluster_resources()["CPU"])
"""
    with subprocess.Popen(
        [sys.executable, "-c", head], env=alone, stdin=PIPE, stdout=PIPE, text=True
    ) as started:
        assert started.stdout is not None
        assert started.stdin is not None
        address = started.stdout.readline().removeprefix("at ").strip()
        assert (tmp_path / ".ray" / "auth_token").is_file()
        done = subprocess.run(
            [sys.executable, "-c", joining],
            env=alone | {"RAY_ADDRESS": address},
            capture_output=True,
            text=True,
            check=False,
        )
        started.stdin.close()
    assert "has 1.0" in done.stdout, done.stderr
