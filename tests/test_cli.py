"""The command as its users meet it: results, bad input, interruption, a second run."""

from __future__ import annotations

import io
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pynvml
import pytest
from PIL import Image

import cli
import search_spaces
from hw_profiles.profile import NetworkModel
from hw_profiles.registry import load
from nas.paths import DEFAULT_OUT
from nas.setting import Setting
from nas.storage.database import open_database
from nas.storage.records import StudyRecord
from nas.storage.studies import Studies
from nas.targets import resolve_target

Run = Callable[..., tuple[int, str, str]]
SEARCH = ("search", "--space", "vit", "--target", "a100", "--budget", "5ms")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command in an empty folder with an empty cache: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NAS_STORAGE", raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own Ctrl-C

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nas", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capfd.readouterr()
        code = stop.value.code
        return (code if isinstance(code, int) else int(bool(code))), out, err

    return call


def test_help_needs_no_torch() -> None:
    code = "import sys, cli; cli.app(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert "Usage" in done.stdout
    assert "typer" in modules
    assert not {"torch", "numpy", "sklearn", "optuna", "sqlalchemy"} & set(modules)


def test_a_look_at_a_front_needs_neither_torch_nor_scipy() -> None:
    code = "import sys, nas.archive, nas.report.table, nas.report.standing; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "scipy", "sklearn", "optuna", "pymoo"} & set(done.stdout.split())


def test_names_beyond_the_terminal_s_alphabet_are_escaped(tmp_path: Path) -> None:
    name, url = "\N{LATIN SMALL LETTER E WITH ACUTE} 8", f"sqlite:///{tmp_path / 'nas.db'}"
    with open_database(url) as database:
        Studies(database).create_study(
            StudyRecord(
                name=name, space="vit", preset="digits", target="a100", runtime="cudagraph",
                batch_size=1, data="digits-hard", objectives=["accuracy"], budgets=[], seed=0,
                sampler="guided", request={"asked": {"trials": 1}}, supernet_fingerprint="f",
                supernet_digest="d", version="0",
            )
        )  # fmt: skip
    command = [sys.executable, "-m", "cli", "studies", "--storage", url]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    table, plain = (
        subprocess.run(
            [*command, *more], env=ascii_only, capture_output=True, text=True, check=True
        )
        for more in ((), ("--json",))
    )
    assert "\\xe9 8" in table.stdout
    assert json.loads(plain.stdout)[0]["study"] == name


@pytest.mark.parametrize(("preset", "fits"), [("digits", True), ("tiny", False)])
def test_a_prediction_says_whether_the_network_fits(run: Run, preset: str, fits: bool) -> None:
    words = ("predict", "--target", "stm32f746", "--preset", preset, "--scheme", "int8")
    assert json.loads(run(*words, "--json")[1])["fits"] is fits
    assert ("does not fit: the device holds 320 KiB of memory" in run(*words)[1]) is not fits


