"""The recipe: what a run is made of, as frozen models. Each field says what it means; the defaults are here and nowhere else.

`load_recipe` (loading.py) reads a file into these types; the rules that span several fields are in checks.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tsn_toolkit.vocabulary import (
    GRANULARITY_PATTERN,
    MAX_WORD_BITS,
    TASK_NAME_PATTERN,
    WORD_BITS,
    DensityRule,
    Encoding,
    FreeParameterRule,
    VectorPrecision,
)

Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
TaskName = Annotated[str, Field(pattern=rf"^{TASK_NAME_PATTERN}$")]
Granularity = Annotated[str, Field(pattern=rf"^(?:{GRANULARITY_PATTERN})$")]
BitWidth = Annotated[int, Field(ge=1, le=8)]
Loose = Field(strict=False)
"""A YAML list is accepted where the model holds a tuple; the items stay strict."""


class Section(BaseModel):
    """Base of all sections: frozen, strict scalars, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class ModelSection(Section):
    """The network."""

    factory: str
    """`package.module:factory` or `path/to/file.py:factory`, with literal arguments."""
    checkpoint: str | None = None
    """Trained weights (.pth, .pt, .safetensors), null for the factory's own initialisation."""
    checkpoint_sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    """Digest that the checkpoint file must have."""
    head: str = "auto"
    """Module path of the classifier; `auto` takes the layer that produces the output."""
    reference_accuracy: Fraction | None = None
    """Top-1 on the full test set that the checkpoint must reach, checked before anything else."""
    reference_tolerance: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.001
    """Largest distance from `reference_accuracy`."""


class TestSplitSection(Section):
    """A test part for data that comes without one; it does not follow the recipe's seed, so that all seeds are measured on the same examples."""

    fraction: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Fraction of each class (and subject, where the source tells subjects) that becomes test."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Which examples."""


class DataSection(Section):
    """The data, before it is split into tasks."""

    source: str
    """Name of a data source: cifar-binary, csv, datasets-folder, digits, factory, idx, image-folder, labelled-text or npz."""
    path: str | None = None
    """Folder or file that the source reads."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the source; each source documents its own."""
    validation: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Fraction of each task's training examples that is held out for selection."""
    mean: Annotated[tuple[float, ...], Loose] = ()
    """Per channel, subtracted after uint8 is scaled to [0, 1]; empty: no normalisation."""
    std: Annotated[tuple[Annotated[float, Field(gt=0.0)], ...], Loose] = ()
    """Per channel, divided by after the mean."""
    train_limit: Count | None = None
    """Use at most this many training examples in all, the first of each class (and subject, where the source tells subjects)."""
    test_limit: Count | None = None
    """Use at most this many test examples in all, likewise."""
    test_split: TestSplitSection | None = None
    """How test is taken out of data that has no test part; null for all others."""
    input_shape: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)] | None = None
    """Shape of one example, channels first, that all data is brought to: images are resized, grey becomes colour or colour grey. Null: as it is."""
    class_names: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False, min_length=1)] | None = None
    """Names of the classes 0, 1, ..., for packages; null: those of the source, where it has names."""


class ExplicitTask(Section):
    """One task of `split: explicit`."""

    name: TaskName
    """Name of the task: small letters, digits, _ and -."""
    classes: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=2)]
    """The data's own class indices, in the order of the logits."""


class DatasetTask(Section):
    """One task of `split: datasets`; what is left out is as in `data`. Another source than there has its own path, options, test split and class
    names."""

    name: TaskName
    """Name of the task: small letters, digits, _ and -."""
    label_space: str | None = None
    """Data sets of one label space have the same classes; null: the data set has classes of its own."""
    source: str | None = None
    """As in `data`, like all keys below."""
    path: str | None = None
    options: dict[str, Any] | None = None
    mean: Annotated[tuple[float, ...], Loose] | None = None
    std: Annotated[tuple[Annotated[float, Field(gt=0.0)], ...], Loose] | None = None
    train_limit: Count | None = None
    test_limit: Count | None = None
    test_split: TestSplitSection | None = None
    class_names: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False, min_length=1)] | None = None


