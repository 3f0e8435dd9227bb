"""All parameters: one frozen model per section of params.yaml, and one field per parameter.

All wrong values are reported at once. No stage tracks the sections `machine` and `backup`: of
them only the accelerator and the number of devices change what is computed.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)
from ruamel.yaml.error import YAMLError

from multi_abnormality.config.field_types import (
    Backbone,
    ColumnName,
    Commit,
    CutmixProb,
    DaskAddress,
    DataPath,
    Duration,
    Findings,
    Fraction,
    Knots,
    Loggers,
    Probability,
    Section,
    SensitivityTarget,
    Share,
    SingleLine,
    Spacing,
    WarmupEpochs,
    WeightsSha256,
    Words,
    check_columns,
    check_fold,
    check_overlay,
    check_sheet,
    check_split_values,
    check_values,
)  # fmt: skip
from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.config.validation_errors import describe
from multi_abnormality.config.yaml_reader import load_yaml
from multi_abnormality.utils.errors import InputError, raise_errors

S = TypeVar("S", bound=Section)


class Columns(Section):
    """Names of the columns of data.table. The column of a finding has the finding's name."""

    scan: ColumnName
    patient: ColumnName | None  # null: every scan is of another patient
    split: ColumnName | None  # train, val or test; null: random by patient
    manufacturer: ColumnName | None  # this and the following: subgroups of the scores
    kernel: ColumnName | None
    sex: ColumnName | None
    age: ColumnName | None  # in years


class LabelValues(Section):
    """Values of the findings' columns in data.table, as words and numbers; any other is an error.

    A number also names the same number with `.0`, and `true` the words TRUE and True.
    """

    positive: Words = Field(min_length=1)
    negative: Words = Field(min_length=1)
    uncertain: Words
    missing: Words  # "" is an empty cell


class SplitValues(Section):
    """Values of the split column in data.table, as words and numbers; any other is an error."""

    train: Words
    val: Words  # if the table has none, val is drawn from train by train.val_fraction
    test: Words
    missing: Words  # drawn for train or test by data.test_fraction; "" is an empty cell


class Data(Section):
    """Content of data/, which preprocess reads; of this section, train reads `fold` alone."""

    table: DataPath | None  # path in data/; null: CT-RATE's layout
    sheet: Annotated[SingleLine | None, AfterValidator(check_sheet)]  # of .xlsx; null: the first
    findings: Findings  # ct_rate, or names in the order of the model's outputs
    values: Annotated[LabelValues, AfterValidator(check_values)]
    uncertain: Literal["missing", "positive", "negative"]  # what uncertain labels count as
    scans: DataPath  # directory in data/ that the table's paths are relative to
    columns: Annotated[Columns, AfterValidator(check_columns)]
    split_values: Annotated[SplitValues, AfterValidator(check_split_values)]
    test_fraction: Fraction  # of the patients for whom no column has the split
    split_seed: NonNegativeInt  # seed of that split, of the folds, and of the val patients
    folds: Annotated[int, Field(ge=2)] | None  # for cross-validation by patient; null: none
    fold: Annotated[NonNegativeInt | None, AfterValidator(check_fold)]  # held out as test

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the findings."""
        return FINDINGS if isinstance(self.findings, str) else self.findings


class PreprocessSpec(Section):
    """Form of a stored volume. Axes are (Z, Y, X), towards head, back and left."""

    spacing: tuple[Spacing, Spacing, Spacing]  # mm
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]  # voxels
    hu_to_uint8: Knots  # (HU, 8-bit code)


class Preprocess(PreprocessSpec):
    """PreprocessSpec, and how to handle unusable volumes."""

    on_error: Literal["stop", "skip"]  # at unusable volumes

    @property
    def recipe(self) -> PreprocessSpec:
        """The settings that stored volumes depend on."""
        return PreprocessSpec(**{name: getattr(self, name) for name in PreprocessSpec.model_fields})


class Lora(Section):
    """Low-rank adaptation, used if model.finetune is lora."""

    rank: PositiveInt
    alpha: PositiveFloat  # the adaptation's scale is alpha / rank
    targets: tuple[str, ...] = Field(min_length=1)  # suffixes of the names of linear layers


class PretrainedCfgOverlay(Section):
    """Corrections of what the weights' configuration says of their input; null: as it says."""

    input_size: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None  # channels, y, x
    fixed_input_size: bool | None = None
    mean: tuple[float, ...] | None = None  # per input channel, of intensities in [0, 1]
    std: tuple[PositiveFloat, ...] | None = None


class Model(Section):
    backbone: Backbone  # a model of timm, or hf-hub:owner/name@revision
    pretrained: bool | str  # false: random, true: from the hub, or the path of weights
    # The following two have defaults, since checkpoints of earlier versions lack them.
    pretrained_sha256: WeightsSha256 | None = None  # of the weights; null: not checked
    pretrained_cfg_overlay: Annotated[PretrainedCfgOverlay, AfterValidator(check_overlay)] = (
        PretrainedCfgOverlay()
    )
    global_pool: str | None  # of a slice's feature map, timm's name; null: the backbone's default
    # Feature maps that are pooled: the last; also those of two stages before it; or by index.
    multiscale: bool | Annotated[tuple[int, ...], Field(min_length=1)]
    attn_layer: Literal["none", "se", "cbam"]  # on a slice's feature maps
    encoder_chunk_size: PositiveInt | None  # slices encoded at once; null: all of a step
    windows: tuple[tuple[float, PositiveFloat], ...] = Field(min_length=1)  # (centre, width) in HU
    adjacent_slices: Literal[1, 3, 5]  # as channels of an input: the slice and its neighbours
    pooling: Literal["attention", "mean", "max", "transformer"]  # of slices
    dropout: Share
    finetune: Literal["full", "frozen", "progressive", "lora"]  # trained weights of the backbone
    unfreeze_epoch: NonNegativeInt  # progressive: first epoch that trains a part of it
    lora: Lora


