"""The phase that trains codes: masks fixed, own weights through their codebooks, signs, gains and coarse heads through their roundings.

Two things are decided on validation data: bit widths before the last epochs, since a network that has not settled hardly feels how coarse its weights
are, and after the phase whether codebook entries move with all codes fixed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from tsn_toolkit.contracts import Split
from tsn_toolkit.numerics.paired import paired_difference
from tsn_toolkit.parts.adaptive_bits import adapt_bits_
from tsn_toolkit.parts.centroids import attach_centroids_, round_centroids_
from tsn_toolkit.parts.plane_weight import plane_wrapped
from tsn_toolkit.parts.subnet_weight import wrapped
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.fit_selected import fit_selected_
from tsn_toolkit.trainer.loop import Phase, fit, predict, steps_per_epoch
from tsn_toolkit.trainer.training_hooks import ExtraLoss, TrainingHooks
from tsn_toolkit.trainer.wrap_layers import wrap_coarse_head_

EXAMPLES = 500
"""Validation examples on which a bit width is judged, spread over the split."""
NARROWED_SHARE = 0.2
"""Share of the phase that trains through codes narrowed by adaptive bit widths; at least one epoch."""
NARROWED_RATE = 0.5
"""Peak learning rate of that stretch, relative to the task's."""


def fit_codes_(
    model: nn.Module,
    context: TaskContext,
    epochs: int,
    generator: torch.Generator,
    *,
    min_gain: float,
    extra_loss: ExtraLoss | None = None,
    label_weight: float = 1.0,
) -> None:
    """Trains through codes, in place; the epoch of the least validation loss stays, and codes are narrowed before the last epochs.

    Args:
        model: with wrapped layers and fixed masks.
        context: the task.
        epochs: passes over the training split.
        generator: of the shuffle and the augmentation.
        min_gain: smallest gain of a foldable norm.
        extra_loss: a teacher's loss.
        label_weight: factor of the cross entropy.
    """
    for _, wrapper, latent in plane_wrapped(model):
        wrapper.start_plane_(latent, context.precision.vectors)
    for _, wrapper, latent in wrapped(model):
        wrapper.fix_scale_(latent, context.precision.vectors)
    wrap_coarse_head_(model, context)
    codes = Phase("codes", epochs, context.learning_rate, "fall", select_best=True, label_weight=label_weight)
    if context.precision.adapt_bits:
        narrowed = max(1, round(NARROWED_SHARE * epochs))
        if epochs > narrowed:
            _fit_stretch_(model, context, replace(codes, epochs=epochs - narrowed), generator, min_gain, extra_loss)
            codes = replace(codes, name="narrowed codes", epochs=narrowed, learning_rate=NARROWED_RATE * context.learning_rate)
        choose_bit_widths_(model, context)
    _fit_stretch_(model, context, codes, generator, min_gain, extra_loss)


def _fit_stretch_(
    model: nn.Module, context: TaskContext, phase: Phase, generator: torch.Generator, min_gain: float, extra_loss: ExtraLoss | None
) -> None:
    """One stretch of the phase, codebooks fitted at its start and after each epoch but the last."""
    layers = list(wrapped(model))
    for _, wrapper, latent in layers:
        wrapper.fit_codebook_(latent)
    steps = steps_per_epoch(context.data.train, context.settings)

    def refit(step: int) -> None:
        if (step + 1) % steps == 0 and step + 1 < phase.epochs * steps:
            for _, wrapper, latent in layers:
                wrapper.fit_codebook_(latent)

    fit_selected_(model, context, phase, generator, min_gain=min_gain, hooks=TrainingHooks(extra_loss=extra_loss, after_step=refit))


def validation_losses(model: nn.Module, context: TaskContext, limit: int | None = None) -> NDArray[np.float64]:
    """Cross entropy of each of at most `limit` validation examples (all by default), float64 (n,); the model stays in its mode."""
    split, was_training = context.data.validation, model.training
    stride = 1 if limit is None else max(1, -(-len(split) // limit))
    part = Split(split.x[::stride], split.y[::stride])
    logits = predict(model, part, context.data, context.settings.device)
    model.train(was_training)
    losses: NDArray[np.float64] = functional.cross_entropy(logits.double(), part.y, reduction="none").numpy()
    return losses


def choose_bit_widths_(model: nn.Module, context: TaskContext) -> None:
    """Narrows the wrapped layers, in place, where the recipe says so; masks and scales must be fixed."""
    precision = context.precision
    if not precision.adapt_bits or len(context.data.validation) == 0:
        return
    choice = adapt_bits_(model, lambda: validation_losses(model, context, EXAMPLES), precision.bit_tolerance)
    for line in choice.lines():
        _note(context, line)


def tune_centroids_(
    model: nn.Module,
    context: TaskContext,
    epochs: int,
    generator: torch.Generator,
    *,
    extra_loss: ExtraLoss | None = None,
    label_weight: float = 1.0,
) -> None:
    """Moves the codebooks' entries with all codes fixed, in place, and keeps them, rounded, if the validation loss has not become worse.

    Norms, biases and head stay. Without validation examples nothing is tuned.

    Args:
        model: with wrapped layers, trained through their codebooks.
        context: the task.
        epochs: passes over the training split; 0 leaves all as it is.
        generator: of the shuffle and the augmentation.
        extra_loss: a teacher's loss.
        label_weight: factor of the cross entropy.
    """
    if epochs == 0 or len(context.data.validation) == 0:
        return
    before = validation_losses(model, context)
    kept = [(wrapper, wrapper.codebook, latent, latent.detach().clone()) for _, wrapper, latent in wrapped(model)]
    positions = attach_centroids_(model)
    if not positions:
        return
    phase = Phase("centroids", epochs, context.learning_rate, "fall", label_weight=label_weight)
    fit(
        model,
        context.data,
        phase,
        context.settings,
        parameters=[{"params": positions, "weight_decay": 0.0}],
        generator=generator,
        progress=context.progress,
        train_norms=False,
        hooks=TrainingHooks(extra_loss=extra_loss),
    )
    round_centroids_(model)
    difference = paired_difference(validation_losses(model, context), before)
    keep = difference.mean <= 0
    if not keep:
        for wrapper, codebook, latent, values in kept:
            wrapper.codebook = codebook
            latent.data.copy_(values)
    _note(context, f"centroids: validation loss {difference} on {difference.count} examples, {'kept' if keep else 'put back'}")


def _note(context: TaskContext, line: str) -> None:
    if context.note is not None:
        context.note(f"task `{context.data.name}`: {line}")
