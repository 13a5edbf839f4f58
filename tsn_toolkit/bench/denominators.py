"""What the store is compared with: each denominator is written as files and its bytes are counted, then the files go.

dense_fp32         one dense float32 network with the heads of all tasks
separate_fp32      one dense float32 network per task
separate_int8      one dense network per task, int8 weights, one float32 scale per output channel, norms, biases and free parameters float32
separate_encoded   every task of the store alone in a store of its own, through the same encoder: the same models without sharing
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from tsn_toolkit.contracts import LayerCodes, ModelGraph, TaskResult, TaskWeights, TrunkResult
from tsn_toolkit.files import folder_bytes
from tsn_toolkit.model_loading import set_head
from tsn_toolkit.numerics.vector_rows import round_rows
from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.revisions import answer
from tsn_toolkit.store.store import Store
from tsn_toolkit.vocabulary import TRUNK, SlotState, VectorPrecision


def measure_denominators(
    factory: Callable[[], nn.Module], graph: ModelGraph, store: Store, *, granularity: Mapping[str, str] = MappingProxyType({})
) -> dict[str, int]:
    """Bytes of every denominator for the tasks that the store holds now.

    Args:
        factory: makes the pristine module.
        graph: of that module.
        store: any number of tasks.
        granularity: layer name -> granularity of the masks, which the encoder makes use of; `element` for layers that it does not name.
    """
    weights = [answer(store, entry.name).weights for entry in store.entries]
    heads = [len(task.classes) for task in weights]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {
            "dense_fp32": _write_dense(factory(), graph.head, heads, folder / "dense.safetensors"),
            "separate_fp32": sum(_write_dense(factory(), graph.head, [n], folder / f"fp32-{i}.safetensors") for i, n in enumerate(heads)),
            "separate_int8": sum(_write_int8(factory(), graph, n, folder / f"int8-{i}.safetensors") for i, n in enumerate(heads)),
            "separate_encoded": sum(
                _write_alone(task, store.part(task.name).precision, granularity, graph, folder / f"store-{i}") for i, task in enumerate(weights)
            ),
        }


def dense_state(model: nn.Module, head: str, classes: list[int]) -> dict[str, torch.Tensor]:
    """State dict of a dense network with several heads, without counters that no prediction needs."""
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    generator = torch.Generator().manual_seed(0)  # or fresh heads would draw from the global generator
    if len(classes) == 1:
        set_head(model, head, classes[0], generator=generator)
        return {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    own = {name for name in state if name.startswith(f"{head}.")}
    state = {name: tensor for name, tensor in state.items() if name not in own}
    for index, count in enumerate(classes):
        set_head(model, head, count, generator=generator)
        for key, tensor in model.get_submodule(head).state_dict().items():
            state[f"heads.{index}.{key}"] = tensor
    return state


def _write_dense(model: nn.Module, head: str, classes: list[int], path: Path) -> int:
    state = dense_state(model, head, classes)
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in state.items()}, path)
    return path.stat().st_size


def _write_int8(model: nn.Module, graph: ModelGraph, classes: int, path: Path) -> int:
    state = dense_state(model, graph.head, [classes])
    coded = {f"{layer.name}.weight" for layer in graph.layers} | {f"{graph.head}.weight"}
    tensors = {}
    for name, tensor in state.items():
        values = tensor.detach().float()
        if name in coded:
            scale = values.flatten(1).abs().amax(1).clamp_min(1e-12) / 127
            tensors[f"{name}.scale"] = scale
            values = (values / scale.view(-1, *([1] * (values.dim() - 1)))).round().to(torch.int8)
        tensors[name] = values.contiguous().clone()
    save_file(tensors, path)
    return path.stat().st_size


def _write_alone(task: TaskWeights, precision: VectorPrecision, granularity: Mapping[str, str], graph: ModelGraph, folder: Path) -> int:
    """One task with every slot its own. The codebook holds the distinct integers that the task uses, so that the model is the same to the bit.

    But for scales of layers that the task shares with a trunk whose vectors are finer: a part has one precision, so they take the task's.
    """
    trunk = TrunkResult(kind="seed", seed=0, layers={}, norms={}, biases={}, head=None)
    store = Store.create(folder, trunk=trunk, graph=graph, recipe={})
    layers = {name: _own_layer(q, round_vector(task.scale[name], precision), granularity.get(name, "element")) for name, q in task.q.items()}
    store.commit(
        TaskResult(
            name=task.name,
            parent=TRUNK,
            isolation="exact",
            strategy="separate",
            classes=task.classes,
            unit_masks=task.unit_masks,
            layers=layers,
            norms=task.norms,
            biases=task.biases,
            head=task.head,
            ranges=task.ranges,
            vector_precision=precision,
            free_parameters={name: round_rows(value, precision) for name, value in task.free_parameters.items()},
        ),
        {},
    )
    return folder_bytes(folder)


def _own_layer(q: np.ndarray, scale: np.ndarray, granularity: str = "element") -> LayerCodes:
    values = np.unique(q[q != 0])
    bit_width = max(1, int(np.ceil(np.log2(max(len(values), 2)))))
    padding = np.full(2**bit_width - len(values), values[-1] if len(values) else 0, np.int8)
    codebook = np.concatenate([values, padding]).astype(np.int8)
    states = np.where(q != 0, SlotState.OWN, SlotState.PRUNED).astype(np.uint8)
    codes = np.searchsorted(values, q[q != 0]).astype(np.uint8)
    return LayerCodes(states=states, codes=codes, codebook=codebook, bit_width=bit_width, scale=scale, granularity=granularity)
