"""The kernels that a Hugging Face transformer launches in eager PyTorch, from its configuration.

One forward pass, and for training one backward pass that adds to gradients already there: what
`transformers` launches for BERT, GPT-2, OPT and Switch Transformers with eager attention. Only the
sizes in a configuration count.

Bytes of element-wise kernels are counted per element of the output, 4 for every fp32 tensor read
or written. A kernel of a product over [m, k] and [k, n] has the sizes (batch, m, k, n).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from hw_profiles.errors import ProfileError

FP32 = 4.0
UNARY, BINARY = 2 * FP32, 3 * FP32
DROPOUT = 2 * FP32 + 1  # its mask is of bytes
GELU_TANH = 8  # kernels of x/2 (1 + tanh(c (x + a x^3))) written out
GELU_TANH_BYTES, GELU_TANH_BACKWARD_BYTES = 6 * UNARY + 2 * BINARY, 112.0
GELU_TANH_BACKWARD = 11


@dataclass(frozen=True, slots=True)
class Kernel:
    """One or more equal launches.

    Attributes:
        kind: `linear`, `bmm`, `softmax`, `layer_norm`, `stream`, or `wait`: the host reads a
            result and issues nothing until the GPU is done.
        shape: (batch, m, k, n) of a product, (rows, width) of a row-wise op, (bytes,) of a stream.
        launches: how many kernels share that shape, or together move those bytes.
        factor: time over that of the plain kind (a backward pass reads more than a forward one).
    """

    kind: str
    shape: tuple[float, ...]
    launches: int = 1
    factor: float = 1.0


WAIT = Kernel("wait", ())


@dataclass
class Graph:
    """Kernels in the order of their launches; the backward pass in the order of the forward one."""

    train: bool
    fused: bool = False
    forward: list[Kernel] = field(default_factory=list)
    backward: list[Kernel] = field(default_factory=list)

    def stream(
        self,
        elements: float,
        bytes_each: float,
        back_bytes: float = 0.0,
        launches: int = 1,
        back_launches: int = 1,
    ) -> None:
        """Element-wise kernels; a compiler would merge them with what is around them."""
        if bytes_each:
            self.forward.append(Kernel("stream", (elements * bytes_each,), launches))
        if self.train and back_bytes:
            self.backward.append(Kernel("stream", (elements * back_bytes,), back_launches))

    def elementwise(
        self,
        elements: float,
        bytes_each: float,
        back_bytes: float = 0.0,
        launches: int = 1,
        back_launches: int = 1,
    ) -> None:
        """Kernels that vanish where a compiler fuses them into a neighbour."""
        if not self.fused:
            self.stream(elements, bytes_each, back_bytes, launches, back_launches)

    def linear(self, rows: float, inputs: float, outputs: float, bias: bool = True) -> None:
        """y = x W + b; backward: gradients of x, W and b, the latter two added to what is there."""
        self.forward.append(Kernel("linear", (1, rows, inputs, outputs)))
        if self.train:
            self.backward.append(Kernel("linear", (1, rows, outputs, inputs)))
            self.backward.append(Kernel("linear", (1, inputs, rows, outputs)))
            if bias:
                self.backward.append(Kernel("stream", (FP32 * rows * outputs,), 2))
            self.backward.append(Kernel("stream", (BINARY * inputs * outputs,)))

    def bmm(self, batch: float, m: float, k: float, n: float) -> None:
        self.forward.append(Kernel("bmm", (batch, m, k, n)))
        if self.train:
            self.backward.append(Kernel("bmm", (batch, m, n, k)))
            self.backward.append(Kernel("bmm", (batch, k, m, n)))

    def softmax(self, rows: float, width: float) -> None:
        self.forward.append(Kernel("softmax", (rows, width)))
        if self.train:  # reads the gradient and the output, writes
            self.backward.append(Kernel("softmax", (rows, width), factor=1.5))

    def layer_norm(self, rows: float, width: float) -> None:
        self.forward.append(Kernel("layer_norm", (rows, width)))
        if self.train:  # gradients of the input, then of scale and shift
            self.backward.append(Kernel("layer_norm", (rows, width), launches=2, factor=1.25))

    def dropout(self, elements: float, probability: float) -> None:
        if self.train and probability > 0:
            self.stream(elements, DROPOUT, DROPOUT)

    def residual(self, elements: float) -> None:
        """x + f(x): the gradients of the two uses of x are added."""
        self.elementwise(elements, BINARY, BINARY)

    def copies(self, elements: float, launches: int, back: bool = True) -> None:
        """Transposed tensors made contiguous."""
        self.stream(
            elements * launches, UNARY, UNARY * back, launches, max(1, launches // 2) if back else 0
        )

    def activation(self, elements: float, name: str) -> None:
        if self.fused:
            self.stream(elements, UNARY)
        elif name in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"):
            self.stream(
                elements,
                GELU_TANH_BYTES,
                GELU_TANH_BACKWARD_BYTES,
                GELU_TANH,
                GELU_TANH_BACKWARD,
            )
        else:
            self.stream(elements, UNARY, BINARY)

    def wait(self, back: bool = False) -> None:
        """The host needs a number from the GPU (how many tokens an expert gets)."""
        self.forward.append(WAIT)
        if self.train and back:
            self.backward.append(WAIT)

    def repeat(self, part: Graph, times: int) -> None:
        self.forward += part.forward * times
        self.backward += part.backward * times

    def part(self) -> Graph:
        return Graph(self.train, self.fused)


@dataclass(frozen=True, slots=True)
class Sizes:
    """A configuration in one vocabulary. `shards` splits heads and hidden units among devices."""

    family: str
    layers: int
    embed: int
    heads: int
    head_dim: int
    hidden: int
    vocabulary: int
    activation: str
    dropout: float
    attention_dropout: float
    shards: int = 1
    decoder_layers: int = 0
    experts: int = 0
    expert_capacity: int = 0
    sparse_step: int = 0
    decoder_sparse_step: int = 0


def read_sizes(name: str, config: object) -> Sizes:
    """The sizes of a configuration as `transformers` writes it.

    Raises:
        ProfileError: if its family is unknown here or a size is missing.
    """
    if not isinstance(config, dict):
        raise ProfileError(f"the configuration {name!r} is no object.", "See transformers' own.")
    words = [str(config.get("model_type", "")), *map(str, config.get("architectures") or ())]
    text = " ".join(words).lower()
    family = next((f for f in ("switch", "bert", "gpt", "opt") if f in text), "")
    try:
        return _READERS[family](config)
    except KeyError as missing:
        what = f"no {missing.args[0]}" if family else f"unknown model_type {words[0]!r}"
    except (TypeError, ValueError):
        what = "a size that is no positive number"
    raise ProfileError(
        f"the configuration {name!r} cannot be used: {what}.",
        "Known are bert, gpt2, opt and switch_transformers, with the fields of transformers.",
    )


def _size(config: dict[str, Any], key: str, default: int | None = None) -> int:
    """A positive whole number of a configuration; `default` where it is missing or null."""
    value: Any = config[key] if default is None else config.get(key)
    if value is None:
        value = default
    size = int(value)
    if size < 1:
        raise ValueError(key)
    return size


#: What a family calls its layers, widths, heads and hidden units; its activation; its dropouts.
_NAMES = {
    "bert": (
        ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"),
        ("hidden_act", "gelu"),
        (("hidden_dropout_prob", 0.1), ("attention_probs_dropout_prob", 0.1)),
    ),
    "gpt": (
        ("n_layer", "n_embd", "n_head", "n_inner"),
        ("activation_function", "gelu_new"),
        (("resid_pdrop", 0.1), ("attn_pdrop", 0.1)),
    ),
    "opt": (
        ("num_hidden_layers", "hidden_size", "num_attention_heads", "ffn_dim"),
        ("activation_function", "relu"),
        (("dropout", 0.1), ("attention_dropout", 0.0)),
    ),
}


def _plain(family: str, config: dict[str, Any]) -> Sizes:
    """A stack of equal layers, whatever its family calls them."""
    (layers, embed, heads, hidden), activation, dropouts = _NAMES[family]
    depth, width, count = _size(config, layers), _size(config, embed), _size(config, heads)
    dropout, attention_dropout = (float(config.get(*name)) for name in dropouts)
    return Sizes(
        family=family,
        layers=depth,
        embed=width,
        heads=count,
        head_dim=width // count,
        hidden=_size(config, hidden, 4 * width),
        vocabulary=_size(config, "vocab_size"),
        activation=str(config.get(*activation)),
        dropout=dropout,
        attention_dropout=attention_dropout,
    )


def _switch(config: dict[str, Any]) -> Sizes:
    layers = _size(config, "num_layers")
    dropout = float(config.get("dropout_rate", 0.1))
    return Sizes(
        family="switch",
        layers=layers,
        embed=_size(config, "d_model"),
        heads=_size(config, "num_heads"),
        head_dim=_size(config, "d_kv"),
        hidden=_size(config, "d_ff"),
        vocabulary=_size(config, "vocab_size"),
        activation=str(config.get("dense_act_fn", "relu")),
        dropout=dropout,
        attention_dropout=dropout,
        decoder_layers=_size(config, "num_decoder_layers", layers),
        experts=_size(config, "num_experts"),
        expert_capacity=_size(config, "expert_capacity"),
        sparse_step=_size(config, "encoder_sparse_step", 2),
        decoder_sparse_step=_size(config, "decoder_sparse_step", 2),
    )


_READERS = {family: partial(_plain, family) for family in _NAMES} | {"switch": _switch}


def build(
    sizes: Sizes, batch: int, tokens: int, train: bool, fused: bool = False, shards: int = 1
) -> Graph:
    """The kernels of one pass over (batch, tokens) ids; with `train`, of its gradients too.

    Args:
        fused: element-wise ops merged, as a compiler does (`torch.compile`).
        shards: devices among which each layer's heads and hidden units are divided.
    """
    sizes = replace(sizes, shards=shards)
    graph = Graph(train, fused)
    return _BUILDERS[sizes.family](graph, sizes, batch, tokens)


def _attention(graph: Graph, sizes: Sizes, batch: int, queries: int, keys: int, style: str) -> None:
    """Scores, softmax, weighted sum; `style` is the family's way of scaling and masking."""
    heads = batch * sizes.heads / sizes.shards
    width = sizes.heads * sizes.head_dim / sizes.shards
    scores = heads * queries * keys
    gathered = batch > 1 or style == "opt"  # with one sequence a head's rows are a plain stride
    if gathered:
        graph.copies(batch * (queries + 2 * keys) / 3 * width, 3)
    graph.bmm(heads, queries, sizes.head_dim, keys)
    if style == "gpt":  # divide by a scalar, then where(mask, scores, lowest)
        graph.elementwise(scores, UNARY, UNARY)
        graph.elementwise(scores, UNARY + 0.25, UNARY + 0.25)
    elif style == "bert":  # divide, then add the mask
        graph.elementwise(scores, 2 * UNARY, UNARY, launches=2)
    elif style == "opt":  # add the mask, then the larger of score and lowest
        graph.elementwise(scores, BINARY + UNARY, 36.0, launches=2, back_launches=5)
    else:  # switch: add position bias and mask
        graph.elementwise(scores, BINARY, UNARY)
    graph.softmax(heads * queries, keys)
    graph.dropout(scores, sizes.attention_dropout)
    graph.bmm(heads, queries, keys, sizes.head_dim)
    graph.copies(batch * queries * width, 1)


