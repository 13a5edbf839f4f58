"""The frozen values that cross the arrows of the dataflow.

recipe -> ModelGraph -> CompressionPlan -> TaskResult -> (store) -> ExtractedModel -> Package -> parity, bench -> report

Only plain modules, tensors, numpy arrays and the types of this file travel between stages. Arrays inside these types are never written after
construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tsn_toolkit.vocabulary import WORD_BITS, DensityRule, Encoding, Isolation, VectorPrecision

# --------------------------------------------------------------------------------------------------------------------- graph


@dataclass(frozen=True)
class NodeRecord:
    """One operation of the traced model, in execution order.

    Attributes:
        name: unique name of the node in the graph.
        op: the operation, for example `conv2d`, `add`, `relu`, `input`, `output`.
        module: path of the nn.Module it belongs to (`layer1.0.conv1`), or "" for the root.
        output_shapes: shape of each tensor output, batch included.
        dtype: dtype of the first output, for example `float32`.
        macs: multiply-accumulates for the batch that was traced (batch 1 by default).
        parameter_bytes: bytes of the parameters that this node reads for the first time.
        activation_bytes: bytes of its outputs.
        source: `file:line` in the user's code, or "".
    """

    name: str
    op: str
    module: str
    output_shapes: tuple[tuple[int, ...], ...]
    dtype: str
    macs: int
    parameter_bytes: int
    activation_bytes: int
    source: str = ""


@dataclass(frozen=True)
class GroupMember:
    """One dimension of one parameter that loses entries when units of a group go.

    Attributes:
        parameter: state-dict name, for example `conv1.weight` or `bn1.running_mean`.
        dim: the dimension that shrinks.
        unit: int64 array; `unit[i]` is the unit of the group to which index i of that dimension belongs (-1: none of this group).
    """

    parameter: str
    dim: int
    unit: NDArray[np.int64]


@dataclass(frozen=True)
class SizeMember:
    """A whole number that a module keeps and that shrinks when units of a group go, for example `num_heads`.

    Attributes:
        module: path of the module.
        attribute: name of its attribute.
        unit: int64 array, as long as the number is large; `unit[i]` is the unit of the group that the i-th of the counted things belongs to (-1:
            none of this group).
    """

    module: str
    attribute: str
    unit: NDArray[np.int64]


@dataclass(frozen=True)
class InputRecord:
    """One input of a model.

    Attributes:
        name: of the argument of forward.
        shape: of one example, without batch.
        dtype: for example `float32` or `int64`.
        upper: exclusive upper bound of an integer or boolean input, or of one whose numbers are looked up in an embedding (its length); else 0.
        keyword: whether it is given by name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    upper: int = 0
    keyword: bool = False


@dataclass(frozen=True)
class UnitGroup:
    """Units (output channels, neurons, attention heads) that can only be removed together.

    Attributes:
        name: path of the first layer in execution order that produces the units.
        size: number of units.
        members: every parameter dimension that shrinks with the group.
        producers: layers whose OUTPUT units these are, in execution order (a residual group has several).
        frozen: "" when units may be removed, else the reason, with file and line where known.
        sizes: numbers in modules that shrink with the group; the sizes of torch's own layers follow from their weights and are left out.
    """

    name: str
    size: int
    members: tuple[GroupMember, ...]
    producers: tuple[str, ...]
    frozen: str = ""
    sizes: tuple[SizeMember, ...] = ()


@dataclass(frozen=True)
class LayerRecord:
    """One weight that can be coded: a layer of the model.

    Attributes:
        name: module path.
        kind: module type name, for example `Conv2d`.
        shape: shape of the weight.
        macs: multiply-accumulates at batch 1.
        norm: path of the norm that directly follows and can be folded into this layer, or "".
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    macs: int
    norm: str = ""


@dataclass(frozen=True)
class FreeParameterRecord:
    """One parameter that is no layer's, norm's or bias's; see `free_parameters.py`.

    Attributes:
        name: state-dict name.
        shape: of the parameter.
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ProductFactor:
    """Part of a product's grid whose entries units go with.

    Attributes:
        entries: of this part of the grid; the whole grid is all combinations of the entries of its parts.
        units: group name -> int64 array (size,), number of these entries that go with each unit of the group.
    """

    entries: int
    units: Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class ProductRecord:
    """Multiply-accumulates that belong to no codable layer: of activations with each other, or with a weight that is stored otherwise.

    Attributes:
        node: name of the operation; an operation of two products (attention) has two records.
        macs: at batch 1, evenly spread over the grid of its factors.
        factors: those parts of the grid that shrink with units.
    """

    node: str
    macs: int
    factors: tuple[ProductFactor, ...]


