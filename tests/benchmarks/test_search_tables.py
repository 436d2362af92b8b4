import csv
import gzip
import itertools
import json
import sys

import accel_table
import gpt2_surrogate
import nb201_table
import numpy as np
import pytest
import search_tables
from known_problems import read_table

from hw_profiles import registry
from hw_profiles.op import Op
from nas.engine.candidates import Candidates, enumerate_all
from predictors.latency import latency_predictor


@pytest.fixture
def table(tmp_path):
    """Networks of 4 genes, accuracy 60 + what each gene adds; `sparse.csv` has a third of them."""
    lines = []
    for genes in itertools.product("abc", "01", "012", "xy"):
        steps = ["abc".index(genes[0]), int(genes[1]), int(genes[2]), "xy".index(genes[3])]
        accuracy = 60 + 7 * steps[0] ** 0.5 + 5 * steps[1] + 3.3 * steps[2] ** 0.7 + steps[3]
        cost = 10 + 9 * steps[0] + 8 * steps[1] + 5 * steps[2] + 4 * steps[3]
        lines.append(f"{''.join(genes)},{accuracy},{cost}")
    for name, kept in (("full.csv", lines), ("sparse.csv", lines[::3])):
        (tmp_path / name).write_text("\n".join(["arch,accuracy,flops", *kept]))
    return tmp_path


def run(monkeypatch, path, *more):
    options = ["--objective", "accuracy:max", "--objective", "flops:min", "--cost-known", "flops"]
    options += ["--reference", "accuracy=50", "--reference", "flops=1.05*max", *more]
    monkeypatch.setattr(sys, "argv", ["search_tables.py", "--table", str(path), *options])
    return search_tables.main()


@pytest.mark.parametrize(("name", "size"), [("full.csv", 36), ("sparse.csv", 12)])
def test_shares_grow_to_one(monkeypatch, table, capsys, name, size):
    more = ["--evaluations", f"6,{size}", "--seeds", "2", "--samplers", "guided,random"]
    assert run(monkeypatch, table / name, *more) == 0
    shares = json.loads(capsys.readouterr().out)
    assert list(shares) == ["guided", "random"]
    for share in shares.values():
        assert 0 < share["6"] <= share[str(size)] == pytest.approx(1.0)


def test_runs_that_keep_their_searches_together_are_one(monkeypatch, table, capsys):
    path, folder = table / "full.csv", table / "kept"
    more = ["--evaluations", "4,12", "--samplers", "guided,random", "--quartiles"]
    assert run(monkeypatch, path, *more, "--seeds", "3") == 0
    whole = capsys.readouterr().out
    for seeds in ("0-1", "2-2"):
        assert run(monkeypatch, path, *more, "--seeds", seeds, "--keep", str(folder)) == 0
    capsys.readouterr()
    monkeypatch.setattr(search_tables, "_searched", lambda *_: pytest.fail("searched again"))
    assert run(monkeypatch, path, *more, "--seeds", "3", "--keep", str(folder)) == 0
    assert capsys.readouterr().out == whole

    other = [*more, "--reference", "flops=1.1*max", "--keep", str(folder)]
    assert run(monkeypatch, path, *other) == 2
    assert "another problem" in capsys.readouterr().err
    (folder / "random-12-seed1.npy").write_bytes(b"no array")
    assert run(monkeypatch, path, *more, "--seeds", "3", "--keep", str(folder)) == 2
    assert "random-12-seed1.npy is no kept search" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--samplers", "guide"], "'guided'"),
        (["--arch", "genes"], "no column 'genes'"),
        (["--reference", "loss=1"], "those of the objectives"),
        (["--reference", "flops=2*mean"], "no reference"),
        (["--objective", "accuracy:up"], "NAME:max"),
        (["--seeds", "0"], "no seeds"),
        (["--seeds", "5-4"], "no seeds"),
        (["--seeds", "five"], "no seeds"),
    ],
)
def test_what_makes_no_sense_is_refused(monkeypatch, table, capsys, more, message):
    assert run(monkeypatch, table / "full.csv", *more) == 2
    assert message in capsys.readouterr().err


