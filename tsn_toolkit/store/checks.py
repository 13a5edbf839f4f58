"""What a result must satisfy before a byte of it is written. Every violation is an error that names the place, the value and the rule."""

import math
import re
from collections.abc import Mapping
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import ActivationRange, FrozenParameter, HeadState, LayerCodes, LayerPlanes, Refinement, TaskResult, TrunkResult
from tsn_toolkit.errors import StoreError
from tsn_toolkit.masks.granularity import parse_granularity
from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.vectors import encode_vector
from tsn_toolkit.store.free_parameters import check_complete, check_free_parameters
from tsn_toolkit.store.layout import Architecture, CodedLayer, KeptSlots, UnitMasks
from tsn_toolkit.store.lineage import Inherited
from tsn_toolkit.store.revision import check_revision
from tsn_toolkit.store.trunk_part import CHECKPOINT, MAX_SEED, PRECISION, SEED
from tsn_toolkit.vocabulary import MAX_CODE, TASK_NAME_PATTERN, TRUNK, SlotState, VectorPrecision

_NAME = re.compile(TASK_NAME_PATTERN)
_ISOLATIONS = ("exact", "none")


def valid_name(name: object) -> bool:
    """Whether a task may have this name."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and name != TRUNK


def check_trunk(architecture: Architecture, trunk: TrunkResult) -> None:
    """Checks a trunk.

    Raises:
        StoreError: it cannot be stored as it is.
    """
    if trunk.kind not in (CHECKPOINT, SEED):
        raise StoreError(f"trunk: kind must be `{CHECKPOINT}` or `{SEED}`, got `{trunk.kind}`")
    if not 0 <= trunk.seed <= MAX_SEED:
        raise StoreError(f"trunk: seed must lie in [0, 2**63), got {trunk.seed}")
    expected = {layer.name for layer in architecture.layers} if trunk.kind == CHECKPOINT else set()
    if set(trunk.layers) != expected:
        raise StoreError(f"trunk: a `{trunk.kind}` trunk must code exactly the layers {sorted(expected)}, got {sorted(trunk.layers)}")
    if trunk.kind == SEED and (trunk.norms or trunk.biases or trunk.head is not None):
        raise StoreError("trunk: a `seed` trunk stores no norms, biases or head; leave them empty")
    for layer in architecture.layers:
        if layer.name in trunk.layers:
            codes = trunk.layers[layer.name]
            _check_codes(f"trunk: layer `{layer.name}`", layer, codes, architecture.kept_slots({}, layer), PRECISION)
            if not (codes.states == SlotState.OWN).all():
                raise StoreError(f"trunk: layer `{layer.name}` must own every slot, {int((codes.states != SlotState.OWN).sum())} are not OWN")
    _check_vectors("trunk", architecture, {}, trunk, PRECISION)
    names = {record.name for record in architecture.free_parameters} if trunk.kind == CHECKPOINT else set()
    if set(trunk.free_parameters) != names:
        raise StoreError(f"trunk: a `{trunk.kind}` trunk must hold exactly the free parameters {sorted(names)}, got {sorted(trunk.free_parameters)}")
    check_free_parameters("trunk", architecture, {}, trunk.free_parameters, PRECISION)
    if trunk.head is not None:
        _check_head("trunk", architecture, {}, trunk.head, len(trunk.head.codes), PRECISION)


def check_task(architecture: Architecture, above: Mapping[str, Inherited], free: Mapping[str, FrozenParameter], result: TaskResult) -> None:
    """Checks a task result against the architecture and what the task inherits: layers and free parameters, by name.

    Raises:
        StoreError: it cannot be stored as it is.
    """
    where, precision = f"task `{result.name}`", result.vector_precision
    if precision not in get_args(VectorPrecision):
        raise StoreError(f"{where}: vector_precision must be one of {get_args(VectorPrecision)}, got `{precision}`")
    if result.isolation not in _ISOLATIONS:
        raise StoreError(f"{where}: isolation must be one of {_ISOLATIONS}, got `{result.isolation}`")
    if result.revision is not None:
        check_revision(where, result)
    if not isinstance(result.strategy, str):
        raise StoreError(f"{where}: strategy must be a name, got {result.strategy!r}")
    for label in result.classes:
        if isinstance(label, bool) or not isinstance(label, int | np.integer):
            raise StoreError(f"{where}: classes must be integers, got {label!r}")
    _check_unit_masks(where, architecture, result.unit_masks)
    unknown = sorted(set(result.layers) - {layer.name for layer in architecture.layers})
    if unknown:
        raise StoreError(f"{where}: layers {unknown} are not in the store's architecture (the head is handed over as `head`)")
    for layer in architecture.layers:
        place = f"{where}: layer `{layer.name}`"
        inherited = above[layer.name]
        if layer.name not in result.layers:
            if inherited.scale is None:
                raise StoreError(f"{place} is shared, but neither the trunk nor an ancestor holds it. Give it codes.")
            continue
        own = result.layers[layer.name]
        kept = architecture.kept_slots(result.unit_masks, layer)
        if isinstance(own, LayerPlanes):
            _check_planes(place, layer, own, kept, precision)
            continue
        _check_codes(place, layer, own, kept, precision)
        for state, verb in ((SlotState.REUSE, "reuses"), (SlotState.REFINE, "refines")):
            orphans = int(((own.states == state) & ~inherited.present).sum())
            if orphans:
                raise StoreError(f"{place} {verb} {orphans} slots that neither the trunk nor an ancestor owns; make them OWN or PRUNED")
    _check_vectors(where, architecture, result.unit_masks, result, precision)
    check_free_parameters(where, architecture, result.unit_masks, result.free_parameters, precision)
    check_complete(where, architecture, result.unit_masks, result.free_parameters, free)
    _check_head(where, architecture, result.unit_masks, result.head, len(result.classes), precision)
    for name, span in result.ranges.items():
        _check_range(f"{where}: range `{name}`", span)
    for name, value in result.validation.items():
        if not math.isfinite(value):
            raise StoreError(f"{where}: validation number `{name}` must be finite, got {value}")


def check_word(name: str, layer: str, asked: NDArray[np.uint8], allocated: NDArray[np.uint16], word_bits: int) -> None:
    """Checks that no slot's word runs out of bits.

    Args:
        name: of the task.
        layer: of the slots.
        asked: uint8, shape of the weight: bits that each slot asks for.
        allocated: uint16, shape of the weight: bits that the trunk and all tasks have.
        word_bits: bits of one slot's word.

    Raises:
        StoreError: a slot would exceed its word.
    """
    over = (asked > 0) & (allocated + asked > word_bits)
    if over.any():
        slot = int(np.where(over, allocated + asked, 0).argmax())
        left = word_bits - int(allocated.flat[slot])
        raise StoreError(
            f"task `{name}`: layer `{layer}` asks for {int(asked.flat[slot])} bits at a slot that has {left} of its {word_bits} left "
            f"({int(over.sum())} such slots). Lower the bit width or the density, reuse more slots, retire a task, "
            "or begin another store with a larger `trunk.word_bits`."
        )


def _check_unit_masks(where: str, architecture: Architecture, masks: UnitMasks) -> None:
    sizes = {group.name: group.size for group in architecture.groups}
    for name, mask in masks.items():
        if name not in sizes:
            raise StoreError(f"{where}: unit mask of unknown group `{name}`; the store has {sorted(sizes)}")
        if mask.dtype != np.bool_ or mask.shape != (sizes[name],):
            raise StoreError(f"{where}: unit mask of group `{name}` must be bool ({sizes[name]},), got {mask.dtype} {mask.shape}")
        if not mask.any():
            raise StoreError(f"{where}: unit mask of group `{name}` keeps 0 of {sizes[name]} units; at least one must stay")


def _check_codes(place: str, layer: CodedLayer, own: LayerCodes, kept: KeptSlots, precision: VectorPrecision) -> None:
    top = SlotState.OWN if own.refinement is None else SlotState.REFINE
    if own.states.dtype != np.uint8 or own.states.shape != layer.shape or own.states.max() > top:
        refine = " (REFINE needs a refinement)" if own.refinement is None else ""
        raise StoreError(
            f"{place}: states must be uint8 {layer.shape} of 0..{int(top)}{refine}, got {own.states.dtype} {own.states.shape}, {own.states.max()}"
        )
    alive = int(np.count_nonzero(own.states)) - int(np.count_nonzero(kept.take(own.states)))
    if alive:
        raise StoreError(f"{place}: {alive} slots of dead units are not PRUNED")
    try:
        parse_granularity(own.granularity)
    except ValueError as error:
        raise StoreError(f"{place}: {error}") from error
    _check_codebook(place, "own", own, int((own.states == SlotState.OWN).sum()), lowest_width=0)
    if own.refinement is not None:
        _check_codebook(f"{place}: refinement", "REFINE", own.refinement, int((own.states == SlotState.REFINE).sum()), lowest_width=1)
    _check_scale(place, layer, own.scale, kept, precision)


def _check_codebook(place: str, kind: str, coded: LayerCodes | Refinement, slots: int, lowest_width: int) -> None:
    width, codebook, codes = coded.bit_width, coded.codebook, coded.codes
    entries = 1 << width if 0 < width <= 8 else 0
    if not lowest_width <= width <= 8 or codebook.dtype != np.int8 or codebook.shape != (entries,):
        raise StoreError(f"{place}: a codebook of {width} bits ({lowest_width}..8) must be int8 ({entries},), got {codebook.dtype} {codebook.shape}")
    if (np.diff(codebook.astype(np.int16)) < 0).any() or (codebook < -MAX_CODE).any():
        raise StoreError(f"{place}: the codebook must ascend within [-{MAX_CODE}, {MAX_CODE}], got {codebook.tolist()}")
    if codes.dtype != np.uint8 or codes.shape != (slots,):
        raise StoreError(f"{place}: {slots} {kind} slots need uint8 codes ({slots},), got {codes.dtype} {codes.shape}")
    if slots and int(codes.max()) >= entries:
        raise StoreError(f"{place}: code {int(codes.max())} is outside its codebook of {entries} entries")


def _check_planes(place: str, layer: CodedLayer, own: LayerPlanes, kept: KeptSlots, precision: VectorPrecision) -> None:
    if own.signs.dtype != np.bool_ or own.signs.shape != layer.shape:
        raise StoreError(f"{place}: signs must be bool {layer.shape}, got {own.signs.dtype} {own.signs.shape}")
    set_dead = int(np.count_nonzero(own.signs)) - int(np.count_nonzero(kept.take(own.signs)))
    if set_dead:
        raise StoreError(f"{place}: {set_dead} signs of dead units are not False")
    if own.gain.dtype != np.int8 or own.gain.shape != (layer.shape[0],) or (own.gain < 0).any():
        raise StoreError(f"{place}: gain must be int8 ({layer.shape[0]},) in 0..{MAX_CODE}, got {own.gain.dtype} {own.gain.shape}")
    if own.gain[~kept.outputs].any():
        raise StoreError(f"{place}: gain of dead units must be 0, got {own.gain[~kept.outputs].max()}")
    _check_scale(place, layer, own.scale, kept, precision)


def _check_scale(place: str, layer: CodedLayer, scale: NDArray[np.float32], kept: KeptSlots, precision: VectorPrecision) -> None:
    if scale.dtype != np.float32 or scale.shape != (layer.shape[0],):
        raise StoreError(f"{place}: scale must be float32 ({layer.shape[0]},), got {scale.dtype} {scale.shape}")
    _check_storable(f"{place}: scale", scale[kept.outputs], precision)


def _check_vectors(where: str, architecture: Architecture, masks: UnitMasks, result: TaskResult | TrunkResult, precision: VectorPrecision) -> None:
    vectors = {f"{name} (gain)": (name, norm.gain) for name, norm in result.norms.items()}
    vectors |= {f"{name} (shift)": (name, norm.shift) for name, norm in result.norms.items()}
    for kind, entries in (("norm", vectors), ("bias", {name: (name, bias) for name, bias in result.biases.items()})):
        for label, (module, vector) in entries.items():
            place = f"{where}: {kind} `{label}`"
            _check_vector(place, architecture, masks, module, vector, precision)
    for name, norm in result.norms.items():
        if len(norm.gain) != len(norm.shift):
            raise StoreError(f"{where}: norm `{name}` has {len(norm.gain)} gains and {len(norm.shift)} shifts")


def _check_vector(
    place: str, architecture: Architecture, masks: UnitMasks, module: str, vector: NDArray[np.float32], precision: VectorPrecision
) -> None:
    if vector.dtype != np.float32 or vector.ndim != 1:
        raise StoreError(f"{place} must be a float32 vector, got {vector.dtype} {vector.shape}")
    try:
        kept = architecture.kept_entries(masks, module, len(vector))
    except ValueError as error:
        raise StoreError(f"{place}: {error}") from error
    if vector[~kept].any():
        raise StoreError(f"{place} must hold 0 at dead units, got {vector[~kept][vector[~kept] != 0][0]}")
    _check_storable(place, vector[kept], precision)


def _check_head(where: str, architecture: Architecture, masks: UnitMasks, head: HeadState, classes: int, precision: VectorPrecision) -> None:
    place = f"{where}: head `{architecture.head}`"
    shape = (classes, architecture.head_features)
    if classes < 1 or head.codes.dtype != np.int8 or head.codes.shape != shape:
        raise StoreError(f"{place}: codes must be int8 {shape} with at least one class, got {head.codes.dtype} {head.codes.shape}")
    if (head.codes < -MAX_CODE).any():
        raise StoreError(f"{place}: codes must lie in [-{MAX_CODE}, {MAX_CODE}], got {int(head.codes.min())}")
    if head.codes[:, ~architecture.kept_features(masks)].any():
        raise StoreError(f"{place}: codes of dead input features must be 0")
    for label, vector in (("scale", head.scale), ("bias", head.bias)):
        if vector.dtype != np.float32 or vector.shape != (classes,):
            raise StoreError(f"{place}: {label} must be float32 ({classes},), got {vector.dtype} {vector.shape}")
        _check_storable(f"{place}: {label}", vector, precision)


def _check_range(place: str, span: ActivationRange) -> None:
    if not (math.isfinite(span.scale) and span.scale > 0 and float(np.float32(span.scale)) == span.scale):
        raise StoreError(f"{place}: scale must be a positive float32, got {span.scale!r}. Round it with numpy.float32 first.")
    if not -(1 << 15) <= span.zero_point < 1 << 15 or int(span.zero_point) != span.zero_point:
        raise StoreError(f"{place}: zero point must be an integer of 16 bits, got {span.zero_point}")


def _check_storable(place: str, vector: NDArray[np.float32], precision: VectorPrecision) -> None:
    try:
        encode_vector(vector, precision)
    except NumericsError as error:
        raise StoreError(f'{place}: {error}. Round the vector with round_vector(vector, "{precision}") first.') from error
