"""A compressed network without training: best-scored units, best-scored weights inside them, exact k-means codes; and what it answers.

Of every layer the mask takes the best scores of the slots inside the kept units, and one int8 codebook is fitted to the weights that stay, in units
of the channel's scale (its largest weight is `max_code`), as the store would hold them. Batch norms take the statistics of the examples themselves:
what compression moves most are the means and variances that reach them, and these are averaged anew before a compressed network is used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import comb, log2, prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.errors import PlanError
from tsn_toolkit.graph.units import kept_entries, mask_units_, tensors_of
from tsn_toolkit.importance import magnitude
from tsn_toolkit.importance.ranking.checked import checked_scores
from tsn_toolkit.masks.granularity import parse_granularity, structured_mask
from tsn_toolkit.numerics.entropy import ideal_bits
from tsn_toolkit.numerics.kmeans import assign_codes, fit_codebook
from tsn_toolkit.plan.choose import best

Scores = Mapping[str, NDArray[np.float64]]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class LayerOption:
    """How one layer is stored: density of its slots inside the kept units, granularity of the mask, bits per code."""

    density: float
    granularity: str
    bit_width: int


@dataclass(frozen=True)
class Candidate:
    """A compressed network: option of every layer (left out: as it is) and number of units of every group (left out: all)."""

    layers: Mapping[str, LayerOption] = field(default_factory=dict)
    units: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """What a network says of every example.

    Attributes:
        losses: float64 (n,).
        correct: float64 (n,), 1 where the largest logit is the label.
        log_probabilities: float64 (n, classes), log softmax of the logits.
    """

    losses: NDArray[np.float64]
    correct: NDArray[np.float64]
    log_probabilities: NDArray[np.float64]


def divergences(before: Answers, after: Answers) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of every example's class probabilities after from those before, in nats, at least 0, float64 (n,).

    It is the increase of the cross entropy that is to be expected where the probabilities before are true, without what the labels of a few examples
    add by chance: an option cannot look better than no compression.
    """
    summed: NDArray[np.float64] = (np.exp(before.log_probabilities) * (before.log_probabilities - after.log_probabilities)).sum(axis=1)
    return np.maximum(summed, 0.0)