def _head(graph: Graph, sizes: Sizes, rows: float, bias: bool = False) -> None:
    """Logits over the vocabulary; backward: cross entropy's gradient first, tied weights last."""
    graph.linear(rows, sizes.embed, sizes.vocabulary, bias)
    logits, table = rows * sizes.vocabulary, sizes.vocabulary * sizes.embed
    if graph.train:
        graph.backward.append(Kernel("stream", (logits * 6 * FP32,), 3))
        graph.backward.append(Kernel("stream", (table * (FP32 + BINARY),), 3))


def _embedding(graph: Graph, rows: float, embed: float, tables: int, dropout: float) -> None:
    graph.stream(rows * embed, UNARY * tables, UNARY * tables, tables, tables)
    if tables > 1:
        graph.elementwise(rows * embed, BINARY * (tables - 1), launches=tables - 1)
    graph.dropout(rows * embed, dropout)


def _gpt_graph(graph: Graph, sizes: Sizes, batch: int, tokens: int) -> Graph:
    rows, embed, shards = batch * tokens, sizes.embed, sizes.shards
    hidden = sizes.hidden / shards
    layer = graph.part()
    layer.layer_norm(rows, embed)
    layer.linear(rows, embed, 3 * embed / shards)
    if graph.train:  # the gradients of q, k and v joined
        layer.backward.append(Kernel("stream", (UNARY * 3 * rows * embed / shards,)))
    _attention(layer, sizes, batch, tokens, tokens, "gpt")
    layer.linear(rows, embed / shards, embed)
    layer.dropout(rows * embed, sizes.dropout)
    layer.residual(rows * embed)
    layer.layer_norm(rows, embed)
    layer.linear(rows, embed, hidden)
    layer.activation(rows * hidden, sizes.activation)
    layer.linear(rows, hidden, embed)
    layer.dropout(rows * embed, sizes.dropout)
    layer.residual(rows * embed)
    _embedding(graph, rows, embed, 2, sizes.dropout)
    graph.repeat(layer, sizes.layers)
    graph.layer_norm(rows, embed)
    _head(graph, sizes, rows)
    return graph