class TasksSection(Section):
    """How the data becomes a sequence of tasks."""

    split: Literal["classes", "explicit", "permutation", "rotation", "superclasses", "subjects", "datasets"] = "classes"
    """`classes`: chunks of `per_task` classes; `explicit`: the list below; `permutation`: all classes, pixels permuted per task; `rotation`: all
    classes, images turned by `angles`; `superclasses`: the classes of `groups_per_task` superclasses; `subjects`: all classes, examples of
    `groups_per_task` subjects; `datasets`: the list below."""
    per_task: Annotated[int, Field(ge=2)] = 2
    """Classes of one task of `split: classes`."""
    count: Count | None = None
    """Number of tasks; null: as many as there are. `split: permutation` needs it."""
    explicit: Annotated[tuple[ExplicitTask, ...], Loose] = ()
    """The tasks of `split: explicit`."""
    order: Literal["as_is", "shuffled"] = "as_is"
    """Order in which classes, superclasses or subjects are dealt out; `shuffled` follows the seed."""
    groups_per_task: Count = 1
    """Superclasses or subjects of one task."""
    angles: Annotated[tuple[float, ...], Loose] = ()
    """Degrees counterclockwise, one per task of `split: rotation`."""
    datasets: Annotated[tuple[DatasetTask, ...], Loose] = ()
    """The tasks of `split: datasets`, each a data set of its own."""


class TrunkSection(Section):
    """The owner that is there before any task."""

    kind: Literal["auto", "seed", "checkpoint"] = "auto"
    """`checkpoint` stores the trained weights as codes, `seed` stores a seed; `auto` follows `model.checkpoint`."""
    bit_width: BitWidth = 4
    """Bits per code of a checkpoint trunk."""
    word_bits: Annotated[int, Field(ge=8, le=MAX_WORD_BITS)] = WORD_BITS
    """Bits of one slot's word, for the trunk and all tasks together; each task that owns a slot takes its bit width of it."""


class StrategySection(Section):
    """The continual-learning method."""

    name: str = "tsn"
    """Name of a strategy: `tsn strategies list`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the strategy; each strategy documents its own."""


class LayerOverride(Section):
    """What one layer does otherwise; null keeps the plan's value."""

    encoding: Encoding | None = None
    """`codes`, `planes` or `shared`."""
    density: Fraction | None = None
    """Fraction of the slots that is used."""
    granularity: Granularity | None = None
    """Of the mask."""
    bit_width: BitWidth | None = None
    """Bits per own code."""


