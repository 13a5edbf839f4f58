"""From a plain float module to a Brevitas module with integer arithmetic, norms folded.

Graph mode is tried first: it aligns the inputs of additions and quantizes every edge, so that a runtime finds whole integer kernels. Brevitas aligns
residual branches in a loop that does not end on some models (attention); the loop is cut after a number of rounds that depends on the graph alone,
never on the clock. Where graph mode fails, each layer gets its own input quantizer (`layerwise`), which is correct but leaves more of the model in
float; the caller is told.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from tsn_toolkit.errors import ExportError, TargetError, first_line
from tsn_toolkit.quantizers.plain_calls import with_plain_calls_

SUPPORTED_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
"""Layers whose weights can be exported as integers; dimension 0 is the output channel of each."""

_FLOAT_TOLERANCE = 1e-4
_CLIPS = (nn.ReLU, nn.ReLU6, nn.Hardtanh)
"""Activations that are the clip of the quantizer behind them. Brevitas has a module for a sigmoid with its quantizer too, which is no clip: it stays
a module of its own."""
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d)


@dataclass(frozen=True)
class QuantizedGraph:
    """What Brevitas made of a float module.

    Attributes:
        module: the Brevitas module, eval mode, quantizers not yet calibrated.
        mode: `graph` or `layerwise`.
        notes: one sentence per thing the user should know, for example why graph mode failed.
    """

    module: nn.Module
    mode: str
    notes: tuple[str, ...]


def require_brevitas() -> None:
    """Check that Brevitas can be imported.

    Raises:
        TargetError: it cannot; the message holds the line that installs it.
    """
    try:
        with _quiet():
            import brevitas.graph.quantize  # noqa: F401
    except ImportError as error:
        raise TargetError(f"Integer activations need Brevitas, which cannot be imported ({error}). Install it: pip install brevitas") from error


def quantize_graph(model: nn.Module, example: torch.Tensor) -> QuantizedGraph:
    """Put Brevitas quantizers on a copy of `model`; weights and function stay those of `model` until a quantizer is calibrated.

    Args:
        model: plain module in eval mode; not changed.
        example: float32 input (batch, ...) on which the rewritten module is compared with `model` in float.

    Raises:
        TargetError: Brevitas is missing.
        ExportError: neither graph mode nor layerwise mode reproduces the float model.
    """
    require_brevitas()
    with _quiet():
        return _quantize(model, example)


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, what Brevitas warns of (torch's deprecations, optional kernels that are missing) stays off the screen: a user can mend none of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _quantize(model: nn.Module, example: torch.Tensor) -> QuantizedGraph:
    try:
        module = _graph_mode(model, example)
        _check_all_quantized(module)
        _check_float(model, module, example)
        return QuantizedGraph(module, "graph", ())
    except Exception as error:  # whatever Brevitas or fx raises on a model they do not know, layerwise may still work
        reason = first_line(error)
    try:
        module = _layerwise_mode(model)
        _check_float(model, module, example)
    except Exception as error:
        raise ExportError(
            f"The model cannot be quantized. Graph mode failed with {reason}; layerwise mode failed with {type(error).__name__}: {error}. "
            "Supported are conv, linear, norm, ReLU, addition, pooling, flatten and reshape."
        ) from error
    note = f"Brevitas' graph mode failed ({reason}); each layer quantizes its own input instead, so norms and additions stay in float."
    return QuantizedGraph(module, "layerwise", (note,))


def activation_proxies(module: nn.Module) -> dict[str, nn.Module]:
    """Brevitas' enabled activation quantizers by name, in module order; a name is the path of the module that owns the quantizer."""
    from brevitas.proxy.runtime_quant import ActQuantProxyFromInjectorBase

    found = {}
    for name, child in module.named_modules():
        if isinstance(child, ActQuantProxyFromInjectorBase) and child.is_quant_enabled:
            found[name.removesuffix(".act_quant")] = child
    return found


def scaling_of(proxy: nn.Module) -> nn.Module:
    """Brevitas' module that holds an activation quantizer's scale; quantizers whose values are added share it."""
    return proxy.fused_activation_quant_proxy.tensor_quant.scaling_impl


def levels_of(proxy: nn.Module) -> float:
    """Threshold / step in Brevitas' scaling: 255 for unsigned, 128 for signed activations and for those that share a scale with a signed one."""
    quantizer = proxy.fused_activation_quant_proxy.tensor_quant
    return float(quantizer.int_scaling_impl(quantizer.msb_clamp_bit_width_impl()).detach())


def rectifies(proxy: nn.Module) -> bool:
    """Whether the quantizer's module is a ReLU. Its limits say so too, except where the ReLU is joined with signed values and shares their grid."""
    return isinstance(proxy.fused_activation_quant_proxy.activation_impl, nn.ReLU)