def test_a_limit_leaves_out_what_is_beyond_it(monkeypatch, table, capsys):
    more = ["--evaluations", "6,12,20", "--limit", "guided=12", "--seeds", "1"]
    picture = table / "curves.png"
    more += ["--samplers", "guided,nsga2", "--quartiles", "--picture", str(picture)]
    assert run(monkeypatch, table / "full.csv", *more) == 0
    shares = json.loads(capsys.readouterr().out)
    assert {s: list(share) for s, share in shares.items()} == {
        "guided": ["6", "12"],
        "nsga2": ["6", "12", "20"],
    }
    assert shares["nsga2"]["6"] == sorted(shares["nsga2"]["6"])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_goal_is_reached_by_those_that_have_its_share(monkeypatch, table, capsys):
    more = ["--evaluations", "1,12,36", "--limit", "nsga2=12", "--seeds", "3", "--quartiles"]
    more += ["--samplers", "guided,nsga2,random", "--goal", "nsga2=12"]
    assert run(monkeypatch, table / "full.csv", *more) == 0
    shares = json.loads(capsys.readouterr().out)
    goal = shares["nsga2"]["12"][1]
    for found in shares.values():
        assert all(n is None or 1 <= n <= 36 for n in found["reached"])
    # Half of its own seeds have their median share, and the whole table has it for sure.
    assert shares["nsga2"]["reached"][1] <= 12
    assert None not in shares["random"]["reached"] == sorted(shares["random"]["reached"])
    again = ["--evaluations", str(shares["guided"]["reached"][2]), "--seeds", "3", "--quartiles"]
    assert run(monkeypatch, table / "full.csv", *again, "--samplers", "guided") == 0
    (after,) = json.loads(capsys.readouterr().out)["guided"].values()
    assert after[0] >= goal - 1e-5


def test_three_objectives_none_known_for_free(monkeypatch, tmp_path, capsys):
    lines = [
        f"{a}{b}{c},{60 + a + 2 * b + 3 * c},{a + 0.5 * b},{-c}"
        for a, b, c in itertools.product(range(4), range(3), range(2))
    ]
    path = tmp_path / "three.csv"
    path.write_text("\n".join(["code,acc,ms,gain", *lines]))
    given = ["search_tables.py", "--table", str(path), "--arch", "code", "--objective", "acc:max"]
    given += ["--objective", "ms:min", "--objective", "gain:min", "--reference", "acc=0"]
    given += ["--reference", "ms=1.1*max", "--reference", "gain=1"]
    given += ["--evaluations", "24", "--seeds", "1", "--samplers", "guided"]
    monkeypatch.setattr(sys, "argv", given)
    assert search_tables.main() == 0
    assert json.loads(capsys.readouterr().out)["guided"]["24"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--evaluations", "fifty"], "whole numbers"),
        (["--limit", "tpe=3"], "not among --samplers"),
        (["--limit", "guided=3"], "below the first"),
        (["--goal", "tpe=50"], "is no goal"),
        (["--goal", "nsga2"], "is no goal"),
        (["--goal", "nsga2=1000"], "has 250 evaluations"),
        (["--evaluations", "0"], "1 or more"),
        (["--reference", "accuracy=best"], "no reference"),
        (["--objective", "accuracy"], "NAME:max"),
        (["--objective", "arch:max", "--reference", "arch=1"], "is no number"),
        (["--objective", "accurcy:max", "--reference", "accurcy=1"], "no column 'accurcy'"),
        (["--objective", "accuracy:min"], "stands twice"),
        (["--reference", "accuracy=nan"], "no reference"),
        (["--reference", "flops=-inf"], "no reference"),
        (["--reference", "accuracy=1.05*max"], "better than the reference"),
        (["--samplers", "mixnmatch"], "nas samplers"),
    ],
)
def test_more_that_makes_no_sense_is_refused(monkeypatch, table, capsys, more, message):
    assert run(monkeypatch, table / "full.csv", *more) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"accuracy,flops,arch\n1,2,ab\n2,3\n", "row 2 of the table has no arch"),
        (b"arch,accuracy,flops\nab,60\n", "row 1 of the table has no flops"),
        (b"arch,accuracy,flops\nab,60,\n", "no row of the table has all figures"),
        (b"arch,accuracy,flops\nab,60,inf\n", "no row of the table has all figures"),
        (b"arch,accuracy,flops\nab,60,7\nab,61,7\n", "two rows of the network ab that differ"),
        (b"arch,accuracy,flops\nab,60,7\na,61,7\n", "several lengths"),
        (b"arch,accuracy,flops\n", "is empty"),
        (b"\x1f\x8b\x08no gzip", "cannot be read"),
        (b"code\taccuracy\tflops\nab\t60\t7\t8\n", "It has code, accuracy, flops."),
        (b"arch,accuracy,flops\n\xff\xfe", "cannot be read"),
    ],
)
def test_a_table_that_is_none_gets_one_line(monkeypatch, tmp_path, capsys, content, message):
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    assert run(monkeypatch, path) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


