"""Two processes that share a batch end in the weights of one that has it whole."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from nas.data import Dataset
from nas.training.loop import fit
from nas.training.recipes.sandwich import Sandwich
from search_spaces.space import SearchSpace

SCRIPT = """
import sys
from pathlib import Path
import torch.distributed as dist
from safetensors.torch import save_file
import search_spaces
from nas.data import load_dataset
from nas.training.distributed import processes, this_device
from nas.training.loop import fit
from nas.training.recipes.sandwich import Sandwich

recipe = Sandwich(epochs=2, examples_per_epoch=64, batch_size=16, optimizer="sgd")
told = []
with processes(this_device()) as world:
    trained = fit(
        search_spaces.get("vit", "digits"), load_dataset("digits"), recipe, 3, progress=told.append
    )
    assert bool(told) == world.first
    state = {k: v.contiguous() for k, v in trained.network.network.state_dict().items()}
    save_file(state, Path(sys.argv[1]) / f"{world.rank}.safetensors")
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_processes_end_in_the_weights_of_one(
    space: SearchSpace, data: Dataset, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[3]
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--master-addr", "127.0.0.1", "--master-port", str(_free_port())),
            *(str(script), str(tmp_path)),
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=180,
        capture_output=True,
    )
    recipe = Sandwich(epochs=2, examples_per_epoch=64, batch_size=16, optimizer="sgd")
    alone = fit(space, data, recipe, 3).network.network.state_dict()
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    for name, weight in alone.items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        # Sums of gradients round otherwise. (Adam's first steps would make much of that.)
        torch.testing.assert_close(first[name], weight, rtol=1e-5, atol=1e-5)
