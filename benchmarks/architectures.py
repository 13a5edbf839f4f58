"""Half of the units of every architecture go: what can be traced and removed, and what it saves in ONNX Runtime.

    pip install -e '.[onnxruntime]' transformers
    python benchmarks/architectures.py [--only vit,gpt2] [--seconds 1.0]

Models have random weights and, where the transformers library is installed, its configurations at a fraction of their published widths. Half of the
units of every group that may lose units go, at random; masked and shrunk models are compared with randomised norms and biases. Latency: float32, one
thread, batch 1, the full and the shrunk model taking turns in processes of their own, median. Writes results/architectures.md and .json.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.graph import mask_units_, prove_equal, shrink, trace
from tsn_toolkit.graph.inputs import Example, random_inputs, run_model
from tsn_toolkit.graph.probe import randomise_
from tsn_toolkit.models.alexnet_cifar import alexnet_cifar
from tsn_toolkit.models.resnet_cifar import resnet

RESULTS = Path(__file__).parent / "results"
ROUNDS = 4
COLUMNS = ("architecture", "operations", "groups, frozen", "MACs in open groups", "masked = shrunk, error", "MACs left", "parameters left")
COLUMNS += ("ms before", "ms after", "times as fast")
IMAGE, WORDS = {"pixel_values": torch.zeros(1, 3, 128, 128)}, {"input_ids": torch.zeros(1, 128, dtype=torch.int64)}
TEXT = {"vocab_size": 5000, "bos_token_id": 1, "eos_token_id": 2}
TRANSFORMERS: dict[str, tuple[str, str, Example, dict[str, Any]]] = {
    "resnet": ("ResNet", "ForImageClassification", IMAGE, {"embedding_size": 32, "hidden_sizes": [128, 256, 512, 1024]}),
    "mobilenet_v2": ("MobileNetV2", "ForImageClassification", IMAGE, {"image_size": 128}),
    "convnext": ("ConvNext", "ForImageClassification", IMAGE, {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 4, 2]}),
    "vit": (
        "ViT",
        "ForImageClassification",
        IMAGE,
        {"image_size": 128, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536},
    ),
    "swin": (
        "Swin",
        "ForImageClassification",
        IMAGE,
        {"image_size": 128, "embed_dim": 64, "depths": [2, 2, 2], "num_heads": [2, 4, 8], "window_size": 4},
    ),
    "bert": (
        "Bert",
        "ForSequenceClassification",
        WORDS,
        {**TEXT, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 1024},
    ),
    "distilbert": ("DistilBert", "ForSequenceClassification", WORDS, {**TEXT, "dim": 256, "n_layers": 4, "n_heads": 8, "hidden_dim": 1024}),
    "gpt2": ("GPT2", "LMHeadModel", WORDS, {**TEXT, "n_embd": 256, "n_layer": 4, "n_head": 8, "use_cache": False}),
    "llama": (
        "Llama",
        "ForCausalLM",
        WORDS,
        {**TEXT, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4}
        | {"use_cache": False},
    ),
}


@dataclass(frozen=True)
class Row:
    """What was found of one architecture; MACs of one example by torch's own counter, milliseconds per call at batch 1."""

    name: str
    operations: int
    groups: int
    frozen: tuple[str, ...]
    reachable_share: float
    proof_error: float
    macs: int
    macs_after: int
    parameters: int
    parameters_after: int
    milliseconds: float | None
    milliseconds_after: float | None
    note: str = ""


class FirstOutput(nn.Module):
    """The first tensor that a model gives, which is what an ONNX file needs."""

    def __init__(self, model: nn.Module, graph: ModelGraph) -> None:
        super().__init__()
        self.model, self.records = model, graph.inputs

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        named = {record.name: tensor for record, tensor in zip(self.records, tensors, strict=True)}
        output = self.model(**named) if self.records[0].keyword else self.model(*tensors)
        found: torch.Tensor = output if isinstance(output, torch.Tensor) else next(iter(output.values()))
        return found


def builders() -> dict[str, tuple[Callable[[], nn.Module], Example]]:
    """Name -> (factory, example input) of everything that can be built here."""
    own: dict[str, tuple[Callable[[], nn.Module], Example]] = {
        "resnet20_cifar": (lambda: resnet(20), torch.zeros(1, 3, 32, 32)),
        "alexnet_cifar": (alexnet_cifar, torch.zeros(1, 3, 32, 32)),
    }
    if find_spec("transformers") is None:
        print("transformers is not installed: only the package's own models are measured", file=sys.stderr)
        return own
    import transformers

    def make(kind: str, task: str, options: dict[str, Any]) -> nn.Module:
        model: nn.Module = getattr(transformers, kind + task)(getattr(transformers, f"{kind}Config")(**options))
        return model

    theirs = {name: (lambda k=kind, t=task, o=options: make(k, t, o), example) for name, (kind, task, example, options) in TRANSFORMERS.items()}
    return {**own, **theirs}


