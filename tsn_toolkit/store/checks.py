"""What a result must satisfy before a byte of it is written. Every violation is an error that names the place, the value and the rule."""

import math
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import ActivationRange, HeadState, LayerCodes, TaskResult, TrunkResult
from tsn_toolkit.errors import StoreError
from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.half import round_half
from tsn_toolkit.store.layout import Architecture, CodedLayer, UnitMasks
from tsn_toolkit.store.lineage import Owner
from tsn_toolkit.store.part import canonical_json
from tsn_toolkit.store.trunk_part import CHECKPOINT, MAX_SEED, SEED
from tsn_toolkit.vocabulary import MAX_CODE, TRUNK, SlotState

_NAME = re.compile(r"[a-z0-9_-]{1,100}")
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
            everything = np.ones(layer.shape, np.bool_)
            _check_codes(f"trunk: layer `{layer.name}`", layer, codes, everything, np.ones(layer.shape[0], np.bool_))
            if not (codes.states == SlotState.OWN).all():
                raise StoreError(f"trunk: layer `{layer.name}` must own every slot, {int((codes.states != SlotState.OWN).sum())} are not OWN")
    _check_vectors("trunk", architecture, {}, trunk)
    if trunk.head is not None:
        _check_head("trunk", architecture, {}, trunk.head, len(trunk.head.codes))


def check_task(architecture: Architecture, parent: Owner, result: TaskResult) -> None:
    """Checks a task result against the architecture and its decoded parent.

    Raises:
        StoreError: it cannot be stored as it is.
    """
    where = f"task `{result.name}`"
    if result.isolation not in _ISOLATIONS:
        raise StoreError(f"{where}: isolation must be one of {_ISOLATIONS}, got `{result.isolation}`")
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
        above = parent.layers[layer.name]
        if layer.name not in result.layers:
            if above.scale is None:
                raise StoreError(f"{place} is shared, but neither the trunk nor an ancestor holds it. Give it codes.")
            continue
        codes = result.layers[layer.name]
        kept = architecture.kept_slots(result.unit_masks, layer)
        _check_codes(place, layer, codes, kept, architecture.kept_outputs(result.unit_masks, layer))
        orphans = int(((codes.states == SlotState.REUSE) & ~above.present).sum())
        if orphans:
            raise StoreError(f"{place} reuses {orphans} slots that neither the trunk nor an ancestor owns; make them OWN or PRUNED")
    _check_vectors(where, architecture, result.unit_masks, result)
    _check_head(where, architecture, result.unit_masks, result.head, len(result.classes))
    for name, span in result.ranges.items():
        _check_range(f"{where}: range `{name}`", span)
    for name, value in result.validation.items():
        if not math.isfinite(value):
            raise StoreError(f"{where}: validation number `{name}` must be finite, got {value}")


