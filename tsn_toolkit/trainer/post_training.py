"""The steps between learning and commit that change codes, vectors and ranges without training, each judged on validation data.

In this order, each on what the earlier ones left:

0. post-pruning (`parts/post_pruning.py`): own slots that do least are given up;
1. equalization (`parts/equalization.py`): channels between two layers get more even ranges, own codebooks are fitted anew;
2. rounding (`parts/learned_rounding.py` or `numerics/gptq.py`): own codes are chosen by what the layer puts out;
3. (integers and the norms' statistics are made: `trainer/finish_task.py`);
4. bias correction (`parts/bias_correction.py`): what coding did to the mean of a channel goes into norms and biases;
5. activation ranges (`quantizers/ranges.py`), last, since they depend on all of it.

Float outputs, which steps 2 and 4 aim at and errors are relative to, are those of the network with own weights as trained and not rounded, inherited
integers as they are. A step is fitted on training examples and kept unless it raises the validation loss (the mean paired difference is above 0; of
post-pruning, which has a tolerance, that difference plus one standard error is above it); otherwise every tensor is put back. A step that changed
nothing says why. The test split is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ActivationRange
from tsn_toolkit.numerics.gptq import gptq_round
from tsn_toolkit.numerics.paired import paired_difference
from tsn_toolkit.parts.bias_correction import correct_biases_
from tsn_toolkit.parts.equalization import equalize_
from tsn_toolkit.parts.finish import SmallIntegers, freeze_vectors_
from tsn_toolkit.parts.learned_rounding import learned_round
from tsn_toolkit.parts.post_pruning import coded_bytes, post_prune_
from tsn_toolkit.parts.rounding import Rule, float_copy, round_codes_
from tsn_toolkit.parts.step_record import LayerChange, StepRecord
from tsn_toolkit.parts.wrapping import plain_copy
from tsn_toolkit.quantizers.activations import build_integer_model
from tsn_toolkit.quantizers.ranges import DEFAULT_PERCENTILE, calibrate_ranges
from tsn_toolkit.trainer.codes_phase import EXAMPLES, validation_losses
from tsn_toolkit.trainer.context import PostTraining, TaskContext
from tsn_toolkit.trainer.loop import to_device, training_sample
from tsn_toolkit.trainer.norms import reestimate_norms_

BATCH = 64
"""Examples that run through the network together."""
INTEGER_EXAMPLES = 500
"""Validation examples on which activation ranges are judged, spread over the split."""

Losses = Callable[[nn.Module], NDArray[np.float64]]
CPU = torch.device("cpu")


class PostTrainer:
    """The steps of one task, all on the CPU; what they did is in `records`."""

    def __init__(self, context: TaskContext, norm_inputs: Sequence[torch.Tensor]):
        """Prepares the steps that the recipe asks for.

        Args:
            context: the task.
            norm_inputs: batches from which the norms' statistics will be averaged under the final integers; empty where they will stay.
        """
        self._context = replace(context, settings=replace(context.settings, device=CPU))
        self._settings: PostTraining = context.post_training
        self._norm_inputs = norm_inputs
        self._reference: nn.Module | None = None
        self.records: list[StepRecord] = []

    def improve_codes_(self, model: nn.Module) -> None:
        """Equalization and rounding of a wrapped model in evaluation mode, in place; keeps its float network for `improve_vectors_`."""
        settings, plan = self._settings, self._context.plan
        if settings.prune_share:
            self._prune_(model)
        if settings.equalize:
            precision = self._context.precision.vectors
            equalize = partial(equalize_, model, self._context.graph, self._batches(), max_code=plan.max_code, precision=precision)
            self._take(model, "equalization", "codes", equalize)
        if settings.correct_biases:
            self._reference = float_copy(model)
        if settings.rounding != "nearest":
            self._take(model, f"rounding ({settings.rounding})", "codes", lambda: round_codes_(model, self._batches(), _rule(settings)))

    def improve_vectors_(self, model: nn.Module) -> None:
        """Bias correction of a model whose weights are integers and whose norms have their final statistics, in place."""
        if self._reference is None:
            return
        reference = self._reference
        reestimate_norms_(reference, self._norm_inputs)
        norms = {layer.name: layer.norm for layer in self._context.graph.layers}
        self._norm_inputs = ()  # averaged already: averaging again would take the correction back
        self._take(model, "bias correction", "channels", lambda: correct_biases_(model, reference, norms, self._batches()))

    def choose_ranges(self, model: nn.Module, integers: SmallIntegers, inputs: Sequence[torch.Tensor]) -> dict[str, ActivationRange]:
        """Activation ranges of the finished model by the recipe's rule, unless the usual percentile gives a smaller validation loss.

        Args:
            model: every number final, evaluation mode; not changed.
            integers: of the model.
            inputs: batches of training inputs.
        """
        rule, percentile = self._settings.ranges, self._settings.percentile
        usual = calibrate_ranges(model, integers.q, integers.scale, inputs)
        if rule == "percentile" and percentile == DEFAULT_PERCENTILE:
            return usual
        name = f"activation ranges ({rule}{f' {percentile:g}' if rule == 'percentile' else ''})"
        chosen = calibrate_ranges(model, integers.q, integers.scale, inputs, rule=rule, percentile=percentile)
        changed = sum(chosen[key] != usual[key] for key in chosen)
        if changed == 0 or len(self._context.data.validation) == 0:
            reason = "there are no validation examples to judge it on" if changed else f"all are those of percentile {DEFAULT_PERCENTILE:g}"
            self._note(StepRecord(name, "ranges", "idle", reason=reason))
            return usual
        nets = [build_integer_model(model, integers.q, integers.scale, inputs[0], ranges=ranges) for ranges in (usual, chosen)]
        before, after = (validation_losses(net, self._context, INTEGER_EXAMPLES) for net in nets)
        loss = paired_difference(after, before)
        errors = [_logit_error(net, model, inputs) for net in nets]
        change = LayerChange("logits", changed, len(chosen), *errors)
        self._note(StepRecord(name, "ranges", "kept" if loss.mean <= 0 else "undone", (change,), loss))
        return chosen if loss.mean <= 0 else usual

    def finish(self) -> None:
        """Hands the records on, where there are any."""
        if self.records and self._context.keep is not None:
            self._context.keep("post_training", [record.as_plain() for record in self.records])

    def _prune_(self, model: nn.Module) -> None:
        """Post-pruning: batches are judged on some validation examples as the model stands, the whole on all with norms and vectors as stored."""
        settings, size_before = self._settings, coded_bytes(model)

        def step() -> tuple[LayerChange, ...]:
            losses = partial(validation_losses, model, self._context, EXAMPLES)
            return post_prune_(model, losses, share=settings.prune_share, tolerance=settings.prune_tolerance)

        record = self._judged(model, "post-pruning", "own slots", step, tolerance=settings.prune_tolerance)
        self._note(replace(record, bytes_before=size_before, bytes_after=coded_bytes(model)))

    def _take(self, model: nn.Module, name: str, counted: str, step: Callable[[], tuple[LayerChange, ...]]) -> None:
        """One step, kept or put back, and noted."""
        self._note(self._judged(model, name, counted, step))

    def _judged(
        self, model: nn.Module, name: str, counted: str, step: Callable[[], tuple[LayerChange, ...]], *, tolerance: float | None = None
    ) -> StepRecord:
        """One step, kept or put back; without a tolerance no rise of the mean loss is accepted."""
        if len(self._context.data.validation) == 0:
            return StepRecord(name, counted, "idle", reason="there are no validation examples to judge it on")
        before, state = self._losses(model), _copied(model)
        layers = step()
        after_state = model.state_dict()
        if all(torch.equal(after_state[key], tensor) for key, tensor in state.items()):
            reason = "no layer allows it" if all(layer.reason for layer in layers) else "every number was already what the step would choose"
            return StepRecord(name, counted, "idle", layers, reason=reason)
        loss = paired_difference(self._losses(model), before)
        worse = loss.mean > 0 if tolerance is None else loss.upper > tolerance * (1 + float(before.mean()))
        if worse:
            model.load_state_dict(state)
        return StepRecord(name, counted, "undone" if worse else "kept", layers, loss)

    def _losses(self, model: nn.Module) -> NDArray[np.float64]:
        """Of all validation examples, with norms and vectors as they will be stored."""
        finished = plain_copy(model)
        reestimate_norms_(finished, self._norm_inputs)
        freeze_vectors_(finished, self._context.graph.head, self._context.precision.vectors)
        return validation_losses(finished, self._context)

    def _batches(self) -> list[torch.Tensor]:
        sample = training_sample(self._context.data, self._settings.samples)
        return [to_device(part, CPU) for part in sample.split(BATCH)]

    def _note(self, record: StepRecord) -> None:
        self.records.append(record)
        if self._context.note is not None:
            for line in record.lines():
                self._context.note(f"task `{self._context.data.name}`: {line}")


def _rule(settings: PostTraining) -> Rule:
    if settings.rounding == "gptq":
        return partial(gptq_round, damping=settings.damping)
    return partial(learned_round, steps=settings.rounding_steps)


def _copied(model: nn.Module) -> Mapping[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def _logit_error(net: nn.Module, model: nn.Module, inputs: Sequence[torch.Tensor]) -> float:
    """|logits - float logits| / |float logits|."""
    wanted, got = (torch.cat([net_(x).double() for x in inputs]) for net_ in (model, net))
    return float((got - wanted).norm() / wanted.norm().clamp_min(1e-30))