class BudgetSection(Section):
    """Limits that a plan keeps, and the options it is chosen from; what each option changes in the answers is measured on validation data.

    Over a trained trunk units alone are chosen; the layers that read the removed ones become the task's own, stored as the plan's `density`,
    `granularity` and `bit_width` say, all others are shared.
    """

    size_bytes: Count | None = None
    """Largest estimated size of one task: entropy of masks and codes, codebooks, scales, norms, biases, head."""
    macs_kept: Fraction | None = None
    """Largest fraction of the multiply-accumulates that stays."""
    latency_ms: Annotated[float, Field(gt=0.0)] | None = None
    """Largest latency on the first target, batch 1, milliseconds; measured once and written into the plan."""
    max_loss_increase: Annotated[float, Field(ge=0.0)] | None = None
    """Largest rise of the validation loss of the compressed network, one standard error above its mean; without `size_bytes`: at fewest bytes (over a
    trained trunk without `macs_kept`: at fewest multiply-accumulates)."""
    max_accuracy_drop: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Largest fall of the validation accuracy, a fraction, likewise."""
    densities: Annotated[tuple[Fraction, ...], Field(strict=False, min_length=1)] = (1.0, 0.7, 0.5, 0.3, 0.15)
    """Densities that a layer may take."""
    granularities: Annotated[tuple[Granularity, ...], Field(strict=False, min_length=1)] = ("element",)
    """Granularities that a layer may take."""
    bit_widths: Annotated[tuple[BitWidth, ...], Field(strict=False, min_length=1)] = (8, 4, 3)
    """Bits per code that a layer may take."""
    units: Annotated[tuple[Fraction, ...], Loose] = ()
    """Fractions of units that a group may keep besides all of them; empty: all units stay."""
    examples: Annotated[int, Field(ge=2)] = 512
    """Validation examples that options are measured on."""
    max_passes: Count = 1000
    """Forward passes over these examples that measuring may take."""


class PlanSection(Section):
    """How much is compressed, and how."""

    file: str | None = None
    """A plan file (`tsn plan`) to use instead of making one."""
    units_keep: Fraction = 1.0
    """Fraction of the units that every group keeps."""
    target_macs: Fraction | None = None
    """Fraction of the multiply-accumulates to keep; finds one fraction of units for all groups. Instead of `units_keep`."""
    importance: str = "taylor"
    """Criterion that ranks units."""
    encoding: Encoding = "codes"
    """`codes`: masked slots with own codes; `planes`: one bit per slot over the inherited values; `shared`: the parent's layers as they are."""
    density: Fraction = 0.3
    """Fraction of the slots inside the kept units that a task uses (or owns, over a full trunk); `n:m`, `unit` and `planes` fix their own."""
    density_by_layer: DensityRule = "uniform"
    """`uniform`: every layer has the density; `erk`: small layers are denser, all together have it; `learned`: each task divides it by its scores."""
    bit_width: BitWidth = 4
    """Bits per own code."""
    adapt_bits: bool = False
    """Take `bit_width` as the largest: each task finds the smallest width of each layer that its validation loss allows."""
    bit_tolerance: Annotated[float, Field(ge=0.0)] = 0.01
    """Largest rise of the validation loss (one standard error above its mean) that `adapt_bits` accepts, as a fraction of 1 + the loss itself."""
    vectors: VectorPrecision = "half"
    """How a task's scales, norms, biases and free parameters are stored: 16-bit floats, or int8 steps."""
    free_parameters: FreeParameterRule = "inherit"
    """Class tokens, learned positions, layer scale, embeddings: what is no layer's, norm's or bias's. `inherit`: a task keeps those of the trained
    trunk or its parent as they are, which costs no byte, and trains what nobody owns; `own`: it trains and stores all of them."""
    head_bits: Annotated[int, Field(ge=2, le=8)] = 8
    """Bits per code of a task's head. Below 8, `tsn`, `wsn`, `packnet` and `supsup` train it through its rounding; others round it at the end."""
    granularity: Granularity = "element"
    """Of the masks inside the kept units: `element`, `block(k)` (k consecutive input weights), `n:m` (n of every m of them) or `unit` (none)."""
    channel_multiple: Count | None = None
    """Kept units of a group are rounded up to a multiple of this; left out, to the multiple with which the kernels of the `targets` work best."""
    min_units: Count = 1
    """Units that every group keeps at least."""
    unit_overrides: dict[str, Fraction] = Field(default_factory=dict)
    """Group name pattern (`layer1.*`) -> fraction of units kept."""
    layer_overrides: dict[str, LayerOverride] = Field(default_factory=dict)
    """Layer name pattern -> what it does otherwise."""
    child_overrides: dict[str, LayerOverride] = Field(default_factory=dict)
    """Layer name pattern -> what it does otherwise in a task that has another task as its parent: all that the parent uses stays, `density` is the
    fraction of the slots that the task owns, in place of or beside those. Strategy `tsn` without a trained trunk."""
    budget: BudgetSection | None = None
    """Limits under which densities, granularities, bit widths and units are chosen layer by layer, in place of `density`, `granularity`, `bit_width`
    and `units_keep`; overrides stay as given. Needs a checkpoint to measure."""


class TrainingSection(Section):
    """How one task is trained."""

    epochs: Count = 10
    """Passes over the task's training data, all phases of the strategy together; a phase takes at least one."""
    batch_size: Count = 64
    """Examples per step."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """The optimizer."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 0.05
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Of sgd."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0005
    """On weights."""
    augment: Annotated[tuple[Literal["flip", "crop"], ...], Loose] = ()
    """Random horizontal flips, random crops after padding by 4."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Of the cross-entropy."""