def measure(name: str, build: Callable[[], nn.Module], example: Example, seconds: float) -> Row:
    """One row."""
    torch.manual_seed(0)
    model = build().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in (*model.named_parameters(), *((key, tensor) for key, tensor in model.named_buffers() if "running" in key)):
            randomise_(key, tensor, generator)
    graph = trace(model, example)
    masks = half_of_the_units(graph)
    masked = copy.deepcopy(model)
    mask_units_(masked, graph, masks)
    small = shrink(model, graph, masks).model
    error = prove_equal(masked, small, graph.inputs, seed=0)
    times: tuple[float | None, float | None] = (None, None)
    note = ""
    try:
        times = latencies(model, small, graph, seconds)
    except Exception as problem:  # an architecture that ONNX cannot hold is a result too
        note = f"no ONNX: {type(problem).__name__} in torch.onnx.export"
    return Row(
        name,
        len(graph.nodes),
        len(graph.groups),
        tuple(f"{group.name}: {group.frozen}" for group in graph.groups if group.frozen),
        open_share(graph),
        error,
        count_macs(model, graph),
        count_macs(small, graph),
        sum(parameter.numel() for parameter in model.parameters()),
        sum(parameter.numel() for parameter in small.parameters()),
        *times,
        note,
    )


def open_share(graph: ModelGraph) -> float:
    """Share of the MACs of operations with weights that lie in layers which shrink, on either side, with a group that may lose units."""
    touched = {member.parameter for group in graph.groups if not group.frozen for member in group.members}
    weighted = [node for node in graph.nodes if node.macs and node.parameter_bytes]
    return sum(node.macs for node in weighted if f"{node.module}.weight" in touched) / max(sum(node.macs for node in weighted), 1)


def half_of_the_units(graph: ModelGraph) -> dict[str, np.ndarray]:
    """A random half of every group that may lose units stays."""
    random = np.random.default_rng(0)
    masks = {}
    for group in graph.groups:
        if not group.frozen:
            masks[group.name] = np.zeros(group.size, dtype=bool)
            masks[group.name][random.permutation(group.size)[: max(1, group.size // 2)]] = True
    return masks


def count_macs(model: nn.Module, graph: ModelGraph) -> int:
    """Multiply-accumulates of one example, by torch's counter."""
    with FlopCounterMode(display=False) as counter:
        run_model(model, graph.inputs, random_inputs(model, graph.inputs, seed=0, batch=1))
    return int(counter.get_total_flops()) // 2


RUNNER = textwrap.dedent("""
    import json, sys, time
    import numpy as np
    import onnxruntime
    model, inputs, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    arrays = list(np.load(inputs).values())
    feed = {given.name: array for given, array in zip(session.get_inputs(), arrays)}
    for _ in range(3):
        session.run(None, feed)
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feed)
        times.append(1e3 * (time.perf_counter() - start))
    print(json.dumps(times))
""")


def latencies(model: nn.Module, small: nn.Module, graph: ModelGraph, seconds: float) -> tuple[float, float]:
    """Median milliseconds per call of the full and the shrunk model."""
    inputs = random_inputs(model, graph.inputs, seed=0, batch=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "inputs.npz", *(tensor.numpy() for tensor in inputs))
        for file, network in (("full.onnx", model), ("small.onnx", small)):
            torch.onnx.export(FirstOutput(network, graph).eval(), inputs, folder / file, dynamo=True, verbose=False)
        times: dict[str, list[float]] = {"full.onnx": [], "small.onnx": []}
        for _ in range(ROUNDS):
            for file, found in times.items():
                command = [sys.executable, "-c", RUNNER, str(folder / file), str(folder / "inputs.npz"), str(seconds / ROUNDS)]
                found += json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return float(np.median(times["full.onnx"])), float(np.median(times["small.onnx"]))


def table(rows: list[Row], command: str) -> str:
    """Markdown."""
    lines = [
        "# Half of the units of every architecture",
        "",
        f"`{command}`: random weights, half of the units of every group that may lose units gone, float32 ONNX Runtime, one thread, batch 1.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|-" * len(COLUMNS) + "|",
    ]
    for row in rows:
        before, after = row.milliseconds, row.milliseconds_after
        speed = ["-"] * 3 if before is None or after is None else [f"{before:.2f}", f"{after:.2f}", f"{before / after:.2f}"]
        cells = [row.name, f"{row.operations}", f"{row.groups}, {len(row.frozen)}", f"{row.reachable_share:.3f}", f"{row.proof_error:.1e}"]
        cells += [f"{row.macs_after / row.macs:.3f}", f"{row.parameters_after / row.parameters:.3f}", *speed]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Frozen, with the reason of the first of each architecture:", ""]
    lines += [f"- {row.name}: {len(row.frozen)} groups, for example `{row.frozen[0]}`" for row in rows if row.frozen]
    lines += [f"- {row.name}: {row.note}" for row in rows if row.note]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--seconds", type=float, default=1.0, help="measuring time per model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [name for name in options.only.split(",") if name]
    rows = []
    for name, (build, example) in builders().items():
        if not chosen or name in chosen:
            rows.append(measure(name, build, example, options.seconds))
            print(json.dumps(asdict(rows[-1]))[:300], file=sys.stderr)
    text = table(rows, " ".join(["python benchmarks/architectures.py", *sys.argv[1:]]))
    if not chosen:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "architectures.md").write_text(text, encoding="utf-8")
        (RESULTS / "architectures.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