@dataclass(frozen=True)
class ModelGraph:
    """What the analyzer knows of a pristine model.

    Attributes:
        nodes: operations in execution order.
        edges: (source, destination, input position), so that x + x is two edges.
        layers: codable layers in execution order; the head is the last of the names in `head`.
        groups: coupled unit groups in execution order.
        head: module path of the classifier, whose output units never go.
        input_shape: shape of one example of the first input, without batch.
        fingerprint: sha256 over parameter names, shapes, dtypes and module types; survives torch versions.
        inputs: all inputs in the order of the call; empty where only the shape of a single float input is known.
        products: multiply-accumulates outside the layers that shrink with units; empty where the couplings come from gradients, which do not say.
        free_parameters: in the module's order.
    """

    nodes: tuple[NodeRecord, ...]
    edges: tuple[tuple[str, str, int], ...]
    layers: tuple[LayerRecord, ...]
    groups: tuple[UnitGroup, ...]
    head: str
    input_shape: tuple[int, ...]
    fingerprint: str
    inputs: tuple[InputRecord, ...] = ()
    products: tuple[ProductRecord, ...] = ()
    free_parameters: tuple[FreeParameterRecord, ...] = ()

    @property
    def numbers_below(self) -> int:
        """Exclusive upper bound of the first input's whole numbers; 0 where it is real numbers."""
        return self.inputs[0].upper if self.inputs else 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one example."""
        return sum(node.macs for node in self.nodes)

    def layer(self, name: str) -> LayerRecord:
        """The record of layer `name`; KeyError if there is none."""
        return {layer.name: layer for layer in self.layers}[name]

    def group(self, name: str) -> UnitGroup:
        """The record of group `name`; KeyError if there is none."""
        return {group.name: group for group in self.groups}[name]


# ---------------------------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is stored for a task.

    Attributes:
        name: module path.
        encoding: `codes` (masked positions hold own codes), `planes` (a sign per slot over the frozen view), `shared` (the parent's layer as it is).
        density: fraction of the slots inside the kept units that the task uses (`codes` over an empty frozen view) or owns (over a full one, and in
            the plan's `child_layers`).
        granularity: of the mask inside the kept units: `element`, `block(k)`, `n:m` or `unit`.
        bit_width: bits per own code; at most this where the plan adapts bit widths.
    """

    name: str
    encoding: Encoding
    density: float
    granularity: str
    bit_width: int


@dataclass(frozen=True)
class GroupPlan:
    """How many units of a group stay.

    Attributes:
        name: the group's name.
        keep: number of units that stay, 1..size.
        size: number of units of the group.
    """

    name: str
    keep: int
    size: int


@dataclass(frozen=True)
class CompressionPlan:
    """Per layer and group what compression does; written to `plan.yaml`, which a user may edit.

    Attributes:
        fingerprint: of the graph it was made for.
        max_code: largest |q| allowed.
        trunk_bit_width: bits per trunk code (checkpoint trunks).
        layers: in execution order, the head left out.
        groups: groups that lose units, in execution order.
        density_by_layer: `learned` makes the densities of the `element` and `block(k)` layers of encoding `codes` one budget that each task divides
            by its scores, the numbers here being where it starts; otherwise every number stands.
        child_layers: what a task with a parent does instead in the layers named here: it keeps what the parent uses, and `density` is the fraction
            of the slots that become its own, whether the parent uses them or not. Empty over a trained trunk, where `layers` says that already.
    """

    fingerprint: str
    max_code: int
    trunk_bit_width: int
    layers: tuple[LayerPlan, ...]
    groups: tuple[GroupPlan, ...]
    density_by_layer: DensityRule = "uniform"
    child_layers: tuple[LayerPlan, ...] = ()

    def layers_of(self, *, child: bool) -> tuple[LayerPlan, ...]:
        """All layers as a task does them; `child`: it has a task as its parent."""
        other = {layer.name: layer for layer in self.child_layers} if child else {}
        return tuple(other.get(layer.name, layer) for layer in self.layers)


# --------------------------------------------------------------------------------------------------------------------- learn


