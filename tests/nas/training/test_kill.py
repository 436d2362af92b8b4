"""A training that is killed continues in another process and ends where it would have ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from nas.data import Dataset
from nas.training import find_supernet, train_supernet
from nas.training.recipes.sandwich import Sandwich
from search_spaces.space import SearchSpace

SCRIPT = """
import sys
from pathlib import Path
import search_spaces
from nas.data import load_dataset
from nas.training import train_supernet
from nas.training.recipes.sandwich import Sandwich
recipe = Sandwich(epochs=int(sys.argv[2]), examples_per_epoch=48, batch_size=16, random_subnets=1)
space = search_spaces.get("vit", "digits")
train_supernet(space, load_dataset("digits"), recipe, 0, folder=Path(sys.argv[1]))
"""


def test_killed_training_leaves_a_checkpoint_that_continues(
    space: SearchSpace, data: Dataset, tmp_path: Path
) -> None:
    epochs = 40
    recipe = Sandwich(epochs=epochs, examples_per_epoch=48, batch_size=16, random_subnets=1)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(epochs)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[3])
    try:
        give_up = time.monotonic() + 60
        while not list(tmp_path.glob("*.unfinished")):
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert find_supernet(space, data, recipe, 0, folders=(tmp_path,)) is None
    epochs_seen: set[int] = set()
    kept = train_supernet(
        space,
        data,
        recipe,
        0,
        time_limit_s=2,
        progress=lambda now: epochs_seen.add(now.epoch),
        folder=tmp_path,
    )
    assert min(epochs_seen) > 1
    assert kept.config["history"][0]["epoch"] == 1
    assert not list(tmp_path.glob("*.unfinished"))