def check_word(name: str, layer: str, asked: NDArray[np.bool_], bit_width: int, allocated: NDArray[np.uint16], word_bits: int) -> None:
    """Checks that no slot's word runs out of bits.

    Args:
        name: of the task.
        layer: of the slots.
        asked: bool, shape of the weight: slots that ask for `bit_width` bits.
        allocated: uint16, shape of the weight: bits that the trunk and all tasks have.
        word_bits: bits of one slot's word.

    Raises:
        StoreError: a slot would exceed its word.
    """
    if not asked.any():
        return
    left = word_bits - int(allocated[asked].max())
    if bit_width > left:
        raise StoreError(
            f"task `{name}`: layer `{layer}` asks for {bit_width} bits at a slot that has {left} of its {word_bits} left. "
            "Lower the bit width or the density, reuse more slots, or begin another store with a larger `trunk.word_bits`."
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


def _check_codes(place: str, layer: CodedLayer, codes: LayerCodes, kept: NDArray[np.bool_], outputs: NDArray[np.bool_]) -> None:
    if codes.states.dtype != np.uint8 or codes.states.shape != layer.shape or codes.states.max() > SlotState.OWN:
        raise StoreError(f"{place}: states must be uint8 {layer.shape} of 0..2, got {codes.states.dtype} {codes.states.shape}, {codes.states.max()}")
    alive = int((codes.states[~kept] != SlotState.PRUNED).sum())
    if alive:
        raise StoreError(f"{place}: {alive} slots of dead units are not PRUNED")
    owned = int((codes.states == SlotState.OWN).sum())
    entries = 1 << codes.bit_width if 0 < codes.bit_width <= 8 else 0
    if not 0 <= codes.bit_width <= 8 or codes.codebook.dtype != np.int8 or codes.codebook.shape != (entries,):
        raise StoreError(
            f"{place}: a codebook of {codes.bit_width} bits (0..8) must be int8 ({entries},), got {codes.codebook.dtype} {codes.codebook.shape}"
        )
    if (np.diff(codes.codebook.astype(np.int16)) < 0).any() or (codes.codebook < -MAX_CODE).any():
        raise StoreError(f"{place}: the codebook must ascend within [-{MAX_CODE}, {MAX_CODE}], got {codes.codebook.tolist()}")
    if codes.codes.dtype != np.uint8 or codes.codes.shape != (owned,):
        raise StoreError(f"{place}: {owned} own slots need uint8 codes ({owned},), got {codes.codes.dtype} {codes.codes.shape}")
    if owned and int(codes.codes.max()) >= entries:
        raise StoreError(f"{place}: code {int(codes.codes.max())} is outside its codebook of {entries} entries")
    if codes.scale.dtype != np.float32 or codes.scale.shape != (layer.shape[0],):
        raise StoreError(f"{place}: scale must be float32 ({layer.shape[0]},), got {codes.scale.dtype} {codes.scale.shape}")
    _check_storable(f"{place}: scale", codes.scale[outputs])


def _check_vectors(where: str, architecture: Architecture, masks: UnitMasks, result: TaskResult | TrunkResult) -> None:
    vectors = {f"{name} (gain)": (name, norm.gain) for name, norm in result.norms.items()}
    vectors |= {f"{name} (shift)": (name, norm.shift) for name, norm in result.norms.items()}
    for kind, entries in (("norm", vectors), ("bias", {name: (name, bias) for name, bias in result.biases.items()})):
        for label, (module, vector) in entries.items():
            place = f"{where}: {kind} `{label}`"
            _check_vector(place, architecture, masks, module, vector)
    for name, norm in result.norms.items():
        if len(norm.gain) != len(norm.shift):
            raise StoreError(f"{where}: norm `{name}` has {len(norm.gain)} gains and {len(norm.shift)} shifts")


def _check_vector(place: str, architecture: Architecture, masks: UnitMasks, module: str, vector: NDArray[np.float32]) -> None:
    if vector.dtype != np.float32 or vector.ndim != 1:
        raise StoreError(f"{place} must be a float32 vector, got {vector.dtype} {vector.shape}")
    try:
        kept = architecture.kept_entries(masks, module, len(vector))
    except ValueError as error:
        raise StoreError(f"{place}: {error}") from error
    if vector[~kept].any():
        raise StoreError(f"{place} must hold 0 at dead units, got {vector[~kept][vector[~kept] != 0][0]}")
    _check_storable(place, vector[kept])


def _check_head(where: str, architecture: Architecture, masks: UnitMasks, head: HeadState, classes: int) -> None:
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
        _check_storable(f"{place}: {label}", vector)


def _check_range(place: str, span: ActivationRange) -> None:
    if not (math.isfinite(span.scale) and span.scale > 0 and float(np.float32(span.scale)) == span.scale):
        raise StoreError(f"{place}: scale must be a positive float32, got {span.scale!r}. Round it with numpy.float32 first.")
    if not -(1 << 15) <= span.zero_point < 1 << 15 or int(span.zero_point) != span.zero_point:
        raise StoreError(f"{place}: zero point must be an integer of 16 bits, got {span.zero_point}")


def _check_storable(place: str, vector: NDArray[np.float32]) -> None:
    try:
        stored = round_half(vector)
    except NumericsError as error:
        raise StoreError(f"{place}: {error}") from error
    changed = np.flatnonzero(stored != vector)
    if len(changed):
        first = int(changed[0])
        raise StoreError(
            f"{place}: value {vector[first]!r} cannot be stored exactly (nearest is {stored[first]!r}). Round the vector with round_half first."
        )


def recipe_difference(base: Mapping[str, object], recipe: Mapping[str, object]) -> dict[str, object]:
    """The top-level keys in which a JSON recipe differs from `base`: {"set": {...}, "removed": [...]}, both left out when empty."""
    difference: dict[str, object] = {}
    changed = {key: value for key, value in recipe.items() if key not in base or canonical_json(base[key]) != canonical_json(value)}
    removed = sorted(set(base) - set(recipe))
    if changed:
        difference["set"] = changed
    if removed:
        difference["removed"] = removed
    return difference