class Examiner:
    """Measures candidates on the same examples, one forward pass each; works on a copy of the model, restored bit by bit after every pass."""

    def __init__(
        self,
        model: nn.Module,
        graph: ModelGraph,
        examples: tuple[torch.Tensor, torch.Tensor],
        loss: Loss,
        *,
        max_code: int,
        batch_size: int = 256,
        unit_scores: Scores | None = None,
        weight_scores: Scores | None = None,
    ) -> None:
        """An examiner.

        Args:
            model: trained.
            graph: of the model.
            examples: inputs (n, ...) as the model takes them, labels int64 (n,).
            loss: (logits, labels) -> one loss per example (n,), for example `cross_entropy` with `reduction="none"`.
            max_code: largest |q| of a code.
            batch_size: examples that a batch norm sees at a time.
            unit_scores, weight_scores: larger = kept longer; default: magnitude.
        """
        self.model = copy.deepcopy(model).eval()
        self.graph, self.loss, self.max_code = graph, loss, max_code
        self.passes = 0
        self._batches = list(zip(torch.split(examples[0], batch_size), torch.split(examples[1], batch_size), strict=True))
        self._units = dict(magnitude.score(model, graph) if unit_scores is None else unit_scores)
        self._weights = dict(magnitude.weight_scores(model, graph) if weight_scores is None else weight_scores)
        self._last: tuple[str, LayerOption, CodedWeight] | None = None
        self._state = {name: tensor.detach().clone() for name, tensor in tensors_of(self.model).items()}

    def unit_masks(self, units: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
        """Group name -> bool (size,), the best-scored units."""
        sizes = {group.name: group.size for group in self.graph.groups}
        fewer = {name: keep for name, keep in units.items() if keep < sizes[name]}
        scores = checked_scores(self._units, {name: (sizes[name],) for name in fewer}, "group")
        return {name: best(scores[name], keep) for name, keep in fewer.items()}

    def answers(self, candidate: Candidate | None = None) -> Answers:
        """What the compressed network (none: the model as it is) answers.

        Raises:
            PlanError: the loss does not give one number per example, or one is not finite.
        """
        with self.applied(candidate or Candidate()) as model, torch.no_grad():
            norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
            for norm in norms:
                norm.train()
            outputs = [model(x) for x, _ in self._batches]
            for norm in norms:
                norm.eval()
        self.passes += 1
        labels = [y for _, y in self._batches]
        losses = [self.loss(logits, y) for logits, y in zip(outputs, labels, strict=True)]
        for values, y in zip(losses, labels, strict=True):
            if values.shape != y.shape or not torch.isfinite(values).all():
                raise PlanError(
                    f"`loss` must give one finite number per example, got shape {tuple(values.shape)} for {len(y)} examples, finite: "
                    f"{bool(torch.isfinite(values).all())}. Use a loss with reduction none, and check the model on the validation data."
                )
        correct = [(logits.argmax(1) == y).double() for logits, y in zip(outputs, labels, strict=True)]
        spoken = torch.cat(outputs).double().log_softmax(1)
        return Answers(torch.cat(losses).double().cpu().numpy(), torch.cat(correct).cpu().numpy(), spoken.cpu().numpy())

    @contextmanager
    def applied(self, candidate: Candidate) -> Iterator[nn.Module]:
        """The working copy as the candidate has it, for the time of the block."""
        masks = self.unit_masks(candidate.units)
        dims = kept_entries(self.graph, masks)
        try:
            mask_units_(self.model, self.graph, masks)
            for name, option in candidate.layers.items():
                weight = self.model.get_parameter(f"{name}.weight")
                index = _inside(dims.get(f"{name}.weight", {}), weight.shape)
                whole = f"{name}.weight" not in dims
                codes = self._coded(name, option) if whole else self._coded_inside(name, option, index)
                with torch.no_grad():
                    weight[tuple(torch.from_numpy(i) for i in index)] = torch.from_numpy(codes.values).to(weight)
            yield self.model
        finally:
            with torch.no_grad():
                for name, tensor in tensors_of(self.model).items():
                    tensor.copy_(self._state[name])

    def size_bits(self, name: str, option: LayerOption) -> float:
        """Entropy of the mask and of the codes of one full layer under an option, in bits."""
        codes = self._coded(name, option)
        return mask_bits(codes.values.shape, option, codes.kept) + codes.code_bits

    def _coded(self, name: str, option: LayerOption) -> CodedWeight:
        """A full layer's codes; those asked for last are kept, because their size and their loss are asked for in turn."""
        if self._last is None or self._last[:2] != (name, option):
            codes = code_weight(self._state[f"{name}.weight"].cpu().numpy(), self._weights[name], option, self.max_code)
            self._last = (name, option, codes)
        return self._last[2]

    def _coded_inside(self, name: str, option: LayerOption, index: tuple[NDArray[np.intp], ...]) -> CodedWeight:
        """Codes of the slots at `index`."""
        return code_weight(self._state[f"{name}.weight"].cpu().numpy()[index], self._weights[name][index], option, self.max_code)


@dataclass(frozen=True)
class CodedWeight:
    """A weight as codes would hold it: float32 values in its shape, number of slots kept, entropy of the codes in bits."""

    values: NDArray[np.float32]
    kept: int
    code_bits: float


def code_weight(weight: NDArray[np.float32], scores: NDArray[np.float64], option: LayerOption, max_code: int) -> CodedWeight:
    """Mask and codes of one weight (out, ...) with scores of the same shape."""
    mask = structured_mask(torch.from_numpy(scores), option.density, parse_granularity(option.granularity)).numpy()
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scale = np.maximum(largest, max(float(largest.max(initial=0.0)), 1e-8) * 1e-3).astype(np.float64) / max_code
    scale = scale.reshape(-1, *([1] * (weight.ndim - 1)))
    q = np.clip(weight / scale, -max_code, max_code)[mask]
    codebook = fit_codebook(q, option.bit_width, max_code)
    codes = assign_codes(q, codebook)
    values = np.zeros(weight.shape)
    values[mask] = codebook[codes]
    return CodedWeight((values * scale).astype(np.float32), int(mask.sum()), ideal_bits(np.bincount(codes, minlength=1)))


def mask_bits(shape: tuple[int, ...], option: LayerOption, kept: int) -> float:
    """Entropy of a mask of this form over a weight (out, ...), in bits: of its granules, or of the choice of n in every m.

    >>> mask_bits((4, 8), LayerOption(0.5, "element", 4), 16), mask_bits((4, 8), LayerOption(0.5, "block(8)", 4), 16)
    (32.0, 4.0)
    """
    form, slots = parse_granularity(option.granularity), prod(shape)
    if form.block:
        granules = shape[0] * -(-(slots // shape[0]) // form.block)
        return ideal_bits([granules * kept / slots, granules * (1 - kept / slots)])
    return slots / form.group * log2(comb(form.group, form.keep)) if form.group else 0.0


def _inside(dims: Mapping[int, NDArray[np.bool_]], shape: torch.Size) -> tuple[NDArray[np.intp], ...]:
    """Index of the slots inside the kept units."""
    return np.ix_(*(np.flatnonzero(dims[dim]) if dim in dims else np.arange(size) for dim, size in enumerate(shape)))