def _bert_graph(graph: Graph, sizes: Sizes, batch: int, tokens: int) -> Graph:
    rows, embed, shards = batch * tokens, sizes.embed, sizes.shards
    hidden = sizes.hidden / shards
    layer = graph.part()
    for _ in range(3):
        layer.linear(rows, embed, embed / shards)
    if graph.train:  # the gradients of the three uses added
        layer.backward.append(Kernel("stream", (2 * BINARY * rows * embed,), 2))
    _attention(layer, sizes, batch, tokens, tokens, "bert")
    layer.linear(rows, embed / shards, embed)
    layer.dropout(rows * embed, sizes.dropout)
    layer.residual(rows * embed)
    layer.layer_norm(rows, embed)
    layer.linear(rows, embed, hidden)
    layer.activation(rows * hidden, sizes.activation)
    layer.linear(rows, hidden, embed)
    layer.dropout(rows * embed, sizes.dropout)
    layer.residual(rows * embed)
    layer.layer_norm(rows, embed)
    _embedding(graph, rows, embed, 3, 0.0)
    graph.layer_norm(rows, embed)
    graph.dropout(rows * embed, sizes.dropout)
    graph.repeat(layer, sizes.layers)
    if graph.train:  # pre-training's head; the classifier of inference reads one token
        graph.linear(rows, embed, embed)
        graph.activation(rows * embed, sizes.activation)
        graph.layer_norm(rows, embed)
        _head(graph, sizes, rows, bias=True)
    else:
        graph.linear(batch, embed, embed)
    return graph


