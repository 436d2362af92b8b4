"""A supernet that starts from foreign weights computes what they computed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

import search_spaces
from nas.errors import CheckpointError, UsageError
from nas.training.init import Initial, initial_weights, state_digest
from search_spaces.space import SearchSpace
from search_spaces.vit import PRESETS, VitSpace


@pytest.fixture(scope="module")
def reference() -> ViTForImageClassification:
    """A transformers ViT of the sizes of the largest network of `vit`, `digits`."""
    torch.manual_seed(3)
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=256,
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
        layer_norm_eps=1e-6,
    )
    model = ViTForImageClassification(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def folder(reference: ViTForImageClassification, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vit")
    reference.save_pretrained(path)
    return path


def outputs(space: SearchSpace, initial: Initial, images: Tensor) -> Tensor:
    network = space.supernet(7)
    network.network.load_state_dict(initial.state)
    with torch.no_grad():
        out: Tensor = network.eval()(images)
    return out


def test_the_largest_subnet_is_the_reference(
    space: SearchSpace, reference: ViTForImageClassification, folder: Path
) -> None:
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    initial = initial_weights(space, f"hf:{folder}")
    with torch.no_grad():
        expected = reference(images).logits
    assert torch.allclose(outputs(space, initial, images), expected, atol=1e-5)
    assert set(initial.kept) == set(initial.state)
    assert initial.fresh == {}
    assert initial.kept_parameters == initial.parameters
    assert "parameters kept (all)" in initial.lines()[0]


@pytest.mark.parametrize(
    ("space", "changes", "says"),
    [
        ("vit", {"num_attention_heads": 2}, "num_attention_heads 2, vit (digits) computes with 4"),
        ("vit", {"hidden_act": "relu"}, "hidden_act relu"),
        ("matlm", {"rope_parameters": {"rope_theta": 5e5}}, "rope_parameters.rope_theta 500000.0"),
        ("matlm", {"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling.rope_type llama3"),
        ("matlm", {"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ("lighthubert", {"do_stable_layer_norm": True}, "do_stable_layer_norm True"),
        ("lighthubert", {"conv_stride": [5]}, "conv_stride [5]"),
    ],
)
def test_weights_of_a_network_that_computes_something_else_are_refused(
    tmp_path: Path, space: str, changes: dict[str, object], says: str
) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(changes))
    with pytest.raises(UsageError) as caught:
        initial_weights(search_spaces.get(space), f"hf:{tmp_path}")
    assert says in str(caught.value)


def test_every_layout_of_a_folder_gives_the_same_state(
    space: SearchSpace, reference: ViTForImageClassification, folder: Path, tmp_path: Path
) -> None:
    whole = initial_weights(space, f"hf:{folder}").digest
    reference.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert initial_weights(space, f"hf:{tmp_path / 'shards'}").digest == whole
    (tmp_path / "bin").mkdir()
    state = load_file(folder / "model.safetensors")
    torch.save(state, tmp_path / "bin" / "pytorch_model.bin")
    assert initial_weights(space, f"hf:{tmp_path / 'bin'}").digest == whole
    assert initial_weights(space, f"hf:{folder / 'model.safetensors'}").digest == whole


def test_another_classifier_is_left_as_initialised_and_said_so(
    folder: Path,
) -> None:
    space = search_spaces.get("vit", "digits", n_classes=3)
    initial = initial_weights(space, f"hf:{folder}", seed=1)
    assert initial.fresh == {
        "head.weight": "10x64 given, 3x64 needed",
        "head.bias": "10 given, 3 needed",
    }
    assert torch.equal(
        initial.state["head.weight"], space.supernet(1).network.state_dict()["head.weight"]
    )
    assert len(initial.kept) == len(initial.state) - 2
    first, second, third = initial.lines()
    assert "99." in first
    assert second == (
        "as initialised: head.weight (10x64 given, 3x64 needed), head.bias (10 given, 3 needed)"
    )
    assert third.startswith("sorted by importance: layers.0.attention heads, ")


class Scaled(VitSpace):
    """Reads its own kind: a name-for-name state; sorts nothing but says so."""

    references = ("plain", "hf")

    def from_reference(self, kind: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if kind == "hf":
            return super().from_reference(kind, state)
        return {name.removeprefix("net."): state[name] for name in state}

    def sort(self, network: nn.Module) -> tuple[str, ...]:
        with torch.no_grad():
            head = network.get_submodule("head")
            assert isinstance(head, nn.Linear)
            head.bias.copy_(head.bias.sort(descending=True).values)
        return ("head",)


@pytest.fixture(scope="module")
def own() -> Scaled:
    return Scaled("digits", PRESETS["digits"])


def saved(own: Scaled, path: Path, **changes: Tensor | None) -> str:
    """A state of the space itself under `net.`, some entries changed or left out."""
    state: dict[str, Tensor | None] = dict(own.supernet(5).network.state_dict())
    state |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({f"net.{k}": v.clone() for k, v in state.items() if v is not None}, path)
    return f"plain:{path}"


def test_what_is_sorted_missing_and_unused_is_said(own: Scaled, tmp_path: Path) -> None:
    bias = torch.arange(10.0)
    source = saved(
        own, tmp_path / "a.safetensors", head__bias=bias, norm__weight=None, layers__9__x=bias
    )
    initial = initial_weights(own, source)
    assert initial.sorted == ("head",)
    assert torch.equal(initial.state["head.bias"], bias.flip(0))
    assert initial.fresh == {"norm.weight": "not given"}
    assert initial.unused == ("layers.9.x",)
    assert initial.lines()[1:] == [
        "as initialised: norm.weight (not given)",
        "no place for: layers.9.x",
        "sorted by importance: head",
    ]


def test_half_precision_is_read_as_full(own: Scaled, tmp_path: Path) -> None:
    weight = torch.randn(10, 64).to(torch.bfloat16)
    initial = initial_weights(own, saved(own, tmp_path / "a.safetensors", head__weight=weight))
    assert initial.state["head.weight"].dtype == torch.float32
    assert torch.equal(initial.state["head.weight"], weight.float())


def test_the_digest_is_of_the_whole_state(own: Scaled, tmp_path: Path) -> None:
    a = saved(own, tmp_path / "a.safetensors")
    b = saved(own, tmp_path / "b.safetensors", head__bias=torch.ones(10))
    assert initial_weights(own, a).digest == initial_weights(own, a).digest
    assert initial_weights(own, a).digest != initial_weights(own, b).digest
    state = {"x": torch.zeros(2, 3), "n": torch.tensor(4)}
    digests = {
        state_digest(state),
        state_digest({**state, "x": torch.zeros(3, 2)}),
        state_digest({**state, "n": torch.tensor(5)}),
        state_digest({**state, "x": torch.zeros(2, 3, dtype=torch.float64)}),
    }
    assert len(digests) == 4
    assert state_digest(dict(reversed(state.items()))) in digests


def test_too_little_that_fits_is_another_network(tmp_path: Path) -> None:
    small = Scaled("digits", PRESETS["digits"])
    source = saved(small, tmp_path / "a.safetensors")
    tiny = Scaled("tiny", PRESETS["tiny"])
    with pytest.raises(UsageError, match=r"only 0\.0% of the parameters of vit \(tiny\)") as error:
        initial_weights(tiny, source)
    assert "given" in str(error.value)


def test_numbers_that_are_not_finite_are_refused(own: Scaled, tmp_path: Path) -> None:
    source = saved(own, tmp_path / "a.safetensors", head__bias=torch.full((10,), torch.nan))
    with pytest.raises(CheckpointError, match=r"head\.bias holds numbers that are not finite"):
        initial_weights(own, source)


@pytest.mark.parametrize("source", ["plain", "plain:", ":x", ""])
def test_a_source_without_kind_and_place_is_refused(own: Scaled, source: str) -> None:
    with pytest.raises(UsageError):
        initial_weights(own, source)


def test_an_unread_kind_names_those_that_are(own: Scaled) -> None:
    with pytest.raises(UsageError, match="vit reads no ofa weights") as error:
        initial_weights(own, "ofa:/nowhere")
    assert error.value.hint == "Kinds that it reads: plain, hf."


def test_weights_of_another_family_are_no_traceback(own: Scaled, tmp_path: Path) -> None:
    save_file({"bert.weight": torch.zeros(3)}, tmp_path / "bert.safetensors")
    with pytest.raises((UsageError, CheckpointError)):
        initial_weights(own, f"hf:{tmp_path / 'bert.safetensors'}")