def test_a_table_is_read_however_it_is_written(monkeypatch, table, capsys):
    """Packed, with tabs, with spaces, without leading zeros; with rows that say nothing new."""
    lines = (table / "full.csv").read_text().splitlines()
    codes = dict(zip("abcxy", "01201", strict=True))  # decimal, so that a reader may drop zeros
    decimal = [lines[0], *("".join(codes.get(c, c) for c in line) for line in lines[1:])]
    short = [decimal[0]]
    for line in decimal[1:]:
        code, figures = line.split(",", 1)
        short.append(f"{int(code)},{figures}")
    written = {
        "plain.csv": "\n".join(decimal),
        "tabs.tsv": "\n".join(decimal).replace(",", "\t"),
        "semicolons.csv": "\n".join(decimal).replace(",", ";"),
        "spaces.csv": "\r\n".join(decimal).replace(",", ", "),
        "quoted.csv": "\n".join(decimal).replace("arch,", '"arch", ').replace("flops", '"flops"'),
        "zeros.csv": "\n".join(short),
        "more.csv": "\n".join([*decimal, decimal[5], decimal[7].rpartition(",")[0] + ","]),
    }
    more = ["--evaluations", "6,12", "--seeds", "1", "--samplers", "guided,nsga2"]
    found = {}
    for name, text in written.items():
        (table / name).write_text(text)
        assert run(monkeypatch, table / name, *more) == 0
        found[name] = capsys.readouterr()
    packed = table / "packed.csv.gz"
    packed.write_bytes(gzip.compress(written["plain.csv"].encode()))
    assert run(monkeypatch, packed, *more) == 0
    assert {shown.out for shown in found.values()} == {capsys.readouterr().out}
    assert "numbers in 'arch' get back their leading zeros" in found["zeros.csv"].err
    assert "1 rows without a finite figure are left out" in found["more.csv"].err
    assert "1 rows that repeat one are left out" in found["more.csv"].err


def test_names_may_hold_the_signs_between_them(monkeypatch, table, capsys):
    path = table / "full.csv"
    path.write_text(path.read_text().replace("accuracy", "acc:top=1"))
    given = ["search_tables.py", "--table", str(path), "--objective", "acc:top=1:max"]
    given += ["--objective", "flops:min", "--reference", "acc:top=1=50", "--reference", "flops=60"]
    given += ["--evaluations", "36", "--seeds", "1", "--samplers", "guided"]
    monkeypatch.setattr(sys, "argv", given)
    assert search_tables.main() == 0
    assert json.loads(capsys.readouterr().out) == {"guided": {"36": pytest.approx(1.0)}}


def test_of_networks_as_near_a_lot_stands_in_for_one_that_a_list_lacks(table):
    """Not the first in the file, which may be sorted by what is sought."""
    problem = read_table(
        table / "sparse.csv", "arch", ["accuracy:max"], ["accuracy=50"], []
    ).problem
    every = enumerate_all(problem.choices)
    missing = every[~problem.feasible(every)][0]
    apart = (problem.listed != missing).sum(axis=1)
    nearest = set(map(tuple, problem.listed[apart == apart.min()]))
    assert len(nearest) > 1
    drawn = [tuple(Candidates(problem, seed).nearest(missing, set())) for seed in range(50)]
    assert set(drawn) == nearest
    assert drawn[3] == tuple(Candidates(problem, 3).nearest(missing, set()))


def test_a_table_with_a_byte_order_mark_and_genes_of_one_value(monkeypatch, tmp_path, capsys):
    lines = [f"x{a}y{b},{60 + int(a) + int(b)},{10 + int(a)}" for a in "012" for b in "01"]
    path = tmp_path / "marked.csv"
    path.write_text("\n".join(["arch,accuracy,flops", *lines]), encoding="utf-8-sig")
    more = ["--evaluations", "3,50", "--seeds", "1", "--samplers", "guided,nsga2,tpe"]
    assert run(monkeypatch, path, *more) == 0
    assert {found["50"] for found in json.loads(capsys.readouterr().out).values()} == {1.0}


@pytest.fixture
def surrogate(tmp_path):
    """A made-up surrogate of the small scale."""
    rng = np.random.default_rng(0)
    sizes = [80, 16, 16, 16, 16, 1]
    arrays = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes), start=1):
        arrays[f"fc{i}.weight"] = rng.normal(size=(outputs, inputs)).astype(np.float32)
        arrays[f"fc{i}.bias"] = rng.normal(size=outputs).astype(np.float32)
    arrays["fc5.bias"] += 60
    path = tmp_path / "small.npz"
    np.savez(path, **arrays)
    return path, arrays