def _opt_graph(graph: Graph, sizes: Sizes, batch: int, tokens: int) -> Graph:
    rows, embed, shards = batch * tokens, sizes.embed, sizes.shards
    hidden = sizes.hidden / shards
    layer = graph.part()
    layer.layer_norm(rows, embed)
    for _ in range(3):
        layer.linear(rows, embed, embed / shards)
    layer.elementwise(rows * embed / shards, UNARY, UNARY)  # scaled queries
    if graph.train:
        layer.backward.append(Kernel("stream", (2 * BINARY * rows * embed,), 2))
    _attention(layer, sizes, batch, tokens, tokens, "opt")
    layer.linear(rows, embed / shards, embed)
    layer.dropout(rows * embed, sizes.dropout)
    layer.residual(rows * embed)
    layer.layer_norm(rows, embed)
    layer.linear(rows, embed, hidden)
    layer.activation(rows * hidden, sizes.activation)
    layer.linear(rows, hidden, embed)
    layer.dropout(rows * embed, sizes.dropout)
    layer.residual(rows * embed)
    _embedding(graph, rows, embed, 2, 0.0)
    graph.stream(batch * tokens * tokens, 4 * UNARY, launches=12)  # the mask, once
    graph.repeat(layer, sizes.layers)
    graph.layer_norm(rows, embed)
    _head(graph, sizes, rows)
    return graph


