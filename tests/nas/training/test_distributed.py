"""Two processes that share a batch end in the weights of one that has it whole."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import search_spaces
from nas.data import Dataset
from nas.errors import UsageError
from nas.training.distributed import processes
from nas.training.loop import fit
from nas.training.recipe_text import parse_recipe

SCRIPT = """
import sys
from pathlib import Path
import torch.distributed as dist
from safetensors.torch import save_file
import search_spaces
from nas.data import load_dataset
from nas.errors import UsageError
from nas.training.distributed import processes, this_device
from nas.training.loop import fit
from nas.training.recipe_text import parse_recipe

data = load_dataset("digits")
with processes(this_device()) as world:
    for at, text in enumerate(sys.argv[2:]):
        told = []
        name, recipe = text.split(" ")
        space = search_spaces.get(name, "digits")
        trained = fit(space, data, parse_recipe(recipe), 3, progress=told.append)
        assert bool(told) == world.first
        state = {k: v.contiguous() for k, v in trained.network.network.state_dict().items()}
        save_file(state, Path(sys.argv[1]) / f"{at}.{world.rank}.safetensors")
    try:
        fit(search_spaces.get("vit", "digits"), data, parse_recipe("sandwich:batch_size=1"), 3)
    except UsageError as error:
        assert "Set batch_size of sandwich to 2 at least" in error.hint
    else:
        raise AssertionError("a process without examples")
"""
SIZES = "epochs=1,examples_per_epoch=128,batch_size=16,optimizer=sgd,learning_rate=0.05"
# On ofa the order of a sum's terms alone makes all the difference after eight steps (one process
# with other instructions of the CPU is as far off), so those are of two.
FEW = SIZES.replace("128", "32")
TRAININGS = [  # ofa and vit-resnas have batch norms, whose statistics are of all processes
    f"vit sandwich:{SIZES},random_subnets=1,accumulate=2",
    f"vit progressive-shrinking:{SIZES}",
    f"vit matformer:{SIZES},variant=summed",
    f"vit multi-architecture:{SIZES}",
    f"vit two-stage-distillation:{SIZES},ema=0.9",
    f"ofa sandwich:{FEW},random_subnets=1,accumulate=2",
    f"ofa progressive-shrinking:{FEW}",
    f"vit-resnas multi-architecture:{FEW},ema=0.9",
]


def test_each_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    gpu = torch.device("cuda", 0)
    with pytest.raises(UsageError, match="2 processes for 1 GPU:") as caught, processes(gpu):
        raise AssertionError("connected")
    assert "--nproc-per-node 1" in caught.value.hint


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_processes_end_in_the_weights_of_one(data: Dataset, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[3]
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--master-addr", "127.0.0.1", "--master-port", str(_free_port())),
            *(str(script), str(tmp_path), *TRAININGS),
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=180,
        capture_output=True,
    )
    for at, text in enumerate(TRAININGS):
        name, recipe = text.split(" ")
        space = search_spaces.get(name, "digits")
        alone = fit(space, data, parse_recipe(recipe), 3).network.network.state_dict()
        first, second = (load_file(tmp_path / f"{at}.{rank}.safetensors") for rank in (0, 1))
        for name, weight in alone.items():
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
            # Sums of gradients round otherwise. (Adam's first steps would make much of that.)
            torch.testing.assert_close(first[name], weight, rtol=1e-5, atol=1e-5)
