"""`tsn init`: a recipe and a model file that run as they are, to be changed into one's own."""

from __future__ import annotations

from pathlib import Path

from tsn_toolkit.errors import RunError
from tsn_toolkit.files import write_text

MODEL_FILE = "model.py"
RECIPE_FILE = "recipe.yaml"

MODEL_TEXT = '''"""Any nn.Module does. The one rule: norms keep running statistics, so that one example is answered like many."""

from torch import nn


def make_model(width: int = 16) -> nn.Module:
    """1x8x8 images -> 10 logits; each task gets a classifier of its own in place of the last layer."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, 10),
    )
'''

RECIPE_TEXT = """\
# A complete run: `tsn run {recipe}`. Every key and its default: `tsn run {recipe} --dry-run`.
schema: 1
name: starter
description: Handwritten digits, 5 tasks of 2 classes, a model of your own.
seed: 0

model:
  factory: {model}:make_model(width=16)   # or package.module:factory
  # checkpoint: ${{MY_FOLDER}}/weights.pth        # a trained model: state dict, .pth or .safetensors

data:
  source: digits                               # or image-folder, csv, npz, idx, cifar-binary, factory, ...
  validation: 0.15

tasks:
  split: classes
  per_task: 2

strategy:
  name: tsn                                    # `tsn strategies list`

plan:
  units_keep: 0.75                             # fraction of the channels of each group that stay: saves time
  density: 0.3                                 # fraction of the weights inside them that is used: saves bytes
  bit_width: 4

training:
  epochs: 12
  batch_size: 32
  optimizer: adam
  learning_rate: 0.005
  weight_decay: 0.0

parent: previous
targets: [cpu_onnxruntime]                     # `tsn targets list`; on x86 without VNNI cpu_onnxruntime_no_vnni is faster
"""


def write_starter(folder: Path) -> tuple[Path, Path]:
    """Writes both files; returns their paths, the recipe first.

    Raises:
        RunError: one of them is there already.
    """
    recipe, model = folder / RECIPE_FILE, folder / MODEL_FILE
    for path in (recipe, model):
        if path.exists():
            raise RunError(f"{path} exists already and is left as it is. Name another folder.")
    write_text(model, MODEL_TEXT)
    write_text(recipe, RECIPE_TEXT.format(recipe=recipe, model=MODEL_FILE))
    return recipe, model