def _switch_graph(graph: Graph, sizes: Sizes, batch: int, tokens: int) -> Graph:
    """Encoder and decoder over the same ids; every `sparse_step`-th layer routes to experts."""
    rows, embed = batch * tokens, sizes.embed
    scores = batch * sizes.heads * tokens * tokens
    for decoder in (False, True):
        _embedding(graph, rows, embed, 1, sizes.dropout)
        graph.stream(scores, UNARY + BINARY, UNARY, launches=4)  # relative positions and mask
        count = sizes.decoder_layers if decoder else sizes.layers
        step = sizes.decoder_sparse_step if decoder else sizes.sparse_step
        for index in range(count):
            for _ in range(2 if decoder else 1):  # itself, then the encoder's output
                _switch_attention(graph, sizes, batch, tokens)
            _root_mean_square_norm(graph, rows, embed)
            if index % step == (1 if step > 1 else 0):
                _experts(graph, sizes, batch, rows)
            else:
                _dense(graph, sizes, rows)
            graph.dropout(rows * embed, sizes.dropout)
            graph.residual(rows * embed)
        _root_mean_square_norm(graph, rows, embed)
        graph.dropout(rows * embed, sizes.dropout)
    graph.elementwise(rows * embed, UNARY, UNARY)
    _head(graph, sizes, rows)
    return graph


def _switch_attention(graph: Graph, sizes: Sizes, batch: int, tokens: int) -> None:
    rows, inner = batch * tokens, sizes.heads * sizes.head_dim / sizes.shards
    _root_mean_square_norm(graph, rows, sizes.embed)
    for _ in range(3):
        graph.linear(rows, sizes.embed, inner, bias=False)
    _attention(graph, sizes, batch, tokens, tokens, "switch")
    graph.linear(rows, inner, sizes.embed, bias=False)
    graph.dropout(rows * sizes.embed, sizes.dropout)
    graph.residual(rows * sizes.embed)


def _root_mean_square_norm(graph: Graph, rows: float, embed: float) -> None:
    """Square, mean, scale by the inverse root, scale by the weight: written out, not one kernel."""
    graph.stream(rows * embed, 28.0, 64.0, launches=6, back_launches=9)


def _dense(graph: Graph, sizes: Sizes, rows: float) -> None:
    hidden = sizes.hidden / sizes.shards
    graph.linear(rows, sizes.embed, hidden, bias=False)
    graph.activation(rows * hidden, sizes.activation)
    graph.dropout(rows * hidden, sizes.dropout)
    graph.linear(rows, hidden, sizes.embed, bias=False)


def _experts(graph: Graph, sizes: Sizes, batch: int, rows: float) -> None:
    """A router, then every expert over its full capacity; gathers and scatters are small."""
    graph.linear(rows, sizes.embed, sizes.experts, bias=False)
    graph.stream(rows * sizes.experts, 20 * UNARY, 10 * UNARY, launches=20, back_launches=10)
    graph.stream(rows * sizes.embed, UNARY, UNARY)
    places = batch * sizes.expert_capacity
    for _ in range(sizes.experts):
        graph.stream(rows, 2 * UNARY, launches=4)
        graph.wait()  # for the number of its tokens, to gather them
        graph.stream(places * sizes.embed, 2 * UNARY, 3 * UNARY, launches=5, back_launches=5)
        graph.wait(back=True)
        _dense(graph, sizes, places)
        graph.stream(places * sizes.embed, 2 * UNARY, 3 * UNARY, launches=5, back_launches=5)
        graph.wait(back=True)  # to scatter them
    graph.stream(rows * sizes.embed, BINARY, 2 * BINARY, back_launches=3)


_BUILDERS = {
    "gpt": _gpt_graph,
    "bert": _bert_graph,
    "opt": _opt_graph,
    "switch": _switch_graph,
}