def code_of(arch):
    """The surrogate's input for an architecture, slot by slot, from the data's own description."""
    code = [float(arch["embed"] == v) for v in (192, 384, 768)]
    code += [float(arch["layers"] == v) for v in (10, 11, 12)]
    for name, values in (("mlp_ratio", (2, 3, 4)), ("heads", (4, 8, 12))):
        for layer in range(12):
            code += [float(arch.get(f"layers.{layer}.{name}") == v) for v in values]
    return np.array([*code, float(arch["bias"] == "yes"), float(arch["bias"] == "no")])


def test_the_surrogate_reads_its_own_layout(surrogate):
    path, arrays = surrogate
    choices = gpt2_surrogate.choice_set("small")
    genomes = choices.sample(20, np.random.default_rng(1))
    found = gpt2_surrogate.Surrogate(path, choices)(genomes)
    for genome, value in zip(genomes, found, strict=True):
        x = code_of(choices.decode(genome))
        for i in range(1, 6):
            x = arrays[f"fc{i}.weight"] @ x + arrays[f"fc{i}.bias"]
            x = np.maximum(x, 0) if i < 5 else x
        assert value == pytest.approx(x[0], rel=1e-5)


@pytest.mark.parametrize(("scale", "inputs"), [("small", 80), ("medium", 152), ("large", 224)])
def test_every_scale_has_a_code_and_a_latency(scale, inputs):
    choices = gpt2_surrogate.choice_set(scale)
    assert choices.sizes.sum() == inputs
    latency = gpt2_surrogate.Latency(choices)
    ends = [latency(choices.extreme(largest))[0] for largest in (False, True)]
    assert 0 < 1.5 * ends[0] < ends[1]
    genomes = choices.sample(30, np.random.default_rng(0))
    genomes[:, 1] = 0  # the shallowest
    deeper = genomes.copy()
    deeper[:, 1] = 2
    assert (latency(deeper) > latency(choices.canonical(genomes))).all()


def test_latency_is_that_of_the_ops_of_a_decoder():
    choices = gpt2_surrogate.choice_set("small")
    genome = choices.sample(1, np.random.default_rng(3))
    arch = choices.decode(genome[0])
    rows, width = 1024, arch["embed"]
    ops = [Op("embedding", (rows, 50257, width)), Op("add", (rows, width))]
    for i in range(arch["layers"]):
        heads, hidden = arch[f"layers.{i}.heads"], arch[f"layers.{i}.mlp_ratio"] * width
        ops += [
            Op("layer_norm", (rows, width)),
            Op("linear", (rows, width, 3 * 64 * heads), "bf16"),
            Op("attention", (1, heads, rows, rows, 64)),
            Op("linear", (rows, 64 * heads, width), "bf16"),
            Op("add", (rows, width)),
            Op("layer_norm", (rows, width)),
            Op("linear", (rows, width, hidden), "bf16"),
            Op("gelu", (rows, hidden)),
            Op("linear", (rows, hidden, width), "bf16"),
            Op("add", (rows, width)),
        ]
    ops += [Op("layer_norm", (rows, width)), Op("linear", (rows, width, 50257), "bf16")]
    predictor = latency_predictor(registry.load("a100"))
    expected = predictor.predict(predictor.op_features(ops).sum(axis=0)[None, :])[0][0]
    assert gpt2_surrogate.Latency(choices)(genome)[0] == pytest.approx(expected, rel=1e-6)


def test_shares_of_the_surrogate_are_of_the_best_known(monkeypatch, surrogate, capsys):
    monkeypatch.setattr(gpt2_surrogate, "GENERATIONS", 3)
    given = ["search_tables.py", "--gpt2", str(surrogate[0]), "--evaluations", "5,60"]
    given += ["--seeds", "1", "--samplers", "random,pymoo-nsga2", "--limit", "random=5"]
    monkeypatch.setattr(sys, "argv", given)
    assert search_tables.main() == 0
    shares = json.loads(capsys.readouterr().out)
    assert list(shares["random"]) == ["5"]
    assert 0 < shares["pymoo-nsga2"]["5"] < shares["pymoo-nsga2"]["60"] <= 1