def test_a_prediction_s_counts_are_whole(run: Run) -> None:
    shown = json.loads(run("predict", "--target", "a100", "--json")[1])
    counted = ("params", "macs", "memory_bytes", "weight_bytes")
    assert {type(shown[name]) for name in counted} == {int}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("search", "--space", "vti"), 4, "'vit'"),
        (("search", "--target", "a10"), 4, "'a100'"),
        (("search", "--target", "nowhere/x.json"), 4, "no profile file"),
        (("targets", "show", "~nobody-here/x.json"), 4, "no profile file"),
        (("targets", "show", "x" * 5000 + ".json"), 4, "no profile file"),
        ((*SEARCH, "--data", "digit"), 4, "'digits'"),
        ((*SEARCH, "--data", "no/such/folder"), 4, "no file or folder"),
        ((*SEARCH, "--preset", "digit"), 4, "'digits'"),
        ((*SEARCH, "--preset", "tiny"), 2, "--data"),
        ((*SEARCH, "--schemes", "bf16,int9"), 4, "'int8'"),
        ((*SEARCH, "--sampler", "guide"), 4, "'guided'"),
        ((*SEARCH, "--objective", "accuracy", "--objective", "speed"), 4, "objective"),
        ((*SEARCH, "--objective", "latency"), 2, "one quality"),
        ((*SEARCH, "--objective", "bits_per_byte"), 2, "judged by accuracy"),
        ((*SEARCH, "--recipe", "sandwhich"), 4, "'sandwich'"),
        ((*SEARCH, "--recipe", "sandwich:batchsize=256"), 2, "'batch_size'"),
        ((*SEARCH, "--recipe", "sandwich:version=1"), 2, "no field of sandwich 'version'"),
        ((*SEARCH, "--recipe", "sandwich:learning_rate=fast"), 2, "nas recipes sandwich"),
        ((*SEARCH, "--space", "ofa", "--recipe", "matformer"), 2, "--recipe sandwich:epochs="),
        ((*SEARCH, "--trials", "0"), 2, "--trials"),
        ((*SEARCH, "--trials", "many"), 2, "integer"),
        ((*SEARCH, "--train-time", "2"), 2, "time"),
        ((*SEARCH, "--time", "10"), 2, "time"),
        ((*SEARCH, "--stop-when-flat", "soon"), 2, "--stop-when-flat"),
        ((*SEARCH, "--workers", "0"), 2, "--workers"),
        ((*SEARCH, "--executor", "rya"), 4, "'ray'"),
        ((*SEARCH, "--storage", "postgres:/x"), 2, "database URL"),
        ((*SEARCH, "--supernet-seed", "-1"), 2, "from 0 to 4,294,967,295"),
        ((*SEARCH, "--storage", "sqlite:////proc/none/nas.db"), 1, "cannot be opened"),
        ((*SEARCH, "--out", "/proc/none"), 1, "cannot be written"),
        ((*SEARCH, "--study", "../up"), 2, "cannot name a study"),
        ((*SEARCH, "--study", ""), 2, "cannot name a study"),
        ((*SEARCH, "--study", " "), 2, "cannot name a study"),
        ((*SEARCH, "--study", "a\nb"), 2, "cannot name a study"),
        ((*SEARCH, "--study", "n" * 201), 2, "1 to 200"),
        ((*SEARCH, "--study", "\N{SNOWMAN}" * 100), 2, "Shorten it"),
        ((*SEARCH, "--study=-x"), 2, "neither a dot nor a dash"),
        (("search", "--target", "a100", "--budget", "5"), 2, "unit"),
        (("search", "--target", "a100", "--budget", "5parsecs"), 2, "unit"),
        (("search", "--target", "a100", "--budget", "-1ms"), 2, "more than zero"),
        (("search", "--target", "a100", "--budget", "0.001ms"), 3, "least it can reach"),
        (("search", "--target", "a100", "--budget", "params<=1k"), 3, "1.53k"),
        (("resume", "nothing"), 4, "no studies"),
        (("pareto", "nothing"), 4, "no studies"),
        (("export", "nothing"), 4, "no studies"),
        (("verify", "nothing"), 4, "no studies"),
        (("studies", "show", "nothing"), 4, "no studies"),
        (("studies", "show", "nothing", "x"), 2, "integer"),
        (("studies", "import", "nothing", "x.csv"), 4, "no studies"),
        (("studies", "publish", "nothing", "--optuna", "sqlite://"), 4, "no studies"),
        (("studies", "watch", "nothing"), 4, "no studies"),
        (("search", "--target", "a100", "--data", ""), 2, "no data are named"),
        (("search", "--target", "a100", "--recipe", ""), 4, "no recipe"),
        (("search", "--target", "a100", "--schemes", ""), 4, "no scheme"),
        (("search", "--target", "a100", "--storage", "sqlite://"), 2, "in memory only"),
        (("search", "--target", "a100", "--sampler", "cmaes"), 2, "ranks by one number"),
        (("train", "--seed", "-1"), 2, "from 0 to 4,294,967,295"),
        (("train", "--recipe", "sandwich:epochs=1", "--epochs", "2"), 2, "Leave one out"),
        (("train", "--epochs", "99999999999999999999"), 2, "epochs"),
        (("profile", "--out", "/tmp"), 1, "is a folder"),
        ((*SEARCH, "--out", "x" * 300), 1, "cannot be written"),
        (("spaces", "--target", "a100"), 2, "--target needs the name of a space"),
        (("studies", "delete", "nothing", "--yes"), 4, "no studies"),
        (("predict", "--target", "a100", "--arch", "depth=3,depth=4"), 2, "stands twice"),
        (("predict", "--target", "a100", "--arch", "depth=2,layers.5.ffn=M"), 2, "has no layers.5"),
        (("profile", "--spec", "x.yaml", "--native", "fp16"), 2, "--native is of measuring"),
        (("studies", "shwo", "nothing"), 2, "'show'"),
        (("studies", "--storage", "sqlite:///x.db", "show", "nothing"), 2, "show ... --storage`"),
        (("targets", "--json", "show", "a100"), 2, "show ... --json`"),
        (("spaces", "vti"), 4, "'vit'"),
        (("targets", "show", "a10"), 4, "'a100'"),
        (("targets", "show", "cpu"), 4, "nas profile"),
        (("targets", "add", "nothing.json"), 1, "cannot read"),
        (("targets", "compare", "a100", "a10"), 4, "'a100'"),
        (("targets", "compare", "a100", "a100", "--space", "vti"), 4, "'vit'"),
        (("predict", "--target", "a100", "--arch", "heads=9"), 4, "Choose one of"),
        (("predict", "--target", "a100", "--arch", "wings=2"), 4, "choice"),
        (("predict", "--target", "a100", "--arch", " ,"), 2, "nas spaces vit"),
        (("predict", "--target", "a100", "--scheme", "int9"), 4, "'int8'"),
        (("predict", "--target", "a100", "--batch-size", "0"), 2, "from 1 to 4,096"),
        (("predict", "--target", "a100", "--batch-size", "9" * 400), 2, "from 1 to 4,096"),
        (("spaces", "vit", "--batch-size", "0"), 2, "from 1 to 4,096"),
        (("spaces", "vit", "--target", "a100", "--batch-size", "-1"), 2, "from 1 to 4,096"),
        (("targets", "compare", "a100", "h100", "--batch-size", "0"), 2, "from 1 to 4,096"),
        (("profile", "--device", "tpu"), 2, "cpu"),
        (("profile", "--device", "cpu", "--runtime", "cudagraph"), 2, "onnxruntime, eager"),
        (("profile", "--device", "cuda", "--runtime", "torch"), 2, "cudagraph, eager, compile"),
        (("profile", "--device", "cuda", "--native", "int8"), 2, "bf16, fp16, fp32"),
        (("profile", "--batch-size", "0"), 2, "from 1 to 4,096"),
        (("profile", "--threads", "0"), 2, "1 or more"),
        (("profile", "--out", "/proc/none/cpu.json"), 1, "cannot"),
        (("train", "--data", "digit"), 4, "'digits'"),
        (("train", "--recipe", "sandwich:batch_size=0"), 2, "at least 1, not 0"),
        (("recipes", "sandwhich"), 4, "'sandwich'"),
        (("serch",), 2, "'search'"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line_and_its_exit_code(
    run: Run, words: tuple[str, ...], code: int, says: str
) -> None:
    found, out, err = run(*words)
    assert (found, says in err) == (code, True), err
    assert out == ""
    assert "Traceback" not in err
    left = (Path("nas.db"), DEFAULT_OUT)
    assert not any(path.exists() for path in left)  # refused before anything was made
    if found != 2 or err.startswith("error"):
        assert err.count("error: ") == 1


def test_a_budget_that_nothing_meets_names_one_that_is_met(run: Run) -> None:
    code, _, err = run("search", "--target", "a100", "--budget", "1us")
    assert code == 3
    reachable = err.split("Ask for ")[1].split(" or more")[0]
    code, out, err = run(
        "search", "--target", "a100", "--budget", reachable, "--trials", "2", "--no-export",
        "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["trials"] >= 1


def test_search_resume_and_what_they_print(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(*SEARCH, "--trials", "6", "--no-export")
    assert code == 0, err
    assert "does not bind" in out
    # The offer is to go on as the search was run.
    assert out.endswith("more trials: nas resume vit-digits-a100-5ms --trials 12 --no-export\n")
    assert (tmp_path / "nas-out/vit-digits-a100-5ms/front.png").stat().st_size > 10_000
    assert "<html>" in (tmp_path / "nas-out/vit-digits-a100-5ms/front.html").read_text()[:200]

    code, out, err = run(*SEARCH, "--trials", "9", "--no-export", "--json")
    assert code == 0, err
    shown = json.loads(out)  # one object and nothing else on stdout
    assert shown["trials"] == 9
    assert shown["space"] == "vit"
    row = shown["front"][0]
    assert {
        "trial", "accuracy", "latency_ms", "latency_ms_upper", "latency_ms_measured",
        "memory_bytes", "params", "macs", "architecture", "policy",
    } <= row.keys()  # fmt: skip
    assert row["latency_ms_measured"] is None
    assert row["latency_ms"] <= row["latency_ms_upper"] <= 5

    assert json.loads(run("pareto", "vit-digits-a100-5ms", "--json")[1])["front"] == shown["front"]
    csv = run("pareto", "vit-digits-a100-5ms", "--csv")[1].splitlines()
    assert len(csv) == 1 + len(shown["front"])
    assert csv[0].startswith("trial,accuracy,")
    assert "9 of 9" in run("studies")[1]
    assert run("studies", "list")[1] == run("studies")[1]
    assert "vit-digits-a100-5ms" in run("studies", "--json")[1]

    study = "vit-digits-a100-5ms"
    table = run("studies", "show", study)[1]
    assert table.count("design") == 9
    assert "no failed trials" in run("studies", "show", study, "--failed")[1]
    lines = run("studies", "show", study, "3")[1]
    assert "chosen    of the first design" in lines
    assert json.loads(run("studies", "show", study, "3", "--json")[1])["number"] == 3
    for absent in ("77", "1" * 20):
        code, _, err = run("studies", "show", study, absent)
        assert (code, f"no trial {absent}" in err) == (4, True)
    assert "9 of 9 trials" in run("studies", "watch", study)[1]

    for words, says in [
        (("--trials", "5"), "9 trials already"),
        (("--trials", "5"), f"`nas pareto {study}`"),
        (("--trials", "12", "--seed", "1", "--study", study), "seed was 0, now 1"),
        (("--trials", "12", "--schemes", "bf16"), "schemes was"),
        (("--trials", "12", "--target", "t4", "--study", study), "was a100, now a100, t4"),
        (("--trials", "12", "--target", "a100"), "two targets are called a100"),
        (
            ("--trials", "12", "--sampler", "random", "--study", study),
            "sampler was guided, now random",
        ),
    ]:
        code, _, err = run(*SEARCH, *words, "--no-export")
        assert (code, says in err) == (2, True), err
    code, _, err = run(*SEARCH, "--trials", "9", "--seed", "1", "--no-export")
    assert (code, "study vit-digits-a100-5ms-seed1;" in err) == (0, True), err
    assert run("studies", "delete", f"{study}-seed1", "--yes")[0] == 0
    code, _, err = run("pareto", "vit-digits-a100")
    assert (code, "'vit-digits-a100-5ms'" in err) == (4, True)
    code, _, err = run("verify", "vit-digits-a100-5ms")
    assert (code, "is not this machine" in err) == (0, True)

    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, out, err = run("studies", "delete", study)
    assert (code, out.strip()) == (0, f"study {study} stays as it is")
    assert "with its 9 trials?" in err
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = run("studies", "delete", study)
    assert (code, "Add --yes" in err) == (2, True)
    assert (
        run("studies", "delete", study, "--yes")[1] == f"study {study} deleted with its 9 trials\n"
    )
    assert "no studies yet" in run("studies")[1]
    assert (tmp_path / "nas-out/vit-digits-a100-5ms/front.png").exists()


def test_of_several_processes_the_first_says_what_was_trained(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")  # as some schedulers set it for a process that is alone
    code, alone, _ = run("train")
    assert (code, "kept in " in alone) == (0, True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("train") == (0, "", "")
    monkeypatch.setenv("RANK", "0")
    assert run("train") == (0, alone, "")


def test_a_recipe_s_fields_mean_one_supernet_and_one_study(run: Run) -> None:
    typed = "sandwich:learning_rate=1e-3, epochs=1,batch_size=32,examples_per_epoch=64,ema=0"
    text = "sandwich:epochs=1,examples_per_epoch=64,batch_size=32,learning_rate=0.001"
    code, out, err = run("train", "--recipe", typed)
    assert code == 0, err
    assert f"by {text}: " in out
    fingerprint = out.split(f"by {text}: ")[1].split()[0]
    code, out, _ = run("train", "--recipe", text.replace(":epochs=1,", ":"), "--epochs", "1")
    assert (code, fingerprint in out) == (0, True)

    code, out, err = run("train", "--recipe", text, "--seed", "7")
    assert (code, fingerprint in out) == (0, False), err
    offered = shlex.split(out.split("search it with: nas ")[1])
    assert offered[-2:] == ["--supernet-seed", "7"]
    code, _, err = run(*offered, "--target", "a100", "--trials", "1", "--no-export")
    assert (code, "epoch 1/" in err) == (0, False), err

    few = (*SEARCH, "--no-export", "--study", "mine", "--trials")
    code, _, err = run(*few, "2", "--recipe", text)
    assert (code, "epoch 1/" in err) == (0, False), err  # found, not trained again
    for words in ((*few, "3", "--recipe", typed), ("resume", "mine", "--trials", "4")):
        code, _, err = run(*words, "--no-export")
        assert code == 0, err
    with open_database("sqlite:///nas.db") as database:
        study = Studies(database).find_study("mine")
        assert study.supernet_fingerprint == fingerprint
        assert study.request["asked"]["recipe"] == text
    code, _, err = run(*few, "5", "--recipe", text.replace("32", "16"))
    assert (code, f"recipe was {text}, now sandwich:" in err) == (2, True), err


def test_a_study_is_resumed_from_any_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for part, kind, i in itertools.product(("train", "val"), ("dark", "light"), range(8)):
        folder = tmp_path / "images" / part / kind
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (8, 8)) + (0 if kind == "dark" else 120)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    recipe = "sandwich:epochs=1,examples_per_epoch=16,batch_size=16"
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    mine = ("--no-export", "--storage", url)
    code, _, err = run(
        *SEARCH, "--data", "images", "--recipe", recipe, "--study", "s", "--trials", "1", *mine
    )
    assert code == 0, err
    with open_database(url) as database:  # as older versions kept it
        studies = Studies(database)
        study = studies.find_study("s")
        assert study.request["asked"]["data"] == str(tmp_path / "images")
        asked = {**study.request["asked"], "data": "images"}
        studies.set_request(study.id, {**study.request, "asked": asked})
    assert run("resume", "s", "--trials", "2", *mine)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = run("resume", "s", "--trials", "3", *mine)
    assert code == 0, err


def test_a_study_that_was_kept_with_or_without_a_recipe_goes_on(run: Run) -> None:
    search = (*SEARCH, "--no-export", "--trials")
    recipe = "sandwich:epochs=6,apart=32,apart_until=0.6"  # the space's own
    assert run(*search, "1")[0] == 0
    steps = [  # what was kept, what goes on with it
        (None, SEARCH),
        (None, (*SEARCH, "--recipe", f"{recipe},ema=0")),
        (recipe, ("resume", "vit-digits-a100-5ms")),
    ]
    for trials, (kept, words) in enumerate(steps, 2):
        with open_database("sqlite:///nas.db") as database:
            studies = Studies(database)
            study = studies.find_study("vit-digits-a100-5ms")
            asked = {**study.request["asked"], "recipe": kept}
            studies.set_request(study.id, {**study.request, "asked": asked})
        code, _, err = run(*words, "--no-export", "--trials", str(trials))
        assert code == 0, err
    code, _, err = run(*search, "5", "--recipe", "matformer")
    assert (code, f"recipe was {recipe}, now matformer" in err) == (2, True), err


def test_two_workers_until_the_time_is_over(run: Run) -> None:
    code, out, err = run(
        *SEARCH, "--trials", "500", "--workers", "2", "--time", "8s", "--no-export", "--json"
    )
    assert code == 0, err
    assert "8 seconds are over" in err
    assert "nas resume vit-digits-a100-5ms --trials 500 --workers 2 --no-export" in err
    shown = json.loads(out)
    assert 0 < shown["trials"] < 500
    code, out, err = run(
        "resume", "vit-digits-a100-5ms", "--trials", "500", "--stop-when-flat", "1:99%",
        "--no-export",
    )  # fmt: skip
    assert code == 0, err
    assert "raised the hypervolume by no more than 99%" in err
    code, out, _ = run("pareto", "vit-digits-a100-5ms")
    assert "raised the hypervolume by no more than 99%\nmore trials: nas resume" in out
    rows = json.loads(run("studies", "show", "vit-digits-a100-5ms", "--json")[1])
    assert [row["number"] for row in rows] == list(range(len(rows)))
    assert len({row["key"] for row in rows}) == len(rows)
    assert all(row["seconds"] > 0 and row["accuracy_noise"] > 0 for row in rows)


def test_a_study_with_nothing_left_to_evaluate_is_not_asked_to_go_on(run: Run) -> None:
    few = ("search", "--space", "vit", "--target", "a100", "--budget", "params<=2.2k")
    code, out, err = run(*few, "--schemes", "bf16", "--no-export")
    assert code == 0, err
    end = "ended after 6 of 100 trials: no unseen candidate that meets the budgets was found"
    name = "vit-digits-a100-params-2.2k"
    for shown in (out, run("pareto", name)[1], run("studies", "watch", name)[1]):
        assert end in shown
        assert "resume" not in shown
    assert f"see the front with: nas pareto {name}" in shown


@pytest.mark.parametrize(
    ("objectives", "front"),
    [(("accuracy",), 1), (("loss", "latency", "memory", "params"), None)],
)
def test_any_number_of_objectives(run: Run, objectives: tuple[str, ...], front: int) -> None:
    words = [word for name in objectives for word in ("--objective", name)]
    code, out, err = run(*SEARCH, *words, "--trials", "3", "--no-export", "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert shown["objectives"] == list(objectives)
    assert len(shown["front"]) == (front or len(shown["front"])) > 0
    assert all(0 < row[objectives[0]] < 3 for row in shown["front"])
    assert "hypervolume 0." in err


ENERGY = NetworkModel(
    form="power_times_time",
    params={
        "idle_w": 60.0, "busy_w": 80.0, "tensor_w": 250.0, "memory_w": 120.0, "limit_w": 400.0,
        "cores": 108.0, "bandwidth_bytes_per_s": 2.039e12, "peak_flops": 312e12,
        "peak_flops_int8": 624e12, "upper_ratio": 1.15,
    },
    provenance="derived",
    source="made-up powers",
    coverage=0.9,
)  # fmt: skip


def _gpu(energy: NetworkModel | None) -> str:
    """A file with the shipped A100's times, and with this energy."""
    load("a100").model_copy(update={"name": "gpu", "energy": energy}).save(Path("gpu.json"))
    return "gpu.json"


def test_energy_from_a_profile_to_exported_networks(run: Run, tmp_path: Path) -> None:
    assert run("targets", "add", _gpu(ENERGY))[0] == 0
    rows = {row["target"]: row for row in json.loads(run("targets", "--json")[1])}
    assert rows["gpu"]["energy"] == "derived, error not measured"
    assert "energy: derived: made-up powers" in run("targets", "show", "gpu")[1]
    out = run("predict", "--target", "gpu")[1]
    assert "J at 90% coverage" in out
    assert "made-up powers" in out
    assert "energy bound" in run("spaces", "vit", "--target", "gpu")[1]

    budget = ("--budget", "energy<=0.5*max", "--objective", "accuracy", "--objective", "energy")
    search = ("search", "--space", "vit", "--target", "gpu", "--schemes", "bf16")
    code, out, err = run(*search, *budget, "--trials", "5", "--study", "s", "--json")
    assert code == 0, err
    assert "of the space meets it" in err
    front = json.loads(out)["front"]
    setting = Setting(search_spaces.get("vit"), resolve_target("gpu"), schemes=["bf16"])
    most, _ = setting.costs.extreme("energy_mj_upper", largest=True)  # not the largest network's
    for row in front:
        assert 0 < row["energy_mj"] < row["energy_mj_upper"] <= 0.5 * most
        config = json.loads((Path(row["exported"]) / "config.json").read_text())
        told = config["objectives"]["energy_mj_upper"]
        assert told == {
            "value": row["energy_mj_upper"], "provenance": "upper bound, predicted for gpu",
        }  # fmt: skip
    assert [row["energy_mj_upper"] for row in front] == sorted(r["energy_mj_upper"] for r in front)

    code, out, _ = run("pareto", "s")
    assert "energy bound" in out
    assert "energy: power by the use of NVIDIA A100-SXM4-80GB" in out
    csv = run("pareto", "s", "--csv")[1]
    assert ",energy_mj,energy_mj_upper," in csv.splitlines()[0]
    assert '"energy bound"' in (tmp_path / "nas-out/s/front.html").read_text()
    assert "energy bound" in run("studies", "show", "s")[1]
    number = str(front[0]["trial"])
    assert "\nenergy    " in run("studies", "show", "s", number)[1]
    stored = json.loads(run("studies", "show", "s", number, "--json")[1])
    assert stored["energy_mj"] == front[0]["energy_mj"]

    # what goes elsewhere has it, what comes from elsewhere gets that of its own target
    Path("front.csv").write_text(csv)
    code, _, err = run(*search, "--trials", "1", "--study", "t", "--no-export")
    assert code == 0, err
    assert " trials imported into t" in run("studies", "import", "t", "front.csv")[1]
    told = json.loads(run("studies", "show", "t", "--json")[1])
    by_key = {(t["architecture_short"], t["policy_short"]): t["energy_mj"] for t in told}
    for row in front:
        assert by_key[row["architecture_short"], row["policy_short"]] == row["energy_mj"]
    url = "sqlite:///optuna.db"
    assert run("studies", "publish", "s", "--optuna", url)[0] == 0
    published = optuna.load_study(study_name="s", storage=url)
    assert published.metric_names == ["accuracy", "energy"]
    assert published.trials[int(number)].user_attrs["energy_mj"] == front[0]["energy_mj"]

    code, _, err = run(*search, "--budget", "energy<=1nJ")
    assert (code, "least it can reach is" in err) == (3, True), err


def test_energy_is_refused_where_a_target_has_no_figures(run: Run) -> None:
    target = ("search", "--target", _gpu(None))
    for words in (
        ("--budget", "energy<=20mJ"),
        ("--budget", "energy<=0.5*max"),
        ("--objective", "accuracy", "--objective", "energy"),
    ):
        code, out, err = run(*target, *words)
        assert (code, out) == (2, ""), err
        assert "the target gpu has no energy figures" in err
        assert "`nas profile`" in err
        assert len(err.strip().splitlines()) == 1
        assert not Path("nas.db").exists()
    code, out, err = run(*target, "--trials", "2", "--study", "s", "--no-export", "--json")
    assert code == 0, err
    assert "energy" not in out + run("pareto", "s")[1] + run("pareto", "s", "--csv")[1]
    assert "energy" not in run("studies", "show", "s", "--json")[1]
    assert "energy" not in Path("nas-out/s/front.html").read_text().rpartition("Plotly.newPlot")[2]
    assert "energy: no figures" in run("targets", "show", "gpu.json")[1]
    assert "energy" not in run("spaces", "vit", "--target", "gpu.json")[1]


def test_lookups(run: Run) -> None:
    code, out, _ = run("spaces", "vit", "--target", "a100")
    assert code == 0
    assert "74,909,055,840" not in out
    assert "distinct architectures" in out
    assert "layers.*.ffn" in out
    code, out, _ = run("spaces", "vit", "--preset", "tiny", "--json")
    assert json.loads(out)["architectures"] == 3 * (8**12 + 8**13 + 8**14)
    found = json.loads(run("spaces", "vit", "--target", "a100", "--json")[1])
    small, _, large = found["extremes"]
    assert 0 < small["params"] < large["params"]
    assert 0 < large["latency_ms"] < large["latency_ms_upper"]
    assert found["choices"][0]["values"][:2] == [8, 16]
    named = {row["target"]: row for row in json.loads(run("targets", "--json")[1])}
    assert named["a100"]["precisions"][0] == "bf16"
    code, out, _ = run("targets")
    assert code == 0
    assert "a100" in out
    assert "not profiled yet" in out
    code, out, _ = run("targets", "show", "a100")
    assert "aiconfigurator" in out
    assert "derived" in out
    code, out, _ = run("predict", "--target", "a100", "--arch", "depth=2", "--scheme", "int8")
    assert "90% coverage" in out
    assert run("samplers")[0] == 0
    assert "guided" in [row["sampler"] for row in json.loads(run("samplers", "--json")[1])]
    assert "pydoc" in [row["data"] for row in json.loads(run("datasets", "--json")[1])]
    code, out, _ = run("recipes")
    assert (code, "two-stage-distillation" in out) == (0, True)
    code, out, _ = run("recipes", "matformer")
    assert code == 0
    assert "sampled or summed" in out
    assert "--recipe matformer:batch_size=" in out
    row = json.loads(run("recipes", "--json")[1])[0]
    assert (row["recipe"], row["default of"]) == ("matformer", "matlm 180m, 460m, 1b")
    fields = json.loads(run("recipes", "matformer", "--json")[1])["fields"]
    assert {row["field"]: row["default"] for row in fields}["betas"] == "0.9/0.98"


def test_doctor_hides_passwords(run: Run) -> None:
    code, out, _ = run("doctor", "--storage", "postgresql://me:secret@127.0.0.1:1/x")
    assert code == 0
    assert "secret" not in out
    assert "***" in out
    assert "torch" in out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no whole JSON"),
        (b"\x80\x04K\x01.", "no whole JSON"),
        (b'{"name": "x"}', "schema_version"),
        (b'{"schema_version": 99}', "newer"),
        (b'{"schema_version": 2, "name": "x"}', "older"),
        (b'{"schema_version": 3, "name": "x"}', "not a valid device profile"),
        (b'{"schema_version": 3, "name": "\\u001b[2J"}', "control characters"),
        (b"[" * 100_000, "no whole JSON"),
    ],
)
def test_hostile_profiles_get_one_line(run: Run, content: bytes, says: str) -> None:
    Path("p.json").write_bytes(content)
    code, _, err = run("search", "--target", "p.json", "--budget", "5ms")
    assert (code, says in err) == (1, True), err
    assert len(err.strip().splitlines()) == 1


def test_a_gpu_that_is_not_here_is_said_before_anything_is_measured(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    code, out, err = run("profile", "--device", "cuda", "--out", "gpu.json")
    assert (code, out) == (1, "")
    assert "no NVIDIA GPU here" in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("gpu.json").exists()


# --- in processes of their own ------------------------------------------------------------------


def _environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "NAS_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}


def _start(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *SEARCH, "--no-export", *words],
        cwd=tmp_path,
        env=_environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for_trial(process: subprocess.Popen[str], number: int) -> None:
    """Until at least that many trials are done."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("search") and int(line.split("trial ")[1].split()[0]) >= number:
            return
    pytest.fail("the search ended before it was interrupted")


def _kill_at_trial(process: subprocess.Popen[str], number: int) -> None:
    _wait_for_trial(process, number)
    process.kill()
    process.communicate()


def _front(tmp_path: Path) -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-m", "cli", *SEARCH, "--no-export", "--trials", "24", "--json"],
        cwd=tmp_path,
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    front: list[dict[str, object]] = json.loads(done.stdout)["front"]
    return front


def test_of_two_searches_one_is_refused_and_killed_ones_go_on_to_the_same_front(
    tmp_path: Path,
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    expected = _front(whole)
    # Both find no study, and make the database, unless one is much slower.
    both = [_start(killed, "--trials", total) for total in ("24", "48")]
    while all(process.poll() is None for process in both):
        time.sleep(0.05)
    refused, process = sorted(both, key=lambda process: process.poll() is None)
    _, err = refused.communicate()
    assert refused.returncode == 1, err
    assert f"is being run by process {process.pid} on" in err.splitlines()[-1]
    assert "resume with" not in err
    with open_database(f"sqlite:///{killed / 'nas.db'}") as database:  # nor did it change anything
        (summary,) = Studies(database).list_studies()
    assert summary.study.request["asked"]["trials"] == (24 if process is both[0] else 48)
    _kill_at_trial(process, 3)
    _kill_at_trial(_start(killed, "--trials", "24"), 17)
    assert _front(killed) == expected


def test_interrupted_search_says_how_to_go_on(tmp_path: Path) -> None:
    process = _start(tmp_path, "--trials", "60")
    _wait_for_trial(process, 6)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "resume with: nas resume vit-digits-a100-5ms --trials 60 --no-export" in err
    assert "Traceback" not in err
    process = _start(tmp_path, "--trials", "8", "--json")  # nobody holds the study any more
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 or "trials already" in err, err


SHEET = "gpu:\n  mem_bw: 6e11\n  mem_capacity: 2e10\n  bfloat16_tc_flops: 9e13\n  sm_version: 86\n"


def test_a_profile_from_a_sheet_is_a_target(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mygpu.yaml").write_text(SHEET)
    code, out, _ = run("profile", "--spec", "mygpu.yaml", "--out", "mygpu.json")
    assert code == 0
    assert "Nothing was timed on this device" in out
    assert run("targets", "add", "mygpu.json")[0] == 0
    code, out, _ = run("predict", "--space", "vit", "--target", "mygpu", "--json")
    shown = json.loads(out)
    assert code == 0
    assert 0 < shown["latency_ms"] < shown["latency_ms_upper"]


def test_a_profile_from_a_table_is_a_target(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mygpu.yaml").write_text(SHEET)
    rows = ["gemm_dtype,m,n,k,latency"]
    for i in range(300):
        m, k, n = 1 + i % 10 * 40, 64 * (1 + i // 10 % 6), 64 * (1 + i // 60)
        rows.append(f"bfloat16,{m},{n},{k},{0.004 + 2e3 * m * k * n / 5e13}")
    (tmp_path / "t4_table.csv").write_text("\n".join(rows))
    code, out, err = run(
        "profile", "--from-table", "t4_table.csv", "--spec", "mygpu.yaml", "--out", "made.json"
    )
    assert (code, "kept out" in err) == (0, True)
    assert "t4_table.csv is by its name of NVIDIA T4, not of mygpu" in err
    assert "written to made.json" in out
    twice = ("--from-table", "t4_table.csv", "--from-table", "./t4_table.csv")
    code, _, err = run("profile", *twice, "--spec", "mygpu.yaml", "--out", "made.json")
    assert (code, "a table stands twice" in err) == (2, True)
    shown = json.loads(run("targets", "show", "made.json", "--json")[1])
    assert [(r["op"], r["provenance"]) for r in shown["ops"][:2]] == [
        ("linear", "fitted"),
        ("attention", "derived"),
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--from-table", "table.csv", "--out", "x.json"), "Give its sheet with --spec"),
        (("--spec", "gpu.yaml"), "the profile needs a file"),
        (("--spec", "missing.yaml", "--out", "x.json"), "cannot read missing.yaml"),
        (("--spec", "wrong.yaml", "--out", "x.json"), "is not a GPU's sheet"),
        (
            ("--from-table", "few.csv", "--spec", "gpu.yaml", "--out", "x.json"),
            "1 products in bf16, too few to fit",
        ),
        (("--spec", "gpu.yaml", "--out", "gpu.yaml/x.json"), "cannot be written"),
    ],
)
def test_figures_that_make_no_profile_get_one_line(
    run: Run, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    (tmp_path / "gpu.yaml").write_text(SHEET)
    (tmp_path / "wrong.yaml").write_text("node:\n  x: 1\n")
    (tmp_path / "few.csv").write_text("gemm_dtype,m,n,k,latency\nbfloat16,1,2,3,0.01\n")
    code, _, err = run("profile", *words)
    assert code != 0
    assert says in err
    assert len(err.strip().splitlines()[-1:]) == 1
    assert "Traceback" not in err
    assert not (tmp_path / "x.json").exists()
