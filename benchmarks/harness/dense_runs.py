"""Separate dense networks: the references of the recipe alone, as they were trained or rounded after training; bytes are those of their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from harness.statistics import mean
from harness.store_runs import CPU, MakeRecipe
from harness.variants import Variant
from tsn_toolkit.bench.denominators import dense_state
from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.data.splits import load_task, task_names
from tsn_toolkit.filling import write_weight_
from tsn_toolkit.parts.rounded_layer import round_layer
from tsn_toolkit.parts.slots import layer_integers
from tsn_toolkit.pipeline.founding import found_store
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.references import dense_reference
from tsn_toolkit.run_folder import RunFolder
from tsn_toolkit.trainer.loop import evaluate
from tsn_toolkit.workshop import workshop_of_store


def dense_numbers(make_recipe: MakeRecipe, variant: Variant, place: Path, hooks: Hooks) -> dict[str, Any]:
    """One network per task."""
    recipe = make_recipe(variant.overrides)
    folder = RunFolder(place / "run")
    store = found_store(recipe, folder, [], hooks)
    shop = workshop_of_store(store)
    rows: list[dict[str, Any]] = []
    heads: list[int] = []
    for index, name in enumerate(task_names(recipe)):
        data = load_task(recipe, index)
        model, test = dense_reference(recipe, folder, shop, store, data, index, hooks)
        file = folder.reference(name)
        if variant.bits is not None:
            file = place / f"{name}.safetensors"
            save_file(round_network_(model, shop.graph, variant.bits), file)
            test = evaluate(model, data.test, data, CPU)[1]
        validation = evaluate(model, data.validation, data, CPU)[1]
        rows.append({"name": name, "test": test, "validation": validation, "bytes": file.stat().st_size})
        heads.append(len(data.classes))
    save_file(dense_state(shop.factory(), shop.graph.head, heads), place / "one.safetensors")
    return {
        "tasks": rows,
        "isolation": "separate",
        "acc": mean([row["test"] for row in rows]),
        **dict.fromkeys(("bwt", "fwt", "max_forgetting", "R")),
        "validation": mean([row["validation"] for row in rows]),
        "store_bytes": sum(row["bytes"] for row in rows),
        "superseded_bytes": 0,
        "breakdown": None,
        "entropy_bytes": None,
        "denominators": {"dense_fp32": (place / "one.safetensors").stat().st_size},
    }


def round_network_(model: nn.Module, graph: ModelGraph, bits: int) -> dict[str, torch.Tensor]:
    """Rounds the weights of all layers to integers of `bits` bits with one scale per output channel, in place.

    Args:
        model: trained, on the CPU.
        graph: of the pristine module.
        bits: 4 (two weights to a byte) or 8.

    Returns:
        What its file holds: packed weights, float32 scales, and everything else as it is, without counters that no prediction needs.
    """
    assert bits in (4, 8), bits
    largest = 2 ** (bits - 1) - 1
    names = {*(layer.name for layer in graph.layers), graph.head}
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    for name in sorted(names):
        weight = model.get_parameter(f"{name}.weight").detach().numpy()
        layer = round_layer(weight, bit_width=bits, max_code=largest, precision="half")
        q = layer_integers(layer, np.zeros(layer.states.shape, np.int8))
        write_weight_(model.get_submodule(name), q, layer.scale)
        tensors[f"{name}.weight"] = torch.from_numpy(_packed(q, bits))
        tensors[f"{name}.weight.scale"] = torch.from_numpy(layer.scale)
    return tensors


def _packed(q: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """One or two integers to a byte."""
    flat = q.reshape(-1).view(np.uint8)
    if bits == 8:
        return flat.copy()
    flat = np.concatenate([flat & 15, np.zeros(len(flat) % 2, np.uint8)])
    packed: NDArray[np.uint8] = flat[0::2] | flat[1::2] << np.uint8(4)
    return packed
