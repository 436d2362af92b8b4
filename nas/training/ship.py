"""Train the supernet that ships with the package: `python -m nas.training.ship`.

All epochs of the space's default recipe on the default data of its default preset, seed 0; some
twenty minutes on one core. Stopped at any moment, the same command continues. The result replaces
what shipped before for this space and data, and must be committed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys

from nas.equipment import space_and_data
from nas.training.loop import Progress
from nas.training.obtain import train_supernet
from nas.training.recipe_text import recipe_for
from nas.training.store import SHIPPED, user_store


def main(arguments: list[str] | None = None) -> None:
    """Train and put the result into the package's folder of supernets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--space", default="vit")
    parser.add_argument("--preset", help="default the space's first")
    asked = parser.parse_args(arguments)
    space, data = space_and_data(asked.space, asked.preset)

    def show(progress: Progress) -> None:
        if progress.step % 64 == 0:
            print(progress, file=sys.stderr, flush=True)

    trained = train_supernet(
        space, data, recipe_for(space, None), 0, progress=show, folder=user_store()
    )
    for before in SHIPPED.glob("*/config.json"):
        config = json.loads(before.read_bytes())
        if (config["space"], config["data"]) == (space.name, data.name):
            shutil.rmtree(before.parent)
    shutil.copytree(trained.path, SHIPPED / trained.path.name)
    print(SHIPPED / trained.path.name)


if __name__ == "__main__":
    main()