def fixed_threshold(proxy: nn.Module) -> float | None:
    """The range that the function itself sets (ReLU6, hard tanh), None where data must set it."""
    scaling = scaling_of(proxy)
    return None if hasattr(scaling, "counter") else float(scaling.value.detach().abs().max())


@contextmanager
def float_mode(module: nn.Module) -> Iterator[None]:
    """Inside, every quantizer of a Brevitas module passes floats through; afterwards each is as it was.

    A range that the function itself sets holds inside too: Brevitas makes a ReLU of ReLU6 and leaves the limit to the quantizer.
    """
    from brevitas.proxy.quant_proxy import QuantProxyFromInjector

    limits = [(proxy, fixed_threshold(proxy)) for proxy in activation_proxies(module).values()]
    before = {child: child.disable_quant for child in module.modules() if isinstance(child, QuantProxyFromInjector)}
    returns = {child: child.return_quant_tensor for child in module.modules() if hasattr(child, "return_quant_tensor")}
    for proxy in before:
        proxy.disable_quant = True
    for child in returns:
        child.return_quant_tensor = False
    handles = [proxy.register_forward_hook(_clamp_to(limit)) for proxy, limit in limits if limit is not None]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for proxy, state in before.items():
            proxy.disable_quant = state
        for child, state in returns.items():
            child.return_quant_tensor = state