@dataclass(frozen=True)
class LayerCodes:
    """One layer of one owner, as integers.

    Attributes:
        states: uint8 array of `SlotState`, shape of the weight.
        codes: uint8 array (n_own,), index into `codebook` of every OWN slot in C order.
        codebook: int8 array (2**bit_width,), sorted; entries of q. Empty when bit_width is 0 (nothing owned).
        bit_width: bits per code, 0..8.
        scale: float32 array (out_channels,); weight = scale[c] * q. Values are exactly representable as stored.
        granularity: of the mask, as the plan writes it; the writer may use it to code the mask in fewer symbols, the states say everything.
        refinement: residuals of REFINE slots; None when no slot is REFINE.
    """

    states: NDArray[np.uint8]
    codes: NDArray[np.uint8]
    codebook: NDArray[np.int8]
    bit_width: int
    scale: NDArray[np.float32]
    granularity: str = "element"
    refinement: Refinement | None = None


@dataclass(frozen=True)
class Refinement:
    """Residuals of one layer's REFINE slots: q = clip(inherited q + codebook[code], -127, 127).

    Attributes:
        codes: uint8 array (n_refine,), index into `codebook` of every REFINE slot in C order.
        codebook: int8 array (2**bit_width,), sorted; residuals in units of q.
        bit_width: bits per code, 1..8.
    """

    codes: NDArray[np.uint8]
    codebook: NDArray[np.int8]
    bit_width: int


@dataclass(frozen=True)
class LayerPlanes:
    """One layer of one owner as a bit plane over the frozen view: q = clip(inherited q + gain[c] * sign, -127, 127) at every slot of a kept unit.

    The inherited q is 0 where nobody owns the slot. The owner has one bit of the word of each such slot.

    Attributes:
        signs: bool array, shape of the weight; True is +1. False at slots of dead units.
        gain: int8 array (out_channels,), 0..127.
        scale: float32 array (out_channels,), as in `LayerCodes`.
    """

    signs: NDArray[np.bool_]
    gain: NDArray[np.int8]
    scale: NDArray[np.float32]


@dataclass(frozen=True)
class NormState:
    """A norm as two vectors: y = gain * x_hat + shift.

    For norms with running statistics x_hat = x (the statistics are folded in); for LayerNorm and GroupNorm x_hat is the normalised input.
    """

    gain: NDArray[np.float32]
    shift: NDArray[np.float32]


@dataclass(frozen=True)
class HeadState:
    """The classifier of a task: int8 codes (classes, features), one scale per class, bias in float."""

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True)
class ActivationRange:
    """Static 8-bit range of one activation tensor: real = scale * (q - zero_point)."""

    scale: float
    zero_point: int
    signed: bool


