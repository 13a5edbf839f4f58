"""A compressed network without training: best-scored units, best-scored weights inside them, exact k-means codes; and what it answers.

Of every layer the mask takes the best scores of the slots inside the kept units, and one int8 codebook is fitted to the weights that stay, in units
of the channel's scale (its largest weight is `max_code`), as the store would hold them. Batch norms take the statistics of the examples themselves:
what compression moves most are the means and variances that reach them, and these are averaged anew before a compressed network is used.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import comb, log2, prod
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.graph.units import kept_entries, mask_units_, tensors_of
from tsn_toolkit.importance import magnitude
from tsn_toolkit.importance.ranking.checked import checked_scores
from tsn_toolkit.masks.granularity import parse_granularity, structured_mask
from tsn_toolkit.numerics.entropy import ideal_bits
from tsn_toolkit.numerics.kmeans import assign_codes, fit_codebook
from tsn_toolkit.plan.answers import Answers, Loss, answers_of
from tsn_toolkit.plan.choose import best

Scores = Mapping[str, NDArray[np.float64]]


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


class Measuring(Protocol):
    """What measures candidates on the same examples."""

    model: nn.Module
    graph: ModelGraph
    passes: int

    def answers(self, candidate: Candidate | None = None) -> Answers:
        """What the compressed network (none: the model as it is) answers."""

    def size_bits(self, name: str, option: LayerOption) -> float:
        """Entropy of the mask and of the codes of one full layer under an option, in bits."""


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

    def answers(self, candidate: Candidate | None = None) -> Answers:
        """What the compressed network (none: the model as it is) answers.

        Raises:
            PlanError: the loss does not give one number per example, or one is not finite.
        """
        with self.applied(candidate or Candidate()) as model:
            norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
            for norm in norms:
                norm.train()
            found = answers_of(model, self._batches, self.loss)
            for norm in norms:
                norm.eval()
        self.passes += 1
        return found

    @contextmanager
    def applied(self, candidate: Candidate) -> Iterator[nn.Module]:
        """The working copy as the candidate has it, for the time of the block."""
        masks = masks_of(self.graph, self._units, candidate.units)
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
        return self._coded(name, option).bits(option)

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

    def bits(self, option: LayerOption) -> float:
        """Entropy of the mask and of the codes, in bits."""
        return mask_bits(self.values.shape, option, self.kept) + self.code_bits


def masks_of(graph: ModelGraph, scores: Scores, units: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
    """Group name -> bool (size,), the best-scored units, of every group that loses some."""
    sizes = {group.name: group.size for group in graph.groups}
    fewer = {name: keep for name, keep in units.items() if keep < sizes[name]}
    checked = checked_scores(scores, {name: (sizes[name],) for name in fewer}, "group")
    return {name: best(checked[name], keep) for name, keep in fewer.items()}


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