class PostTrainingSection(Section):
    """What is done to a learned task before it is committed, in the order of the keys. A step that raises the validation loss is undone."""

    samples: Annotated[int, Field(ge=16)] = 256
    """Training examples that the steps are fitted on."""
    prune_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of a layer's own slots that gradient-free post-pruning gives up at once, as often as the validation loss allows; 0: none."""
    prune_tolerance: Annotated[float, Field(ge=0.0)] = 0.01
    """Largest rise of the validation loss (one standard error above its mean) that post-pruning may cost, as a fraction of 1 + the loss itself."""
    equalize: bool = False
    """Cross-layer equalization, where graph and store allow it."""
    rounding: Literal["nearest", "learned", "gptq"] = "nearest"
    """How own codes are chosen: the nearest entry; `learned` (AdaRound) or `gptq`: so that the layer's output changes least."""
    rounding_steps: Count = 300
    """Optimizer steps of `rounding: learned`, per layer."""
    damping: Annotated[float, Field(gt=0.0)] = 0.01
    """Of `rounding: gptq`, relative to the mean squared input of a layer."""
    correct_biases: bool = False
    """Take back what coding did to the mean of every channel, through norms and biases."""
    ranges: Literal["percentile", "min_max", "mse"] = "percentile"
    """Rule of the activation ranges: a percentile, the largest value, or the least squared error."""
    percentile: Fraction = 0.99999
    """Fraction of the absolute values of a batch that a range holds, of `ranges: percentile`."""


class ReferenceSection(Section):
    """The dense fp32 network that each task is compared with."""

    dense: Literal["separate", "warm", "checkpoint", "none"] = "separate"
    """`separate`: one trained per task from the fresh initialisation; `warm`: each started from the previous task's, with a fresh head;
    `checkpoint`: the given one, restricted to the task's logits; `none`."""
    epochs: Count | None = None
    """Of a separate network; null: as `training.epochs`."""
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    """Of a separate network; null: as `training.learning_rate`."""


class TaskInferenceSection(Section):
    """How the task of test examples is found where nobody tells it. It decides what accuracy means and no byte of a task. For tasks that stand for
    themselves; strategies whose tasks share one network have `strategy.options.setting`."""

    rule: Literal["told", "one-shot", "binary"] = "told"
    """`told`: task-incremental. `one-shot`, `binary`: the task is found by the entropy of the answers, and a prediction is right when its class is:
    domain-incremental where the tasks have the same classes, class-incremental where they have not."""
    batch: Count = 128
    """Examples, one after the other in the data, that are known to belong to one task and are looked at together; 1: each by itself."""


class BenchSection(Section):
    """How latency is measured."""

    threads: Count = 1
    """Threads of the runtime."""
    batches: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)] = (1, 32)
    """Batch sizes."""
    seconds: Annotated[float, Field(gt=0.0)] = 1.0
    """Measuring time per batch size."""


class Recipe(Section):
    """One run, complete."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    """Version of this schema."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    """Name of the recipe: small letters, digits, _ and -."""
    description: str = ""
    """One sentence for `tsn recipes list`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where training runs; `auto` takes cuda where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of training; `auto` takes bf16 where the processor has it in hardware."""
    model: ModelSection
    """The network."""
    data: DataSection
    """The data."""
    tasks: TasksSection = Field(default_factory=TasksSection)
    """The tasks."""
    trunk: TrunkSection = Field(default_factory=TrunkSection)
    """The trunk."""
    strategy: StrategySection = Field(default_factory=StrategySection)
    """The method."""
    plan: PlanSection = Field(default_factory=PlanSection)
    """The compression."""
    training: TrainingSection = Field(default_factory=TrainingSection)
    """The training."""
    post_training: PostTrainingSection = Field(default_factory=PostTrainingSection)
    """The steps between training and commit."""
    reference: ReferenceSection = Field(default_factory=ReferenceSection)
    """The dense network to compare with."""
    parent: Literal["trunk", "previous", "auto"] = "auto"
    """Whose frozen view a task inherits. `auto`: the one that the strategy finds by similarity, where its options ask for that; else the trunk where
    it holds trained weights, and the previous task where it does not."""
    targets: Annotated[tuple[str, ...], Loose] = ("cpu_onnxruntime",)
    """Hardware targets to export for: names (`tsn targets list`) or files; empty: no packages."""
    task_inference: TaskInferenceSection = Field(default_factory=TaskInferenceSection)
    """How the task is found when measuring."""
    bench: BenchSection = Field(default_factory=BenchSection)
    """The latency measurement."""
    baselines: Annotated[tuple[str, ...], Loose] = ()
    """Kept empty, since every store's resolved recipe has the key: a run learns one strategy. `benchmarks/continual.py` compares several."""
