import hf_graph
import pytest

from hw_profiles.errors import ProfileError

GPT = {"model_type": "gpt2", "n_layer": 3, "n_embd": 64, "n_head": 4, "vocab_size": 100}
BERT = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 200,
    "vocab_size": 100,
}
OPT = {"activation_function": "relu", "ffn_dim": 200} | BERT | {"model_type": "opt"}
SWITCH = {
    "model_type": "switch_transformers",
    "num_layers": 4,
    "d_model": 64,
    "num_heads": 4,
    "d_kv": 16,
    "d_ff": 128,
    "vocab_size": 100,
    "num_experts": 3,
    "expert_capacity": 8,
}


def flops(kernels):
    total = 0.0
    for kernel in kernels:
        if kernel.kind in ("linear", "bmm"):
            batch, m, k, n = kernel.shape
            total += 2 * batch * m * k * n
    return total


def graph(config, batch=2, tokens=10, train=False, **options):
    return hf_graph.build(hf_graph.read_sizes("x", config), batch, tokens, train, **options)


def test_gpt_forward_has_the_flops_of_its_weights_and_scores():
    rows, layer = 20, 12 * 64 * 64
    scores = 2 * 2 * (2 * 4) * 10 * 10 * 16
    assert flops(graph(GPT).forward) == 2 * rows * (3 * layer + 64 * 100) + 3 * scores


@pytest.mark.parametrize("config", [GPT, BERT, OPT, SWITCH])
def test_backward_has_twice_the_flops_of_forward(config):
    made = graph(config, train=True)
    assert flops(made.backward) == pytest.approx(2 * flops(made.forward))
    assert graph(config).backward == []


@pytest.mark.parametrize("config", [GPT, BERT, OPT])
def test_fusing_leaves_the_products_and_takes_element_wise_kernels(config):
    plain, fused = graph(config), graph(config, fused=True)
    assert flops(fused.forward) == flops(plain.forward)
    moved = [sum(k.shape[0] for k in g.forward if k.kind == "stream") for g in (plain, fused)]
    assert moved[1] < 0.8 * moved[0]


def test_shards_divide_the_layers_but_not_the_vocabulary():
    whole, half = flops(graph(GPT).forward), flops(graph(GPT, shards=2).forward)
    head = 2 * 20 * 64 * 100
    assert half - head == pytest.approx((whole - head) / 2)


def test_every_second_switch_layer_runs_all_experts_at_capacity():
    products = [k.shape for k in graph(SWITCH).forward if k.kind == "linear"]
    assert products.count((1, 2 * 8, 64, 128)) == 3 * 2 * 2  # experts, layers, two stacks
    assert products.count((1, 20, 64, 128)) == 2 * 2
    assert products.count((1, 20, 64, 3)) == 2 * 2


def test_dropout_is_of_training_only_and_none_at_zero():
    quiet = GPT | {"attn_pdrop": 0.0, "resid_pdrop": 0.0}
    made = [len(graph(c, train=t).forward) for c, t in ((quiet, True), (GPT, True), (GPT, False))]
    assert made[0] == made[2] < made[1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "is no object"),
        ({"model_type": "llama"}, "unknown model_type 'llama'"),
        ({"model_type": "gpt2", "n_layer": 2}, "no n_embd"),
        (GPT | {"n_layer": "many"}, "no positive number"),
        (GPT | {"n_head": 0}, "no positive number"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(config, message):
    with pytest.raises(ProfileError, match=message):
        hf_graph.read_sizes("mine", config)
