"""Do subnets with inherited weights rank as the same subnets trained alone do?

    python benchmarks/inherited_or_alone.py --space ofa

For random subnets of a space: their quality on validation with the supernet's weights (the one
that ships or is in the cache, or a new one by the space's recipe), and that of the plain network
trained alone by the same recipe's optimizer, rate and number of examples; with `--alone-seeds
0,1,2` the mean of so many trainings, for one is off by chance. Prints one JSON object:
Kendall's tau of the two, the mean gap (alone minus inherited; percent points, or bits per byte
saved), and the rows. Goals: tau 0.65 (BossNAS); gap at most 1 point or 0.05 bits.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
from alone import fit_alone
from scipy.stats import kendalltau

from nas.equipment import space_and_data
from nas.evaluation import calibration_batches
from nas.training.evaluate import quality
from nas.training.obtain import obtain_supernet
from nas.training.recipe_text import recipe_for, recipe_text


def main() -> None:
    """Train and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--space", required=True)
    parser.add_argument("--recipe", help="default the space's own")
    parser.add_argument("--subnets", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of subnets")
    parser.add_argument("--alone-seeds", default="0", help="of the trainings alone, such as 0,1,2")
    asked = parser.parse_args()
    space, data = space_and_data(asked.space)
    recipe = recipe_for(space, asked.recipe)
    network = obtain_supernet(space, data, recipe=recipe).network
    calibration = calibration_batches(data) if network.calibrates else []
    rng = np.random.default_rng(asked.seed)
    rows: list[dict[str, Any]] = []
    for genome in np.unique(space.choices.sample(asked.subnets, rng), axis=0):
        arch = space.choices.decode(genome)
        inherited = quality(network, arch, data.validation, data.metric, calibration)
        alone = []
        for seed in map(int, asked.alone_seeds.split(",")):
            trained = fit_alone(space, arch, data, recipe, seed)
            alone.append(quality(trained.network, arch, data.validation, data.metric))
        rows.append({"network": space.describe(arch), "inherited": inherited, "alone": alone})
        print(rows[-1], file=sys.stderr, flush=True)
    n_train = len(data.train)
    pairs = np.array([(row["inherited"], np.mean(row["alone"])) for row in rows])
    sign, unit = (1, 100) if data.metric.larger_is_better else (-1, 1)
    gaps = unit * sign * (pairs[:, 1] - pairs[:, 0])
    print(
        json.dumps(
            {
                "space": space.name,
                "recipe": recipe_text(recipe),
                "metric": data.metric.name,
                "examples_seen": recipe.epochs * min(recipe.examples_per_epoch or n_train, n_train),
                "kendall_tau": round(float(kendalltau(*pairs.T).statistic), 3),
                "mean_gap": round(float(gaps.mean()), 3),
                "worst_gap": round(float(gaps.max()), 3),
                "rows": rows,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