def _clamp_to(limit: float) -> Callable[..., torch.Tensor]:
    """A forward hook that keeps what a quantizer passes on within [-limit, limit]."""

    def clamp(_: nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output.clamp(-limit, limit)

    return clamp


def _weight_settings() -> dict[str, Any]:
    """Keyword arguments of a Brevitas layer: per-channel int8 weights whose scale is a parameter we overwrite, int32 bias."""
    from brevitas.inject.enum import ScalingImplType
    from brevitas.quant import Int8WeightPerChannelFloat, Int32Bias

    class StoredScaleWeight(Int8WeightPerChannelFloat):
        """Weight quantizer whose scale comes from the store instead of from the weights."""

        scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
        scaling_min_val = None

    return {"weight_quant": StoredScaleWeight, "bias_quant": Int32Bias}


def _graph_mode(model: nn.Module, example: torch.Tensor) -> nn.Module:
    from brevitas.graph import quantize as rules

    if any(isinstance(module, nn.Embedding) for module in model.modules()):
        raise ExportError("an embedding looks whole numbers up, which a quantizer of the input would round")
    settings = _weight_settings()
    layers = dict(rules.COMPUTE_LAYER_MAP)
    for kind in SUPPORTED_LAYERS:
        quant_class, defaults = layers[kind]
        layers[kind] = (quant_class, {**defaults, **settings})
    activations = {kind: quantizer for kind, quantizer in rules.QUANT_ACT_MAP.items() if kind in _CLIPS}
    graph = rules.preprocess_for_quantize(_plain_copy(model, example), relu6_to_relu=False)
    _relu_calls_to_modules_(graph)
    _show_parameters_(graph)
    with _bounded_residual_loop(graph):
        quantized = rules.quantize(graph, compute_layer_map=layers, quant_act_map=activations).eval()
    _hide_parameters_(quantized)
    with_plain_calls_(quantized)
    quantized.delete_all_unused_submodules()  # Brevitas leaves quantizers behind that it has replaced; they would never see data
    return quantized


def _relu_calls_to_modules_(graph: fx.GraphModule) -> None:
    """Puts nn.ReLU modules in place of calls of a function or method: Brevitas quantizes what leaves a module once, and around a call twice."""
    functions = (torch.relu, torch.relu_, functional.relu)
    number = 0
    for node in list(graph.graph.nodes):
        called = node.op == "call_function" and node.target in functions or node.op == "call_method" and node.target in ("relu", "relu_")
        if not called:
            continue
        while hasattr(graph, f"relu_{number}"):
            number += 1
        graph.add_submodule(f"relu_{number}", nn.ReLU())
        with graph.graph.inserting_after(node):
            replacement = graph.graph.call_module(f"relu_{number}", (node.args[0],))
        node.replace_all_uses_with(replacement)
        graph.graph.erase_node(node)
    graph.recompile()


def _show_parameters_(graph: fx.GraphModule) -> None:
    """Puts a call behind each parameter that the graph itself reads, in place: Brevitas does not look at such a node when it asks whether a sum can
    be negative, and takes one with a ReLU for unsigned."""
    for node in list(graph.graph.nodes):
        if node.op == "get_attr" and node.target in dict(graph.named_parameters()):
            with graph.graph.inserting_after(node):
                shown = graph.graph.call_function(torch.clone, (node,))
            node.replace_all_uses_with(shown, delete_user_cb=lambda user, shown=shown: user is not shown)
    graph.recompile()


def _hide_parameters_(graph: fx.GraphModule) -> None:
    """Takes these calls away, and quantizers that stand alone behind them, in place: a parameter stays float, which OpenVINO asks for in a sum."""
    from brevitas.nn import QuantIdentity

    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target is torch.clone and node.args[0].op == "get_attr":
            rounded = [user for user in node.users if user.op == "call_module" and isinstance(graph.get_submodule(user.target), QuantIdentity)]
            for removed in (*rounded, node):
                removed.replace_all_uses_with(node.args[0])
                graph.graph.erase_node(removed)
    graph.recompile()


def _check_all_quantized(module: nn.Module) -> None:
    """Brevitas takes modules of torch's own, such as nn.TransformerEncoder, as one operation and leaves the layers inside as they are.

    Raises:
        ExportError: a layer has no quantizer.
    """
    for name, child in module.named_modules():
        if isinstance(child, SUPPORTED_LAYERS) and not hasattr(child, "weight_quant"):
            raise ExportError(f"layer `{name}` lies inside a module that it takes as one operation")


def _layerwise_mode(model: nn.Module) -> nn.Module:
    from brevitas.graph import quantize as rules

    settings = _weight_settings()
    layers = {}
    for kind in SUPPORTED_LAYERS:
        quant_class, defaults = rules.LAYERWISE_COMPUTE_LAYER_MAP[kind]
        layers[kind] = (quant_class, {**defaults, **settings})
    return rules.layerwise_quantize(copy.deepcopy(model), compute_layer_map=layers).eval()


def _plain_copy(model: nn.Module, example: torch.Tensor) -> nn.Module:
    """A copy that computes the same with fewer forms of layers.

    Batch norms all have a gain and a shift: Brevitas folds no others. Zero padding is in numbers wherever it is symmetric, and a pooling rounds its
    output size up only where that makes a difference: runtimes have no integer kernels for the rest.
    """
    clone = copy.deepcopy(model)
    _without_idle_ceilings_(clone, example)
    for module in clone.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)) and isinstance(module.padding, str) and module.padding_mode == "zeros":
            both = [dilation * (size - 1) * (module.padding == "same") for dilation, size in zip(module.dilation, module.kernel_size, strict=True)]
            if not any(width % 2 for width in both):
                module.padding = tuple(width // 2 for width in both)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) and not module.affine:
            module.weight = nn.Parameter(torch.ones(module.num_features))
            module.bias = nn.Parameter(torch.zeros(module.num_features))
            module.affine = True
    return clone


def _without_idle_ceilings_(model: nn.Module, example: torch.Tensor) -> None:
    """Poolings whose windows fit their input round nothing up; `ceil_mode` is cleared there."""
    pools = [module for module in model.modules() if isinstance(module, _POOLS) and module.ceil_mode]
    needed: set[nn.Module] = set()

    def look(pool: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        floored = copy.copy(pool)
        floored.ceil_mode, floored._forward_hooks = False, {}
        if not isinstance(output, torch.Tensor) or floored(inputs[0]).shape != output.shape:
            needed.add(pool)

    handles = [pool.register_forward_hook(look) for pool in pools]
    try:
        if pools:
            with torch.no_grad():
                model(example[:1])
    finally:
        for handle in handles:
            handle.remove()
    for pool in pools:
        pool.ceil_mode = pool in needed


@contextmanager
def _bounded_residual_loop(graph: nn.Module) -> Iterator[None]:
    """Inside, Brevitas gives up aligning additions after a few rounds per node of `graph`; a solvable graph needs about one per addition."""
    from brevitas.graph import quantize_impl

    before = quantize_impl.MAX_RESIDUAL_ITERS
    joins = [node for node in graph.graph.nodes if node.op in ("call_function", "call_method")]
    quantize_impl.MAX_RESIDUAL_ITERS = 3 * len(joins) + 8
    try:
        yield
    finally:
        quantize_impl.MAX_RESIDUAL_ITERS = before


def _check_float(model: nn.Module, module: nn.Module, example: torch.Tensor) -> None:
    with torch.no_grad(), float_mode(module):
        expected, got = model(example), module(example)
    error = float((expected - got).abs().max())
    limit = _FLOAT_TOLERANCE * max(float(expected.abs().max()), 1e-30)
    if not error <= limit:
        raise ExportError(f"the rewritten model differs from the float model by {error:.3g}, more than {limit:.3g}")
