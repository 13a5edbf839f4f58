"""The one training loop. A strategy says what trains, for how long and what happens after a step; the loop does the rest."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import isnan
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from tsn_toolkit.contracts import Split, TaskData
from tsn_toolkit.data.augment import augment
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.errors import LearningError
from tsn_toolkit.trainer.training_hooks import PLAIN, TrainingHooks, Visible

Progress = Callable[[str, int, int], None]
"""Called with (phase, done steps, all steps)."""

EVALUATION_BATCH = 250


@dataclass(frozen=True)
class TrainingSettings:
    """What every phase shares.

    Attributes:
        batch_size: examples per step.
        optimizer: `sgd` (Nesterov momentum) or `adam`.
        momentum: of `sgd`.
        weight_decay: as the optimizer applies it (decoupled for `adam`).
        augment: names of augmentations, in order.
        label_smoothing: of the cross entropy, a fraction.
        device: where tensors live.
        dtype: autocast dtype; float32 switches autocast off.
    """

    batch_size: int
    optimizer: Literal["sgd", "adam"]
    momentum: float
    weight_decay: float
    augment: tuple[str, ...]
    label_smoothing: float
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Phase:
    """One stretch of training.

    Attributes:
        name: shown in progress and log.
        epochs: passes over the training split.
        learning_rate: the peak.
        schedule: `rise` (linear from a tenth to the peak), `fall` (cosine from the peak to 0) or `hill` (rise for a fifth, then fall).
        label_weight: factor of the cross entropy; below 1 a teacher's `extra_loss` decides more.
        select_best: put back the state with the least validation loss at the end of the phase.
        first_epoch: the number that hooks are told of the first epoch; not 0 where a task is trained in several stretches.
    """

    name: str
    epochs: int
    learning_rate: float
    schedule: Literal["rise", "fall", "hill"] = "hill"
    select_best: bool = False
    label_weight: float = 1.0
    first_epoch: int = 0


def rate_at(phase: Phase, step: int, steps: int) -> float:
    """Learning rate of step 0..steps-1 of a phase."""
    done = (step + 0.5) / steps
    if phase.schedule == "rise":
        return phase.learning_rate * (0.1 + 0.9 * done)
    peak = 0.2 if phase.schedule == "hill" else 0.0
    if done < peak:
        return phase.learning_rate * (0.1 + 0.9 * done / peak)
    cosine = torch.cos(torch.tensor(torch.pi * (done - peak) / (1 - peak), dtype=torch.float64))
    return phase.learning_rate * 0.5 * (1 + float(cosine))


def steps_per_epoch(split: Split, settings: TrainingSettings) -> int:
    """Full batches of a split; one at least."""
    return max(1, len(split) // settings.batch_size)


def fit(
    model: nn.Module,
    task: TaskData,
    phase: Phase,
    settings: TrainingSettings,
    *,
    parameters: Iterable[dict],
    generator: torch.Generator,
    progress: Progress | None = None,
    train_norms: bool = True,
    hooks: TrainingHooks = PLAIN,
) -> list[dict[str, float]]:
    """Trains in place.

    Args:
        model: logits of shape (n, classes) from normalised inputs.
        task: its training split is shuffled by `generator`; its validation split is evaluated after each epoch.
        phase: how long and how fast.
        settings: what every phase shares.
        parameters: optimizer groups; a group's `rate` (default 1) multiplies the learning rate.
        generator: of the shuffle and the augmentation.
        progress: called after each step.
        train_norms: False keeps batch norms in evaluation mode, so that their statistics stay.
        hooks: what the strategy adds.

    Returns:
        One record per epoch: `loss` (training mean), `validation_loss`, `validation_accuracy`.

    Raises:
        LearningError: weights at the end are not finite.
    """
    groups = [{"rate": 1.0, **group} for group in parameters]
    optimizer = _optimizer(groups, settings) if hooks.make_optimizer is None else hooks.make_optimizer(groups)
    history: list[dict[str, float]] = []
    best: tuple[float, dict] | None = None
    step = 0
    for epoch in range(phase.epochs):
        model.train()
        if not train_norms:
            _hold_norms_(model)
        if hooks.before_epoch is not None:
            hooks.before_epoch(phase.first_epoch + epoch)
        chosen = None if hooks.examples is None else hooks.examples.chosen(phase.first_epoch + epoch)
        count, total = max(1, len(task.train if chosen is None else chosen) // settings.batch_size), 0.0
        for index, (taken, x, y) in enumerate(training_batches(task, settings, generator, count, chosen)):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(phase, epoch * count + index, phase.epochs * count) * group["rate"]
            optimizer.zero_grad()
            loss, logits = _plain_gradients(model, x, y, settings, phase, hooks) if hooks.gradients is None else hooks.gradients(x, y)
            total += loss
            if hooks.examples is not None:
                hooks.examples.observe(taken, logits.argmax(1).cpu() == y.cpu())
            if hooks.before_step is not None:
                hooks.before_step(step)
            optimizer.step()
            if hooks.after_step is not None:
                hooks.after_step(step)
            if progress is not None:
                progress(phase.name, epoch * count + index + 1, phase.epochs * count)
            step += 1
        loss, accuracy = evaluate(model, task.validation, task, settings.device, hooks.visible)
        history.append({"loss": total / count, "validation_loss": loss, "validation_accuracy": accuracy})
        if phase.select_best and (best is None or loss < best[0] or isnan(best[0])):
            best = (loss, copy.deepcopy(model.state_dict()))
    if best is not None:
        model.load_state_dict(best[1])
    _check_finite(model, task, phase)
    return history


def _check_finite(model: nn.Module, task: TaskData, phase: Phase) -> None:
    broken = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    if broken:
        raise LearningError(
            f"Task `{task.name}` diverged in phase `{phase.name}`: `{broken[0]}` and {len(broken) - 1} others are no finite numbers any more "
            f"(peak learning rate {phase.learning_rate:g}). Lower `training.learning_rate`, or check the inputs' `data.mean`, `data.std`."
        )


def _hold_norms_(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _optimizer(groups: list[dict], settings: TrainingSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.AdamW(groups, lr=0.0, weight_decay=settings.weight_decay, fused=True)
    nesterov = settings.momentum > 0
    return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=nesterov, weight_decay=settings.weight_decay, fused=True)


def _plain_gradients(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, settings: TrainingSettings, phase: Phase, hooks: TrainingHooks
) -> tuple[float, torch.Tensor]:
    """Gradients of one batch; the loss, and the logits (n, classes) that compete."""
    with torch.autocast(settings.device.type, settings.dtype, enabled=settings.dtype != torch.float32):
        logits = model(x)
    logits = logits.float() if hooks.visible is None else hooks.visible(logits.float(), y)
    loss = phase.label_weight * functional.cross_entropy(logits, y, label_smoothing=settings.label_smoothing)
    if hooks.extra_loss is not None:
        loss = loss + hooks.extra_loss(x)
    loss.backward()
    return float(loss.detach()), logits.detach()


def training_batches(
    task: TaskData, settings: TrainingSettings, generator: torch.Generator, steps: int, chosen: torch.Tensor | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """`steps` shuffled, normalised, augmented batches (positions, inputs, labels); a short last batch is dropped unless it is the only one.

    Args:
        task: its training split is read.
        settings: batch size, augmentation, device.
        generator: of the shuffle and the augmentation.
        steps: number of batches.
        chosen: positions in the training split that take part, int64 (n,); None: all.
    """
    order = torch.randperm(len(task.train) if chosen is None else len(chosen), generator=generator)
    order = order if chosen is None else chosen[order]
    for step in range(steps):
        index = order[step * settings.batch_size : (step + 1) * settings.batch_size]
        x = normalise(task.train.x[index], task.mean, task.std)
        if settings.augment:
            x = augment(x, settings.augment, generator)
        yield index, to_device(x, settings.device), task.train.y[index].to(settings.device)


def plain_batches(split: Split, task: TaskData, size: int, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The split in its own order, normalised, without augmentation."""
    for start in range(0, len(split), size):
        x = normalise(split.x[start : start + size], task.mean, task.std)
        yield to_device(x, device), split.y[start : start + size].to(device)