def test_no_surrogate_and_one_of_another_scale_are_refused(monkeypatch, surrogate, capsys):
    path, _ = surrogate
    for more, message in (
        (["--scale", "large"], "80 inputs"),
        (["--objective", "perplexity:min"], "a table's"),
    ):
        monkeypatch.setattr(sys, "argv", ["search_tables.py", "--gpt2", str(path), *more])
        assert search_tables.main() == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["search_tables.py", "--gpt2", str(path)])
    layers = surrogate[1]
    for spoil, message in (
        (lambda: path.write_bytes(b"PK no archive"), "no perplexity surrogate"),
        (lambda: np.save(path.open("wb"), np.ones(3)), "one array"),
        (lambda: np.savez(path, **{**layers, "fc2.bias": np.ones(3)}), "follow one another"),
        (lambda: np.savez(path, **{**layers, "fc1.weight": np.float32(1)}), "follow one another"),
        (lambda: np.savez(path, **{**layers, "fc3.bias": np.full(16, np.nan)}), "no finite"),
    ):
        spoil()
        assert search_tables.main() == 2
        assert message in capsys.readouterr().err


def test_nasbench201_is_joined_into_a_table(monkeypatch, tmp_path, capsys):
    cells = ["|none~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_3x3~1|none~2|"]
    cells.append(cells[0].replace("none", "skip_connect"))
    accuracy, latency = ["arch_idx,arch_str,acc"], ["arch_idx,pixel3"]
    for i, cell in enumerate(cells):
        accuracy.append(f"{i},{cell},{50 + i}")
        latency.insert(1, f"{i},{3 + i}")
    for name, lines in (("archs_accuracy_12epoch", accuracy), ("latency_ms", latency)):
        with gzip.open(tmp_path / f"{name}.csv.gz", "wt") as file:
            file.write("\n".join(lines))
    out = tmp_path / "joined.csv"
    given = ["nb201_table.py", "--data", str(tmp_path), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", given)
    assert nb201_table.main() == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["arch"], r["acc"], r["pixel3"]) for r in rows] == [
        ("021430", "50", "3"),
        ("121431", "51", "4"),
    ]
    with gzip.open(tmp_path / "latency_ms.csv.gz", "wt") as file:
        file.write("\n".join(latency[:-1]))
    assert nb201_table.main() == 2
    assert "no latency" in capsys.readouterr().err


def test_accel_nasbench_becomes_a_table_with_gaps(monkeypatch, tmp_path, capsys):
    data, out = tmp_path / "train_val.csv", tmp_path / "accel.csv"
    rng = np.random.default_rng(0)
    lines = ["id,block0_e,block0_se,block1_k,block1_l,val_top1,throughput_a100_mean"]
    for i, (e, se, k, layers) in enumerate(
        itertools.product((1, 4, 6), (True, False), (3, 5), (1, 2, 3))
    ):
        if rng.random() < 0.6:
            accuracy, speed = 50 + e + 2 * se + k + 3 * layers, 9_000 / (e + se + k * layers)
            lines.append(f"{i},{e},{se},{k},{layers},{accuracy},{speed}")
    data.write_text("\n".join(lines))
    monkeypatch.setattr(sys, "argv", ["a", "--data", str(data), "--out", str(out)])
    assert accel_table.main() == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(lines) - 1
    first = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert rows[0]["arch"][:2] == "0" + ("1" if first["block0_se"] == "True" else "0")
    assert rows[0]["val_top1"] == first["val_top1"]
    options = ["--table", str(out), "--arch", "arch", "--objective", "val_top1:max"]
    options += ["--objective", "throughput_a100_mean:max", "--reference", "val_top1=40"]
    options += ["--reference", "throughput_a100_mean=0.9*min", "--evaluations", "10,16"]
    options += ["--seeds", "2", "--samplers", "guided,nsga2"]
    monkeypatch.setattr(sys, "argv", ["search_tables.py", *options])
    assert search_tables.main() == 0
    shown = capsys.readouterr()
    assert "nsga2 may propose such, and the network most like it" in shown.err
    shares = json.loads(shown.out)
    assert 0.8 < shares["guided"]["10"] <= shares["guided"]["16"] <= 1
    data.write_text("id,val_top1\n1,60\n")
    monkeypatch.setattr(sys, "argv", ["a", "--data", str(data), "--out", str(out)])
    assert accel_table.main() == 2
    assert "no columns such as block0_e" in capsys.readouterr().err


def test_a_supernet_is_really_evaluated(monkeypatch, capsys):
    options = ["--supernet", "vit", "--evaluations", "2,4", "--seeds", "1", "--samplers", "guided"]
    monkeypatch.setattr(sys, "argv", ["search_tables.py", *options])
    assert search_tables.main() == 0
    shares = json.loads(capsys.readouterr().out)["guided"]
    # The first trial is the largest network, the second the smallest: its quality is the reference.
    assert 0 < shares["2"] <= shares["4"] == 1.0


def test_an_unknown_supernet_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["search_tables.py", "--supernet", "vitt"])
    assert search_tables.main() == 2
    assert "'vit'" in capsys.readouterr().err
