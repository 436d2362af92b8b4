"""A plain network as ONNX, and its quantization policy applied for real.

The quantized operators are put into the graph here, not by ONNX Runtime's tools: those skip
unknown node names silently and choose 8-bit weights, which overflow on x86 without VNNI.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from onnx import helper, numpy_helper
from torch import Tensor, nn

from hw_profiles.errors import first_line, nearest
from hw_profiles.machine import this_cpu
from nas.errors import ExportError
from nas.export.limits import require_onnx_size
from nas.quantization.graph import MICROSOFT, GraphLinear, count_quantized, quantized_nodes
from nas.quantization.schemes import Scheme, get_scheme

INPUT, OUTPUT = "input", "output"
OPSET = 20
_SCOPES = "pkg.torch.onnx.name_scopes"


@contextmanager
def _silenced() -> Iterator[None]:
    """The exporter reports progress and foreign operators that no user asked about."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def export_onnx(network: nn.Module, example: Tensor) -> onnx.ModelProto:
    """A plain network in evaluation mode as an ONNX model of one fixed batch size.

    The matrix product of every linear module is named as the module is, such as
    `layers.0.attention.qkv`; one `input`, one `output`.

    Args:
        network: to export, on the example's device.
        example: a batch that it takes, such as `SearchSpace.example` gives; the model takes
            batches of just its shape and type.

    Raises:
        ExportError: if the network cannot be traced, or is too large for an ONNX file.
    """
    require_onnx_size(sum(p.numel() for p in network.parameters()), "this network")
    training = network.training
    try:
        with _silenced(), torch.no_grad():
            program = torch.onnx.export(
                network.eval(),
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise ExportError(
            f"this network cannot be exported to ONNX ({first_line(error)}).",
            "Its forward must be traceable by torch.export.",
        ) from error
    finally:
        network.train(training)
    if program is None:
        raise ExportError("the ONNX exporter gave no model.", "Check the versions: `nas doctor`.")
    model = program.model_proto
    _name_linears(model, network)
    _keep_sums(model)
    _share_tables(model)
    _strip(model)
    return model


def export_many(
    networks: Sequence[nn.Module], examples: Sequence[Tensor]
) -> Iterator[onnx.ModelProto]:
    """`export_onnx` of several networks, in order, by as many processes as there are cores.

    They begin at once and run ahead of the caller, who has something else to do meanwhile.

    Args:
        networks: to export.
        examples: a batch for each of them.

    Raises:
        ExportError: if one of them cannot be traced.
    """
    jobs = min(this_cpu().cores or 1, len(networks) // 3)
    if jobs < 2:  # a process takes as long to start as two networks to export
        return map(export_onnx, networks, examples)
    # loky starts processes without running the caller's main module again, as spawn would
    exporting = Parallel(n_jobs=jobs, backend="loky", return_as="generator", pre_dispatch="all")
    calls = (delayed(_export_bytes)(n, e) for n, e in zip(networks, examples, strict=True))
    return _received(exporting(calls))


def _received(results: Generator[bytes, None, None]) -> Iterator[onnx.ModelProto]:
    try:
        yield from map(onnx.ModelProto.FromString, results)
    finally:
        get_reusable_executor().shutdown(wait=False, kill_workers=True)
        with warnings.catch_warnings():  # that nobody took the rest
            warnings.simplefilter("ignore", UserWarning)
            results.close()


def _export_bytes(network: nn.Module, example: Tensor) -> bytes:
    torch.set_num_threads(1)
    data: bytes = export_onnx(network, example).SerializeToString()
    return data


def _name_linears(model: onnx.ModelProto, network: nn.Module) -> None:
    """Name each linear's product after its module, by the scopes that the exporter leaves."""
    linears = {name for name, m in network.named_modules() if isinstance(m, nn.Linear)}
    named = set()
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), "")
            for name in linears:
                if f"'{name}'" in scopes:
                    node.name = name
                    named.add(name)
    if missing := sorted(linears - named):
        raise ExportError(
            f"the exporter's graph does not show the linear layer {missing[0]}.",
            "Check the versions of torch and onnxscript: `nas doctor`.",
        )


def _keep_sums(model: onnx.ModelProto) -> None:
    """Write a sum that nothing but a layer norm reads so that ONNX Runtime leaves it alone.

    Of Add and LayerNormalization it makes a SkipLayerNormalization, which on CPUs takes longer than
    both: twice as long at 24 features, 9 times at 768 (`benchmarks/post_norm.py`). It knows no such
    pattern for Sum, which computes the same.
    """
    graph = model.graph
    read = Counter(name for node in graph.node for name in node.input)
    normed = {node.input[0] for node in graph.node if node.op_type == "LayerNormalization"}
    weights = {weight.name for weight in graph.initializer}
    for node in graph.node:
        alone = node.output[0] in normed and read[node.output[0]] == 1
        if node.op_type == "Add" and alone and not weights & set(node.input):
            node.op_type = "Sum"


