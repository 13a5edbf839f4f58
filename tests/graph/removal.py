"""What the tests of removal share: random models, random masks, multiply-accumulates, and the one check."""

import copy

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from tsn_toolkit.graph import mask_units_, prove_equal, shrink
from tsn_toolkit.graph.inputs import random_inputs, run_model
from tsn_toolkit.graph.probe import randomise_
from tsn_toolkit.plan import macs_after


def randomised_copy(model, seed=5):
    """A copy with random weights, biases, affine parameters and norm statistics."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            randomise_(name, tensor, generator)
        for name, tensor in model.named_buffers():
            if "running" in name:
                randomise_(name, tensor, generator)
    return model.eval()


def random_masks(graph, seed, share=None):
    """Every unfrozen group loses a random share of its units, or exactly `share`; at least one stays."""
    random = np.random.default_rng(seed)
    masks = {}
    for group in graph.groups:
        if not group.frozen:
            kept = group.size - int(group.size * (random.uniform(0.1, 0.8) if share is None else share))
            masks[group.name] = np.zeros(group.size, dtype=bool)
            masks[group.name][random.permutation(group.size)[: max(kept, 1)]] = True
    return masks


def tensors_of_output(output):
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def check_removal(model, graph, seed):
    """Masked and shrunk agree within 1e-5 of max|y| on several inputs; every number of the small model comes from its slot."""
    model, masks = randomised_copy(model), random_masks(graph, seed)
    masked = copy.deepcopy(model)
    mask_units_(masked, graph, masks)
    small = shrink(model, graph, masks)
    for number in range(2):
        inputs = random_inputs(model, graph.inputs, seed=100 * seed + number, batch=3)
        pairs = list(zip(*(tensors_of_output(run_model(m, graph.inputs, inputs)) for m in (masked, small.model)), strict=True))
        assert pairs
        for expected, found in pairs:
            assert expected.shape == found.shape and torch.isfinite(expected).all() and expected.any()
            assert (expected - found).abs().max() <= 1e-5 * expected.abs().max()
    assert prove_equal(masked, small.model, graph.inputs, seed=seed) <= 1e-5
    full, state = model.state_dict(), small.model.state_dict()
    assert set(small.slots) == set(state)
    for name, slots in small.slots.items():
        assert torch.equal(full[name].flatten()[slots], state[name]), name
    assert sum(p.numel() for p in small.model.parameters()) < sum(p.numel() for p in model.parameters())


def flops(model, graph):
    """Floating-point operations that torch counts; with gradients on and attention in plain products, as fused fast paths are not counted."""
    inputs = random_inputs(model, graph.inputs, seed=0, batch=1)
    positional = [x for record, x in zip(graph.inputs, inputs) if not record.keyword]
    keywords = {record.name: x for record, x in zip(graph.inputs, inputs) if record.keyword}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*positional, **keywords)
    return counter.get_total_flops()


def check_macs(model, graph):
    """The multiply-accumulates that a plan counts are those that torch counts on the shrunk model, attention included."""
    masks = random_masks(graph, 0, share=0.5)
    assert flops(model, graph) == 2 * graph.macs
    assert flops(shrink(model, graph, masks).model, graph) == 2 * macs_after(graph, masks) < 2 * graph.macs


def check_reduction(model, graph):
    """At half of the units of all unfrozen groups, at least 30 % of the MACs go; unfrozen groups touch layers with at least 80 % of them."""
    small = shrink(model, graph, random_masks(graph, 0, share=0.5)).model
    assert flops(small, graph) <= 0.7 * flops(model, graph)
    touched = {member.parameter.rpartition(".")[0] for group in graph.groups if not group.frozen for member in group.members}
    owners = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    layers = dict.fromkeys(owners, 0)
    for node in graph.nodes:
        if node.module in owners:
            layers[node.module] += node.macs
    assert sum(macs for path, macs in layers.items() if path in touched) >= 0.8 * sum(layers.values()) > 0