def spread_batches(task: TaskData, size: int, count: int, device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """At most `count` normalised batches of training inputs and labels, spread over the split, without augmentation."""
    stride = max(1, len(task.train) // (size * count))
    return list(plain_batches(Split(task.train.x[::stride], task.train.y[::stride]), task, size, device))[:count]


def training_sample(task: TaskData, count: int) -> torch.Tensor:
    """At most `count` normalised training inputs, spread over the split: (n, ...)."""
    stride = max(1, len(task.train) // count)
    return normalise(task.train.x[::stride][:count], task.mean, task.std)


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Images go channels-last, which convolutions on CPU and GPU prefer."""
    return x.to(device, memory_format=torch.channels_last) if x.dim() == 4 else x.to(device)


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, task: TaskData, device: torch.device, visible: Visible | None = None) -> tuple[float, float]:
    """(mean cross entropy, accuracy) of a split in evaluation mode and float32; an empty split gives (nan, nan)."""
    if len(split) == 0:
        return float("nan"), float("nan")
    was_training = model.training
    model.eval()
    loss, correct = 0.0, 0
    for x, y in plain_batches(split, task, EVALUATION_BATCH, device):
        logits = model(x).float() if visible is None else visible(model(x).float(), y)
        loss += float(functional.cross_entropy(logits, y, reduction="sum"))
        correct += int((logits.argmax(1) == y).sum())
    model.train(was_training)
    return loss / len(split), correct / len(split)


@torch.no_grad()
def predict(model: nn.Module, split: Split, task: TaskData, device: torch.device) -> torch.Tensor:
    """Logits (n, classes) of a split in evaluation mode, float32, on the CPU."""
    model.eval()
    return torch.cat([model(x).float().cpu() for x, _ in plain_batches(split, task, EVALUATION_BATCH, device)])
