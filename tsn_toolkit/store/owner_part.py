"""An opened part of the trunk or of a task: what its metadata say, and readers of everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import ActivationRange, FreeParameterRecord, HeadState, NormState, Revision
from tsn_toolkit.store.free_parameters import decode_free_parameters
from tsn_toolkit.store.layer_blobs import UnreadLayers
from tsn_toolkit.store.layout import Architecture, CodedLayer, NamedLengths, UnitMasks
from tsn_toolkit.store.lineage import Inherited, OwnerLayer
from tsn_toolkit.store.part import FREE, MEMORY, Part
from tsn_toolkit.store.revision import decode_revision
from tsn_toolkit.store.vectors import decode_biases, decode_head, decode_norms, decode_ranges
from tsn_toolkit.vocabulary import VectorPrecision


class LayerSource(Protocol):
    """Reads the layers of one part in the order of the record."""

    def next(self, layer: CodedLayer, above: Inherited) -> OwnerLayer:
        """The next layer over what its owner inherits."""

    def unread(self) -> UnreadLayers:
        """What is left, to be read by another reader."""

    def finish(self) -> None:
        """Checks that nothing is left."""


@dataclass(frozen=True)
class OwnerPart:
    """The trunk's or a task's part, opened.

    Attributes:
        name: of the owner.
        metadata: of the part.
        architecture: the record.
        classes: label of each logit of the head; empty for a trunk without a head.
        unit_masks: as in `TaskResult`.
        norm_lengths, bias_lengths, range_names: what the part holds, in the order of its blobs; a child with the same need not repeat them.
        owned_parameters: the free parameters that the part holds, in the order of its blob.
        precision: of its vectors.
        read_layers: begins to read its layers.
    """

    name: str
    metadata: Mapping[str, Any]
    architecture: Architecture
    classes: tuple[int, ...]
    unit_masks: UnitMasks
    norm_lengths: NamedLengths
    bias_lengths: NamedLengths
    range_names: tuple[str, ...]
    owned_parameters: tuple[FreeParameterRecord, ...]
    precision: VectorPrecision
    part: Part
    read_layers: Callable[[], LayerSource]

    @property
    def answers_for(self) -> tuple[str, ...]:
        """Tasks that it answers for as a revision, itself last; empty where it is none."""
        return tuple(task for task, _ in self.metadata["revision"]["rows"]) if "revision" in self.metadata else ()

    def norms(self) -> dict[str, NormState]:
        """Norm states by module path."""
        return decode_norms(self.architecture, self.unit_masks, self.part.blob("norms"), self.norm_lengths, self.precision)

    def biases(self) -> dict[str, NDArray[np.float32]]:
        """Biases by module path."""
        return decode_biases(self.architecture, self.unit_masks, self.part.blob("biases"), self.bias_lengths, self.precision)

    def head(self) -> HeadState:
        """The classifier; only where there are classes."""
        return decode_head(self.architecture, self.unit_masks, self.part.blob("head"), len(self.classes), self.precision)

    def ranges(self) -> dict[str, ActivationRange]:
        """Activation ranges by quantizer name."""
        return decode_ranges(self.part.blob("ranges"), self.range_names)

    def free_parameters(self) -> dict[str, NDArray[np.float32]]:
        """The free parameters that it owns, by name; full shapes, 0 at entries of dead units."""
        return decode_free_parameters(self.architecture, self.unit_masks, self.part.blob(FREE), self.owned_parameters, self.precision)

    def revision(self) -> Revision | None:
        """For which tasks it answers, and what it keeps for the next one; None where it answers for itself alone."""
        return decode_revision(self.metadata, self.part.blob(MEMORY))
