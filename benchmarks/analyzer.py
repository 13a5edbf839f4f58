"""What the analyzer costs: against torch.export alone, and as models grow.

    python benchmarks/analyzer.py                # all; --only chain, --only resnet50, ... prints alone; --repeats 3

Ratios: seconds of `trace` (graph and groups) over seconds of torch.export.export alone, measured in turns in one process, medians of the repeats.
Seconds are processor time of one thread, which other jobs on the machine disturb less than wall time.
Growth: `trace` on models of about 50 to 5,000 operations; the exponent is the slope of log seconds over log operations, by least squares.
Models are built here with random weights; nothing is downloaded. The Llama-type model has 1.2e9 parameters and stays on the meta device. A run of all
writes analyzer.md and analyzer.json into --out (default: results/ beside this file).
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness.provenance import processor, source_digest
from torch import nn
from torch.nn import functional

from tsn_toolkit.files import write_text
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.pipeline.summary import versions

RESULTS = Path(__file__).parent / "results"


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with norms, and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != 4 * width:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return torch.relu(y + self.shortcut(x))


def resnet50() -> nn.Module:
    """ResNet-50 for images of 224 x 224."""
    blocks: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(depth):
            blocks.append(Bottleneck(inputs, width, stride if number == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


class Block(nn.Module):
    """A block of a vision transformer, with one projection for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, -1))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class VisionTransformer(nn.Module):
    """ViT-B/16."""

    def __init__(self, width: int = 768, depth: int = 12, heads: int = 12) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, width, 16, 16), nn.Parameter(torch.zeros(1, 1, width))
        self.position, self.blocks = nn.Parameter(torch.zeros(1, 197, width)), nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class LlamaBlock(nn.Module):
    """Grouped-query attention with rotary positions and a gated perceptron, RMSNorm before each."""

    def __init__(self, width: int, hidden: int, heads: int, key_heads: int) -> None:
        super().__init__()
        self.head_dim, self.repeats = width // heads, heads // key_heads
        inner = key_heads * self.head_dim
        self.q, self.k, self.v = (nn.Linear(width, out, bias=False) for out in (width, inner, inner))
        self.o, self.norm1, self.norm2 = nn.Linear(width, width, bias=False), nn.RMSNorm(width), nn.RMSNorm(width)
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        n, length, _ = x.shape
        y = self.norm1(x)
        q, k, v = (layer(y).view(n, length, -1, self.head_dim).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = (item * cos + torch.cat([-item.chunk(2, -1)[1], item.chunk(2, -1)[0]], -1) * sin for item in (q, k))
        k, v = (item.repeat_interleave(self.repeats, 1) for item in (k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(n, length, -1))
        y = self.norm2(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    """The sizes of Llama 3.2 1B."""

    def __init__(self, vocabulary: int = 128256, width: int = 2048, hidden: int = 8192, heads: int = 32, key_heads: int = 8, depth: int = 16) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(vocabulary, width), nn.RMSNorm(width)
        self.blocks = nn.ModuleList(LlamaBlock(width, hidden, heads, key_heads) for _ in range(depth))
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("frequency", 5e5 ** -torch.linspace(0, 1, width // heads // 2))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        angle = torch.arange(ids.shape[1], device=ids.device)[:, None] * self.frequency
        angle = torch.cat([angle, angle], -1)
        x, cos, sin = self.embed(ids), angle.cos(), angle.sin()
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x))


class Chain(nn.Module):
    """Residual blocks of six operations each."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 10)
        self.convs = nn.ModuleList(nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1)]) for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for first, norm, second in self.convs:
            x = torch.relu(x + second(torch.relu(norm(first(x)))))
        return self.head(x.mean((2, 3)))


@dataclass(frozen=True)
class Case:
    """A model and its example."""

    build: Callable[[], nn.Module]
    example: torch.Tensor
    meta: bool = False


CASES = {
    "resnet50": Case(resnet50, torch.zeros(1, 3, 224, 224)),
    "vit_b_16": Case(VisionTransformer, torch.zeros(1, 3, 224, 224)),
    "llama_1b_meta": Case(Llama, torch.zeros(1, 128, dtype=torch.int64), meta=True),
}
CHAIN_BLOCKS = (8, 25, 80, 250, 832)


def seconds(function: Callable[[], object]) -> float:
    """Processor time of one call, without the garbage of the one before."""
    gc.collect()
    start = time.process_time()
    function()
    return time.process_time() - start


def measure_ratio(name: str, repeats: int) -> dict[str, Any]:
    """Print and return one case: medians, their ratio, and the size of the graph."""
    case = CASES[name]
    with torch.device("meta" if case.meta else "cpu"):
        model = case.build().eval()
    example = case.example.to("meta") if case.meta else case.example

    def export() -> object:
        with torch.no_grad():
            return torch.export.export(model, (example,), strict=False)

    export()  # torch imports half of itself at the first call
    graph = trace(model, example)
    pairs = [(seconds(lambda: trace(model, example)), seconds(export)) for _ in range(repeats)]
    ours, theirs = (statistics.median(side) for side in zip(*pairs))
    row = {
        "model": name,
        "trace_s": round(ours, 3),
        "export_s": round(theirs, 3),
        "ratio": round(ours / theirs, 3),
        "operations": len(graph.nodes),
        "open_groups": sum(not group.frozen for group in graph.groups),
    }
    print("  ".join(f"{key} {value}" for key, value in row.items()))
    return row


def measure_growth(repeats: int) -> dict[str, Any]:
    """Print and return seconds by number of operations, and the exponent."""
    points = []
    for blocks in CHAIN_BLOCKS:
        model, example = Chain(blocks).eval(), torch.zeros(1, 3, 8, 8)
        operations = len(trace(model, example).nodes)
        taken = statistics.median(seconds(partial(trace, model, example)) for _ in range(repeats))
        print(f"chain  trace_s {taken:.3f}  operations {operations}")
        points.append({"operations": operations, "trace_s": round(taken, 3)})
    exponent = exponent_of(points)
    print(f"chain  exponent {exponent:.2f}")
    return {"points": points, "exponent": round(exponent, 3)}


def exponent_of(points: Sequence[Mapping[str, float]]) -> float:
    """Slope of log seconds over log operations, by least squares."""
    sizes, times = ([point[key] for point in points] for key in ("operations", "trace_s"))
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def render(result: Mapping[str, Any]) -> str:
    """The page: no number in it is typed by hand."""
    growth = result["growth"]
    lines = [
        "# What the analyzer costs",
        "",
        f"`{result['command']}`, {result['processor']}; " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()) + ".",
        "",
        f"Processor seconds of one thread, medians of {result['repeats']} runs in turns: `trace` (graph, groups, proof) and torch.export alone.",
        "",
        "| model | operations | open groups | trace, s | torch.export, s | ratio |",
        "|-|-|-|-|-|-|",
        *(
            f"| {row['model']} | {row['operations']} | {row['open_groups']} | {row['trace_s']:.2f} | {row['export_s']:.2f} | {row['ratio']:.2f} |"
            for row in result["ratios"]
        ),
        "",
        f"Residual chains: seconds grow with operations to the power of {growth['exponent']:.2f}.",
        "",
        "| operations | trace, s |",
        "|-|-|",
        *(f"| {point['operations']} | {point['trace_s']:.2f} |" for point in growth["points"]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[*CASES, "chain"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ratios = [measure_ratio(name, arguments.repeats) for name in CASES if arguments.only in (None, name)]
    growth = measure_growth(arguments.repeats) if arguments.only in (None, "chain") else None
    if arguments.only is not None:
        return
    result: dict[str, Any] = {"command": f"python benchmarks/analyzer.py --repeats {arguments.repeats}", "repeats": arguments.repeats}
    result |= {"ratios": ratios, "growth": growth, "versions": versions(), "processor": processor(), "source_sha256": source_digest()}
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out / "analyzer.json", json.dumps(result, indent=1) + "\n")
    write_text(arguments.out / "analyzer.md", render(result))


if __name__ == "__main__":
    main()
