"""Networks for the C generator, their integer models, and programs compiled and run with a C compiler."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tsn_toolkit.contracts import ExtractedModel
from tsn_toolkit.export.c.lowering import lower
from tsn_toolkit.export.c.operations import IntegerProgram
from tsn_toolkit.quantizers.activations import IntegerModel, build_integer_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))
from export_models import Block, ResidualNet, extracted_of  # noqa: E402


class PlainNet(nn.Module):
    """Strided, dilated and padded convs of odd sizes with a norm, ReLU, max pooling with padding, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 7, 3, stride=2, padding=2, dilation=2, bias=False)
        self.bn1 = nn.BatchNorm2d(7)
        self.conv2 = nn.Conv2d(7, 9, (1, 3), padding=(0, 1))
        self.linear = nn.Linear(9 * 3 * 3, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.conv2(x)), 3, 2, 1)
        return self.linear(x.flatten(1))


class SeveralBlocks(nn.Module):
    """Residual blocks whose additions share quantizer modules, a shortcut conv and global pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Block(8, 8, 1, False), Block(8, 12, 2, True), Block(12, 12, 1, False))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.blocks(F.relu(self.bn(self.stem(x)))))
        return self.linear(torch.flatten(self.pool(x), 1))


class DepthwiseNet(nn.Module):
    """Depthwise and pointwise convs with ReLU6, an average over signed codes, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.pointwise = nn.Conv2d(8, 12, 1)
        self.pool = nn.AvgPool2d(2, padding=1)
        self.linear = nn.Linear(12 * 3 * 3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.pointwise(self.depthwise(self.stem(x))))
        return self.linear(x.view(x.size(0), -1))


class SeriesNet(nn.Module):
    """1-d convs, one of them grouped, max and average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(2, 6, 5, stride=1, padding=2)
        self.conv2 = nn.Conv1d(6, 8, 3, padding=2, dilation=2, groups=2)
        self.pool1, self.pool2 = nn.MaxPool1d(2), nn.AvgPool1d(2)
        self.linear = nn.Linear(8 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool1(torch.relu(self.conv1(x)))
        return self.linear(torch.flatten(self.pool2(F.relu(self.conv2(x))), 1))


class ConcatNet(nn.Module):
    """Two branches joined by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 5, 3, padding=1)
        self.linear = nn.Linear(11 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv1(x))
        x = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        return self.linear(F.max_pool2d(x, 2).flatten(1))


class ActivationNet(nn.Module):
    """Activations that are no clip, as modules, functions and a method, before layers, additions and a flatten; a norm before one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.Hardswish())
        self.conv2, self.conv3 = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.linear = nn.Linear(4 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        x = F.silu(self.conv2(x)) + x
        return self.linear(torch.sigmoid(self.conv3(F.hardsigmoid(x))).flatten(1))


class SoftmaxNet(nn.Module):
    """A softmax over a vector between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 9), nn.Linear(9, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(F.softmax(self.first(x.flatten(1)), dim=1))


SHAPES = {
    PlainNet: (3, 9, 9),
    ResidualNet: (3, 8, 8),
    SeveralBlocks: (3, 8, 8),
    DepthwiseNet: (3, 8, 8),
    SeriesNet: (2, 16),
    ConcatNet: (3, 8, 8),
    ActivationNet: (3, 8, 8),
    SoftmaxNet: (24,),
}
"""Network -> shape of its input."""


def examples(kind: type[nn.Module], count: int = 16, seed: int = 1) -> torch.Tensor:
    """Standard normal inputs of a network."""
    return torch.randn(count, *SHAPES[kind], generator=torch.Generator().manual_seed(seed))


def integer_model(extracted: ExtractedModel, x: torch.Tensor) -> IntegerModel:
    """The integer model of a task, calibrated on x."""
    return build_integer_model(extracted.model, extracted.q, extracted.scale, x)


@cache
def lowered(kind: type[nn.Module], seed: int = 0) -> IntegerProgram:
    """Integer operations of a network with random weights of 16 values per layer."""
    return lower(integer_model(extracted_of(kind(), seed), examples(kind)), SHAPES[kind])


def random_bytes(program: IntegerProgram, count: int, seed: int = 2) -> np.ndarray:
    """Stored input bytes over their whole range, int8 (count, *input shape); the first is all -128, the second all 127."""
    values = np.random.default_rng(seed).integers(-128, 128, (count, *program.source.shape)).astype(np.int8)
    values[0], values[1] = -128, 127
    return values


def build(folder: Path, sources: dict[str, str], *, compiler: str = "gcc", flags: tuple[str, ...] = ("-O2",), name: str = "program") -> Path:
    """Write the sources and compile every .c file but the generated mains with all warnings as errors; returns the program."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in sources.items():
        (folder / file).write_text(text, encoding="utf-8")
    units = sorted(file for file in sources if file.endswith(".c") and not file.startswith("run"))
    command = [compiler, "-std=c99", "-Wall", "-Wextra", "-Werror", *flags, *units, "-o", name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder / name


def main_of(task: str) -> str:
    """C text of a program that answers each input on stdin with the output and the index of the largest."""
    macro = task.upper()
    return f"""
#include <stdio.h>
#include "model.h"

static int8_t input[TSN_{macro}_INPUT_SIZE], output[TSN_{macro}_OUTPUT_SIZE];

int main(void)
{{
    while (fread(input, 1, sizeof input, stdin) == sizeof input) {{
        int32_t best = tsn_run_{task}(input, output);
        fwrite(output, 1, sizeof output, stdout);
        putchar((int)best);
    }}
    return 0;
}}
"""


def answers(command: list[str], program: IntegerProgram, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(output bytes int8 (n, output size), argmax (n,)) of a compiled program."""
    done = subprocess.run(command, input=inputs.tobytes(), capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    table = np.frombuffer(done.stdout, np.int8).reshape(len(inputs), program.target.size + 1)
    return table[:, :-1], table[:, -1]
