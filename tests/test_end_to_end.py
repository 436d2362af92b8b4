"""The whole way on real input: search, export, load back, verify on this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nas
from hw_profiles.harness import Harness
from nas import archive, service
from nas.archive import open_study
from nas.data.registry import load_dataset
from nas.errors import ExportError, UsageError
from nas.events import Event
from nas.export.subnet import run_onnx
from nas.profiling import profile_device
from nas.request import RunOptions
from nas.targets import local_profile


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunOptions:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NAS_STORAGE", raising=False)
    return RunOptions(storage=f"sqlite:///{tmp_path / 'nas.db'}", out=tmp_path / "out")


def test_exported_subnets_are_what_was_evaluated(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = nas.search(
        "vit", "a100", ["5ms", "params<=0.4*max"], trials=5, storage=options.storage,
        out=options.out,
    )  # fmt: skip
    assert study.front
    images = load_dataset("digits-hard").test.batch(torch.arange(64))[0]
    for row in study.front:
        folder = Path(str(row.exported))
        config = json.loads((folder / "config.json").read_text())
        assert config["architecture"] == row.architecture
        assert config["policy"] == row.policy
        assert config["objectives"]["accuracy"]["value"] == row.quality
        assert "predicted" in config["objectives"]["latency_ms"]["provenance"]
        assert len(config["class_names"]) == 10
        assert row.quality_test is not None
        network = nas.load_subnet(folder)
        assert sum(p.numel() for p in network.parameters()) == row.params <= 0.4 * 302154
        with torch.inference_mode():
            floats = network(images).argmax(1)
        quantized = run_onnx(folder / "model.onnx", images, 1).argmax(1)
        assert (floats == quantized).double().mean() > 0.9

    # a second export keeps what is there, and mends what was damaged
    first = Path(str(study.front[0].exported))
    before = (first / "model.onnx").stat().st_mtime_ns
    service.export(study.name, options)
    assert (first / "model.onnx").stat().st_mtime_ns == before
    whole = (first / "model.onnx").read_bytes()
    (first / "model.onnx").write_bytes(whole[:100])
    service.export(study.name, options)
    assert (first / "model.onnx").read_bytes() == whole

    # what differs from the supernet does not count, at the next export either
    (first / "config.json").unlink()
    with monkeypatch.context() as patched:
        patched.setattr("nas.export.front.WEIGHTS_TOLERANCE", -1.0)
        for _ in range(2):
            with pytest.raises(ExportError, match="differ from the supernet"):
                service.export(study.name, options)
    service.export(study.name, options)
    assert (first / "config.json").exists()


def test_a_study_begun_anew_under_the_same_name_gets_its_own_networks(
    options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    old = replace(options, out=Path("out"))
    new = replace(old, storage=f"{options.storage}.2")
    name = "one"
    for seed, where in enumerate((old, new)):
        nas.search(
            "vit", "a100", trials=3, seed=seed, study=name, storage=where.storage, out=where.out
        )
    fronts = [open_study(name, where.storage).front for where in (old, new)]
    assert {row.trial for row in fronts[0]} & {row.trial for row in fronts[1]}
    assert f"subnets: out/{name}/subnets" in archive.summary(
        open_study(name, new.storage), new, False
    )
    for where in (new, old):  # each finds the other's files
        monkeypatch.chdir(tmp_path)
        study = service.export(name, where)
        monkeypatch.chdir("/")  # where they are is known from anywhere
        for row in study.front:
            config = json.loads((Path(str(row.exported)) / "config.json").read_text())
            assert (config["architecture"], config["policy"]) == (row.architecture, row.policy)
            nas.load_subnet(str(row.exported))


def test_a_front_is_verified_on_this_machine(options: RunOptions) -> None:
    path = local_profile()
    path.parent.mkdir(parents=True)
    profile_device("cpu", Harness(), path, spaces=["vit:digits"], time_limit_s=25, processes=2)
    study = nas.search("vit", "cpu", trials=4, storage=options.storage, out=options.out)
    assert study.front
    for row in study.front:
        assert row.latency_ms_measured is not None
        assert row.agreement is not None
        assert row.agreement > 0.97
    measured = study.measurements[0]
    assert (measured.batch_size, measured.threads) == (1, 1)
    assert measured.processes >= 2
    assert measured.runtime.startswith("onnxruntime")

    again = service.verify(study.name, options)  # measures anew, keeps what was
    assert len(again.measurements) == 2 * len(study.measurements)

    # beside a target that is elsewhere: this one alone is measured, on files of its own
    both = nas.search(
        "vit", ("a100", "cpu"), "a100:300us", trials=3, storage=options.storage, out=options.out,
        study="both",
    )  # fmt: skip
    assert both.front
    for row in both.front:
        a100, cpu = (row.target_costs or {}).values()
        assert (a100["latency_ms_measured"], row.latency_ms_measured) == (None, None)
        assert cpu["latency_ms_measured"] > 0
        assert cpu["agreement"] > 0.97
        assert Path(cpu["exported"]).parent.name == "cpu"
    assert {m.quantity for m in both.measurements} == {"latency_ms@cpu"}
    anew = service.verify("both", options)
    assert len(anew.measurements) == 2 * len(both.measurements)
    assert open_study("both", options.storage, "cpu").front[0].latency_ms_measured


def test_verifying_another_machine_s_target_measures_nothing(options: RunOptions) -> None:
    study = nas.search("vit", "a100", trials=2, storage=options.storage, export=False)
    said: list[Event] = []
    service.verify(study.name, options, said.append)
    assert any("is not this machine" in event.text for event in said)
    assert open_study(study.name, options.storage).measurements == ()
    assert (options.out / study.name / "front.png").exists()  # as the command says


def test_a_study_needs_its_own_supernet(options: RunOptions) -> None:
    study = nas.search("vit", "a100", trials=2, storage=options.storage, export=False)
    longer = service.resume(study.name, 3, replace(options, export=False))
    assert len(longer.trials) == 3
    with pytest.raises(UsageError, match="--trials must be from 1 to 1,000,000, not 0"):
        service.resume(study.name, 0, options)
    assert [t.key for t in longer.trials[:2]] == [t.key for t in study.trials]