@dataclass(frozen=True)
class Revision:
    """What makes a task's part a full revision of one network that all tasks share (isolation `none`).

    A revision answers for every task so far and supersedes the revision before it.

    Attributes:
        rows: task name -> the logit of each of its labels; every task so far, in order, this one last.
        task_known: whether a prediction is told the task, and so compares the logits of that task alone; otherwise all logits compete.
        memory: name -> array that the method keeps for the next task, for example replay examples; uint8, int64, float16 or float32.
    """

    rows: Mapping[str, tuple[int, ...]]
    task_known: bool
    memory: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskResult:
    """What `learn` hands to `commit`: one task, all integers, nothing that depends on the clock.

    Attributes:
        name: the task's name, [a-z0-9_-]+.
        parent: `trunk` or the name of an earlier task.
        isolation: of the strategy.
        strategy: registry name of the strategy.
        classes: label of each logit, as the data's own class index.
        unit_masks: group name -> bool (size,), True = kept. Groups that keep all units may be left out.
        layers: layer name -> codes or planes; a layer left out is `shared`: the parent's layer as it is, inside the kept units.
        norms: module path -> norm state, full (unshrunk) length; dead units hold 0, 0.
        biases: module path -> float32 bias, full length; dead units hold 0.
        head: the task's classifier, features at full length (dead inputs hold 0).
        ranges: quantizer name -> range, calibrated on training data.
        validation: numbers measured on validation data (accuracy, loss), for the report; also `training_flops` where the strategy counts them.
        vector_precision: how scales, norms, biases and free parameters are stored; their values are exactly representable so.
        revision: for which tasks it answers, where the strategy's isolation is `none`; None: for itself alone.
        free_parameters: state-dict name -> float32, full shape, 0 at entries of dead units: those that the task has otherwise than its parent hands
            them down; all others are inherited. Values are exactly representable as stored.
    """

    name: str
    parent: str
    isolation: Isolation
    strategy: str
    classes: tuple[int, ...]
    unit_masks: Mapping[str, NDArray[np.bool_]]
    layers: Mapping[str, LayerCodes | LayerPlanes]
    norms: Mapping[str, NormState]
    biases: Mapping[str, NDArray[np.float32]]
    head: HeadState
    ranges: Mapping[str, ActivationRange]
    validation: Mapping[str, float] = field(default_factory=dict)
    vector_precision: VectorPrecision = "half"
    revision: Revision | None = None
    free_parameters: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class TrunkResult:
    """The trunk, the owner that is there before any task.

    Attributes:
        kind: `checkpoint` (every slot holds a code) or `seed` (nothing is stored; tasks start from the factory's own initialisation under `seed`).
        seed: seed of the fresh initialisation.
        layers, norms, biases: as in `TaskResult`, empty for `seed`. All states are OWN.
        head: the trained model's own classifier, None for `seed`.
        word_bits: bits of one slot's word, for the trunk and all tasks together.
        free_parameters: state-dict name -> float32, all of them; empty for `seed`.
    """

    kind: str
    seed: int
    layers: Mapping[str, LayerCodes]
    norms: Mapping[str, NormState]
    biases: Mapping[str, NDArray[np.float32]]
    head: HeadState | None
    word_bits: int = WORD_BITS
    free_parameters: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class FrozenLayer:
    """What a task inherits at one layer: every slot the trunk or an ancestor owns.

    Attributes:
        q: int8 array, shape of the weight; 0 where `present` is False.
        present: bool array, shape of the weight.
        scale: float32 (out_channels,), the parent's own scale, as a starting point; None when no ancestor has the layer.
    """

    q: NDArray[np.int8]
    present: NDArray[np.bool_]
    scale: NDArray[np.float32] | None


@dataclass(frozen=True)
class FrozenParameter:
    """What a task inherits of one free parameter.

    Attributes:
        value: float32, shape of the parameter; 0 where `present` is False.
        present: bool, shape of the parameter: entries that the trunk or an ancestor owns.
    """

    value: NDArray[np.float32]
    present: NDArray[np.bool_]


@dataclass(frozen=True)
class TaskWeights:
    """One task as the store decodes it: everything needed to fill the user's own module.

    Attributes:
        name, parent, classes, unit_masks, norms, biases, head, ranges: as in `TaskResult`.
        q: layer name -> int8 array, shape of the weight, 0 where pruned.
        scale: layer name -> float32 (out_channels,).
        free_parameters: state-dict name -> float32, full shape, all of them, whoever owns them; 0 at entries of dead units.
    """

    name: str
    parent: str
    classes: tuple[int, ...]
    unit_masks: Mapping[str, NDArray[np.bool_]]
    q: Mapping[str, NDArray[np.int8]]
    scale: Mapping[str, NDArray[np.float32]]
    norms: Mapping[str, NormState]
    biases: Mapping[str, NDArray[np.float32]]
    head: HeadState
    ranges: Mapping[str, ActivationRange]
    free_parameters: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------------------- extract


@dataclass(frozen=True)
class ShrunkModel:
    """A plain module without its dead units, and where each remaining number came from.

    Attributes:
        model: the small module, eval mode.
        slots: state-dict name -> int64 tensor with the shape of the small tensor; flat index of each entry in the full tensor.
    """

    model: torch.nn.Module
    slots: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class ExtractedModel:
    """One task as a small dense module, proved to equal the masked one.

    Attributes:
        task: the task's name.
        model: plain nn.Module, dead units gone, eval mode, float32 weights scale * q.
        q: layer name -> int8 array in the small shape (the head included).
        scale: layer name -> float32 (out_channels,) in the small shape (the head included).
        macs: multiply-accumulates at batch 1.
        dense_macs: of the full model with this task's head.
        proof_error: max |masked - shrunk| / max |masked| over the proof inputs.
        slots: layer name -> int64 array in the small shape, flat index of each weight in the full layer.
        numbers_below: exclusive upper bound of an input of whole numbers that are looked up in an embedding; 0 for all others.
    """

    task: str
    model: torch.nn.Module
    q: Mapping[str, NDArray[np.int8]]
    scale: Mapping[str, NDArray[np.float32]]
    macs: int
    dense_macs: int
    proof_error: float
    slots: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    numbers_below: int = 0


