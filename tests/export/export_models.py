"""Models with random integer weights for the export tests."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tsn_toolkit.contracts import ExtractedModel


class ResidualNet(nn.Module):
    """conv - norm - ReLU, one residual block, pool, flatten, linear."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)) + x)
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


class Block(nn.Module):
    """A basic block of a CIFAR ResNet, without a ReLU after the addition."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)) if shortcut else nn.Sequential()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x)


class ResNet20(nn.Module):
    """A CIFAR ResNet-20 with a wide stem and a 1x1 shortcut in each layer's first block."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Block(64, 16, 1, True), Block(16, 16, 1, False), Block(16, 16, 1, False))
        self.layer2 = nn.Sequential(Block(16, 32, 2, True), Block(32, 32, 1, False), Block(32, 32, 1, False))
        self.layer3 = nn.Sequential(Block(32, 64, 2, True), Block(64, 64, 1, False), Block(64, 64, 1, False))
        self.linear = nn.Linear(256, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for layer in (self.layer1, self.layer2, self.layer3):
            x = F.relu(layer(x))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


def extracted_of(model: nn.Module, seed: int = 0, name: str = "task") -> ExtractedModel:
    """Fill a model with random codes of 16 distinct values per layer, random statistics and a negative gain in channel 0 of every norm."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(size: int, low: float, high: float) -> torch.Tensor:
        return torch.rand(size, generator=generator) * (high - low) + low

    q, scale = {}, {}
    with torch.no_grad():
        for path, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                size = module.num_features
                module.running_mean.copy_(uniform(size, -0.2, 0.2))
                module.running_var.copy_(uniform(size, 0.5, 1.5))
                module.weight.copy_(uniform(size, 0.25, 0.75))
                module.weight[0] *= -1
                module.bias.copy_(uniform(size, -0.2, 0.2))
            elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
                book = torch.randint(-126, 127, (16,), generator=generator)
                book[0], book[1] = 127, -127
                codes = book[torch.randint(0, 16, module.weight.shape, generator=generator)]
                steps = uniform(len(codes), 0.5, 1.5) * (2 / module.weight[0].numel()) ** 0.5 / 80
                q[path], scale[path] = codes.numpy().astype(np.int8), steps.numpy()
                module.weight.copy_(steps.reshape(-1, *[1] * (codes.dim() - 1)) * codes)
                if module.bias is not None:
                    module.bias.copy_(uniform(len(codes), -0.2, 0.2))
    return ExtractedModel(task=name, model=model.eval(), q=q, scale=scale, macs=1000, dense_macs=2000, proof_error=0.0)


def with_smaller_codes(extracted: ExtractedModel, largest: int = 63) -> ExtractedModel:
    """The same task with codes halved and clipped to +-largest; its model is changed in place."""
    q = {path: np.clip(codes // 2, -largest, largest).astype(np.int8) for path, codes in extracted.q.items()}
    with torch.no_grad():
        for path, codes in q.items():
            steps = torch.from_numpy(extracted.scale[path]).reshape(-1, *[1] * (codes.ndim - 1))
            extracted.model.get_submodule(path).weight.copy_(steps * torch.from_numpy(codes.astype(np.float32)))
    return dataclasses.replace(extracted, q=q)


def readme_output(package: Path) -> str:
    """What the code in a package's README prints, run in the package's folder by a fresh interpreter that cannot import the toolkit."""
    code = (package / "README.md").read_text().split("```python\n")[1].split("```")[0]
    blocked = "import sys; sys.modules['tsn_toolkit'] = None\n"
    done = subprocess.run([sys.executable, "-c", blocked + code], cwd=package, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def inputs(count: int, size: int = 8, seed: int = 1) -> torch.Tensor:
    """Standard normal images (count, 3, size, size)."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
