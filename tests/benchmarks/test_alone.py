import torch
from alone import fit_alone

import search_spaces
from nas.data import load_dataset
from nas.training.evaluate import quality
from nas.training.recipe import get_recipe


def test_a_plain_network_is_trained_by_the_recipe_on_its_own():
    space, data = search_spaces.get("vit", "digits"), load_dataset("digits")
    arch = space.smallest()
    recipe = get_recipe("sandwich", epochs=2, examples_per_epoch=512, batch_size=32)
    steps = []
    trained = fit_alone(space, arch, data, recipe, 3, progress=steps.append)
    network = trained.network.network
    assert (steps[-1].epoch, steps[-1].step, trained.ended_by) == (2, 16, "epochs")
    assert len(trained.history) == 2
    assert trained.history[-1]["quality_alone"] == quality(
        trained.network, arch, data.validation, data.metric
    )
    assert trained.history[-1]["quality_alone"] > trained.history[0]["quality_alone"]
    plain = space.build(arch).state_dict()
    assert {n: w.shape for n, w in network.state_dict().items()} == {
        n: w.shape for n, w in plain.items()
    }
    again = fit_alone(space, arch, data, recipe, 3).network.network.state_dict()
    torch.testing.assert_close(again, network.state_dict(), rtol=0, atol=0)