# --------------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class TextForm:
    """How a text became one-hot columns (`data/tokens.py`), or the numbers of its words.

    Attributes:
        token: regular expression; its matches in the text in lower case are the tokens, in order.
        words: words[i] has column i + 1, every other word column 0; empty: the column is the CRC-32 of the word's UTF-8 modulo `columns`.
        columns: how many there are.
        length: tokens that are read.
        numbers: instead of columns there is one number per position, a token's column + 1, and 0 behind the end.
    """

    token: str
    words: tuple[str, ...]
    columns: int
    length: int
    numbers: bool = False


@dataclass(frozen=True)
class Reading:
    """What was done to raw examples and labels before they became the numbers of a split; who uses a task's model has to do the same.

    Attributes:
        class_names: of the data's own class indices; empty: they have none.
        steps: one phrase per step, in order.
        text: of texts.
    """

    class_names: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    text: TextForm | None = None

    def then(self, step: str) -> Reading:
        """The same and one step more."""
        return replace(self, steps=(*self.steps, step))


@dataclass(frozen=True)
class Split:
    """Examples and labels of one split.

    Attributes:
        x: (n, ...) as the source gives it: uint8 images or float.
        y: int64 (n,).
        group: int64 (n,), the subject or superclass of each example; None where the source tells none.
        recording: int64 (n,), which examples were cut from one recording, so that no two splits may share it; None: each stands for itself.
        reading: how they were made from what is outside.
    """

    x: torch.Tensor
    y: torch.Tensor
    group: torch.Tensor | None = None
    recording: torch.Tensor | None = None
    reading: Reading = Reading()

    def __len__(self) -> int:
        return len(self.y)

    def take(self, chosen: torch.Tensor) -> Split:
        """The examples at `chosen`, positions int64 (k,) or a bool mask (n,)."""
        group, recording = (None if of is None else of[chosen] for of in (self.group, self.recording))
        return Split(self.x[chosen], self.y[chosen], group, recording, self.reading)


@dataclass(frozen=True)
class TaskData:
    """One task's data; labels are 0..len(classes)-1.

    Attributes:
        name: the task's name.
        classes: the data's own class index of each label.
        train, validation, test: splits; `test` is for measuring only.
        mean, std: per channel, applied after scaling uint8 to [0, 1]; empty: no normalisation.
        class_names: class index -> name, of all classes of the task's data set that have one.
    """

    name: str
    classes: tuple[int, ...]
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    class_names: Mapping[int, str] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[int | str, ...]:
        """What each logit stands for: the name of its class, or the class index where it has none."""
        return tuple(self.class_names.get(index, index) for index in self.classes)

    def relabelled(self, classes: tuple[int, ...], labels: Callable[[torch.Tensor], torch.Tensor]) -> TaskData:
        """The same examples for a head of other rows.

        Args:
            classes: of the head's rows.
            labels: labels of this task, int64 (n,), as rows of the head, int64 (n,).
        """
        train, validation, test = (Split(split.x, labels(split.y), reading=split.reading) for split in (self.train, self.validation, self.test))
        return replace(self, classes=classes, train=train, validation=validation, test=test)


# ------------------------------------------------------------------------------------------------------------------- package


@dataclass(frozen=True)
class Parity:
    """What the two gates measured; `passed` is their conjunction.

    Attributes:
        output_steps: gate (a): largest |artefact - reference| in output steps; at most the target's `gates.output_steps` and, on examples beyond
            these, what values at the edge of rounding cost there.
        top1_agreement: gate (b): fraction of samples on which reference and store agree.
        sqnr_db: gate (b): signal to quantization noise of the reference's logits against the store's.
        samples: number of held-out samples both gates saw.
        accuracy: of the artefact on the test split (measured only, decides nothing).
        failures: one sentence per failed condition.
        not_run: why the artefact was not run, so that gate (a) compared its weights alone and `output_steps` and `accuracy` are NaN; or "".
        emulated_samples: how many inputs ran in the target's emulator too; None for a runtime without one.
        tie_steps: the most that values at the edge of rounding cost an example beyond the target's steps (`quantizers.ties`), in output steps.
    """

    output_steps: float
    top1_agreement: float
    sqnr_db: float
    samples: int
    accuracy: float
    failures: tuple[str, ...]
    not_run: str = ""
    emulated_samples: int | None = None
    tie_steps: float = 0.0

    @property
    def passed(self) -> bool:
        """True when both gates hold."""
        return not self.failures