def _share_tables(model: onnx.ModelProto) -> None:
    """Hold equal tables once, such as the causal mask that the exporter writes for each layer.

    Weights are left alone: of two that are equal one may be quantized.
    """
    graph = model.graph
    weights = {
        name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm", "Conv", "Gather")
        for name in node.input
    }
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    equal: dict[str, str] = {}
    for table in graph.initializer:
        if len(table.dims) > 1 and table.name not in weights:
            data = numpy_helper.to_array(table).tobytes()
            kept = first.setdefault((table.data_type, tuple(table.dims), data), table.name)
            if kept != table.name:
                equal[table.name] = kept
    for node in graph.node:
        node.input[:] = [equal.get(name, name) for name in node.input]
    held = [table for table in graph.initializer if table.name not in equal]
    del graph.initializer[:]
    graph.initializer.extend(held)


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: they hold stack traces with this machine's paths."""
    graph = model.graph
    for holder in (model, graph, *graph.node, *graph.initializer, *graph.value_info):
        del holder.metadata_props[:]
        holder.doc_string = ""


# --- quantization -------------------------------------------------------------------------------


def planned(
    policy: Mapping[str, str], group_modules: Mapping[str, Sequence[str]], runtime: str
) -> dict[str, Scheme]:
    """Module name -> scheme, of the modules that a policy quantizes.

    Raises:
        NotFoundError: if a group, or a scheme of the runtime, is unknown.
    """
    plan: dict[str, Scheme] = {}
    for group, name in policy.items():
        if group not in group_modules:
            raise nearest(group, group_modules, "layer group")
        scheme = get_scheme(runtime, name)
        if not scheme.is_native:
            plan |= dict.fromkeys(group_modules[group], scheme)
    return plan


def quantize_onnx(
    model: onnx.ModelProto,
    policy: Mapping[str, str],
    group_modules: Mapping[str, Sequence[str]],
    runtime: str = "onnxruntime",
) -> onnx.ModelProto:
    """A copy of a model from `export_onnx` whose linears are held as the policy says.

    Args:
        model: float32, its linears named after their modules.
        policy: scheme name for each layer group; groups that it does not name stay float32.
        group_modules: layer group -> names of its modules (`SearchSpace.group_modules`).
        runtime: whose schemes they are. What is not quantized stays float32, also where the
            runtime's native type is bfloat16.

    Raises:
        NotFoundError: if a group or scheme is unknown.
        ExportError: if a module of the policy is not in the graph.
    """
    plan = planned(policy, group_modules, runtime)
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    graph = quantized.graph
    products = {n.name: n for n in graph.node if n.op_type in ("MatMul", "Gemm")}
    if missing := [name for name in plan if name not in products]:
        raise ExportError(
            f"the graph has no linear layer {missing[0]}.",
            "Give the policy of this very network, with its active groups only.",
        )
    replaced: dict[str, list[onnx.NodeProto]] = {}
    dropped: set[str] = set()
    for name, scheme in plan.items():
        linear = GraphLinear.find(graph, products[name])
        nodes, arrays = quantized_nodes(linear, scheme)
        graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
        replaced[linear.nodes[0].output[0]] = nodes
        dropped |= {n.output[0] for n in linear.nodes}
    kept = []
    for node in graph.node:
        kept += replaced.get(node.output[0], [] if node.output[0] in dropped else [node])
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    weights = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    del graph.value_info[:]  # shapes inferred for tensors that are gone
    if plan and all(o.domain != MICROSOFT for o in quantized.opset_import):
        quantized.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return quantized


# --- checks -------------------------------------------------------------------------------------


def optimised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph that an ONNX Runtime session really runs after its optimisations.

    Raises:
        MeasureError: if ONNX Runtime refuses the model.
    """
    from hw_profiles.runtimes.onnxruntime import open_session

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        open_session(model.SerializeToString(), optimised_to=path)
        return onnx.load(path)


def check_quantized(
    model: onnx.ModelProto,
    policy: Mapping[str, str],
    group_modules: Mapping[str, Sequence[str]],
    runtime: str = "onnxruntime",
) -> dict[str, int]:
    """Check that the policy's operators are there: in the file and, where ONNX Runtime is the
    target's runtime, in its session's own graph.

    Returns:
        number of linears in each quantized scheme.

    Raises:
        ExportError: if the numbers differ from the policy's.
        MeasureError: if ONNX Runtime refuses the model.
    """
    expected = dict(Counter(s.name for s in planned(policy, group_modules, runtime).values()))
    graphs = {"file": model}
    if runtime == "onnxruntime":
        graphs["session"] = optimised(model)
    for where, graph in graphs.items():
        found = count_quantized(graph, runtime)
        if found != expected:
            raise ExportError(
                f"the policy asks for {expected} quantized layers, the {where} has {found}.",
                "Export again; if it stays so, report the versions: `nas doctor`.",
            )
    return expected