class Train(Section):
    epochs: PositiveInt
    schedule_epochs: PositiveInt  # length of the learning rate decay; constant afterwards
    batch_size: PositiveInt  # volumes
    accumulate_grad_batches: PositiveInt  # batches per optimizer step
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    cache_features: Literal["auto", "required", "never"]  # of a frozen encoder, encoded once
    slices_per_volume: PositiveInt  # sampled in a training step; evaluation uses all
    reconstructions: Literal["random", "first", "all"]  # of each scan in an epoch
    augmentation: Literal["none", "basic", "advanced"]
    mixup_prob: Probability  # probability per batch
    cutmix_prob: CutmixProb  # probability per batch
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    layer_decay: Annotated[float, Field(gt=0, le=1)]  # of the learning rate per layer, top down
    warmup_epochs: WarmupEpochs
    max_grad_norm: PositiveFloat
    ema_decay: Share  # exponential moving average of weights, per step; 0: none
    average_best: PositiveInt  # best epochs on val, whose weights are averaged; 1: none
    loss: Literal["asl", "bce", "focal"]
    asl_gamma_neg: NonNegativeFloat  # asl: focusing exponent for negatives
    asl_gamma_pos: NonNegativeFloat  # asl: focusing exponent for positives
    asl_clip: Share  # asl: probability margin below which negatives are ignored
    focal_gamma: NonNegativeFloat  # focal: focusing exponent
    label_smoothing: Share  # labels of s / 2 and 1 - s / 2
    max_pos_weight: Annotated[float, Field(ge=1)]  # limit of positives' weight; 1: unweighted
    oversample_threshold: Share  # scans with a finding rarer than this are drawn more often
    val_fraction: Fraction  # of the train split's patients
    early_stopping_patience: PositiveInt  # epochs
    save_every_n_epochs: PositiveInt
    save_every_n_minutes: PositiveFloat
    resume: Literal["auto", "required", "never"]  # from the latest checkpoint
    loggers: Loggers  # docs/how-to/experiment-tracking.md
    log_every_n_steps: PositiveInt  # batches after which losses are read, checked and logged
    deterministic: bool
    compile: bool  # torch.compile of the encoder
    debug: Literal["none", "fast_dev_run", "overfit_batches"]  # few scans: training/debug_modes.py


class Evaluate(Section):
    # Maximised by the thresholds; "sensitivity>=0.95": the highest ones that reach it.
    threshold_metric: Literal["crg", "f1", "accuracy", "youden", "none"] | SensitivityTarget
    n_bootstrap: PositiveInt  # resamples of patients for confidence intervals
    ci_level: Fraction
    baseline: Commit | None = None  # earlier run that the report compares with; null: none


class Export(Section):
    formats: tuple[Literal["pth", "safetensors", "pt2", "onnx"], ...] = Field(min_length=1)
    tolerance: PositiveFloat  # largest allowed difference of an exported model's probabilities
    training_hashes: bool  # salted hashes of the training patients, for `evaluate`
    name: SingleLine | None  # this and the following: for the model card
    owner: SingleLine | None
    license: SingleLine | None
    contact: SingleLine | None


class Machine(Section):
    """Hardware and limits of this machine."""

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: PositiveInt | Literal["auto"]  # per node; auto: all its GPUs
    nodes: PositiveInt
    strategy: Literal["auto", "ddp"]  # auto: ddp if there are several devices
    workers: NonNegativeInt | Literal["auto"]  # processes that preprocess or load
    dask: DaskAddress | None  # Dask scheduler whose workers preprocess; null: this machine's
    max_time: Duration | None  # of the train stage, such as "5h30m"; null: unlimited
    allow_code_changes: bool  # resume checkpoints of other source code


class BackupConfig(Section):
    """Backups of a running training."""

    remote: str | None  # name of a DVC remote; null: DVC's default one; "off": no backup
    git_remote: str | None  # name of a Git remote for resume commits; null: the DVC remote
    keep_last: PositiveInt  # backups of a run on the remote
    grace: NonNegativeFloat  # s that a stop waits for the last upload


class Params(Section):
    seed: NonNegativeInt
    data: Data
    preprocess: Preprocess
    model: Model
    train: Train
    evaluate: Evaluate
    export: Export
    machine: Machine
    backup: BackupConfig


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check a params.yaml.

    Raises:
        InputError: lists every wrong key, with the allowed values.
    """
    try:
        return parse_params(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); run in the project's folder"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 ({error}); save it as UTF-8") from error


def parse_params(text: str, path: Path) -> Params:
    """Check the text of a params.yaml.

    Args:
        text: content of the file.
        path: path of the file, for errors.

    Raises:
        InputError: lists every wrong key, with the allowed values.
    """
    try:
        content = load_yaml(text)
    except YAMLError as error:
        raise InputError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold the sections {', '.join(Params.model_fields)}")
    try:
        return Params.model_validate(_tuples(content))
    except ValidationError as error:
        raise_errors(describe(error, Params), f"{path}: wrong parameters")
        raise


def parse_section(section: type[S], content: dict[str, Any]) -> S:
    """Create a section from plain values, such as those in a checkpoint."""
    return section.model_validate(_tuples(content))


def _tuples(value: object) -> object:
    """Convert lists to tuples, which strict, frozen models require."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value
