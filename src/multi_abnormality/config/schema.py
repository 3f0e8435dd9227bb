"""Schema of params.yaml: one frozen model per section; all errors are reported at once."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator

from multi_abnormality.config.base import Count, Positive, Probability, Section, Share
from multi_abnormality.config.schema_data import Data
from multi_abnormality.config.schema_machine import BackupConfig, Machine
from multi_abnormality.config.schema_preprocess import Preprocess
from multi_abnormality.config.validation_errors import describe
from multi_abnormality.config.yaml_reader import load_yaml
from multi_abnormality.utils.errors import InputError, raise_errors

S = TypeVar("S", bound=Section)


class Lora(Section):
    """Low-rank adaptation, used if model.finetune is lora."""

    rank: Count
    alpha: Positive  # the adaptation's scale is alpha / rank
    targets: tuple[str, ...] = Field(min_length=1)  # suffixes of the names of linear layers


class Model(Section):
    backbone: str
    pretrained: bool | str  # false: random, true: timm's hub, or the path of a weights file
    global_pool: (
        str | None
    )  # of a slice's feature map, by timm's names; null: the backbone's default
    multiscale: bool  # also use the feature maps of the two stages before the last
    attn_layer: Literal["none", "se", "cbam"]  # on a slice's feature maps
    encoder_chunk_size: Count | None  # slices encoded at once, to save memory; null: all of a step
    windows: tuple[tuple[float, Positive], ...] = Field(min_length=1)  # (centre, width) in HU
    adjacent_slices: Literal[1, 3, 5]  # as channels of an input: the slice and its neighbours
    pooling: Literal["attention", "mean", "max", "transformer"]  # of slices
    dropout: Share
    finetune: Literal[
        "full", "frozen", "progressive", "lora"
    ]  # which weights of the backbone train
    unfreeze_epoch: Annotated[int, Field(ge=0)]  # progressive: first epoch that trains a part of it
    lora: Lora


class Train(Section):
    epochs: Count
    schedule_epochs: Count  # length of the learning rate decay; constant afterwards
    batch_size: Count  # volumes
    accumulate_grad_batches: Count  # batches per optimizer step
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    slices_per_volume: Count  # sampled in a training step; evaluation uses all
    reconstructions: Literal["random", "first", "all"]  # of each scan in an epoch
    augmentation: Literal["none", "basic", "advanced"]
    mixup_prob: Probability  # probability per batch
    cutmix_prob: Probability  # probability per batch
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    layer_decay: Annotated[
        float, Field(gt=0, le=1)
    ]  # factor of the learning rate per layer, from the top down
    warmup_epochs: Annotated[float, Field(ge=0)]
    max_grad_norm: Positive
    ema_decay: Share  # exponential moving average of weights, per step; 0: none
    loss: Literal["asl", "bce", "focal"]
    asl_gamma_neg: Annotated[float, Field(ge=0)]  # asl: focusing exponent for negatives
    asl_gamma_pos: Annotated[float, Field(ge=0)]  # asl: focusing exponent for positives
    asl_clip: Share  # asl: probability margin below which negatives are ignored
    focal_gamma: Annotated[float, Field(ge=0)]  # focal: focusing exponent
    label_smoothing: Share  # labels of s / 2 and 1 - s / 2
    max_pos_weight: Annotated[
        float, Field(ge=1)
    ]  # upper limit of the weight of positives; 1: unweighted
    val_fraction: Annotated[float, Field(gt=0, lt=1)]  # of the train split's patients
    early_stopping_patience: Count  # epochs
    save_every_n_epochs: Count
    save_every_n_minutes: Positive
    resume: Literal["auto", "required", "never"]  # from the latest checkpoint
    loggers: tuple[Literal["tensorboard", "csv"], ...]  # runtime/loggers
    deterministic: bool
    compile: bool  # torch.compile of the encoder
    debug: Literal["none", "fast_dev_run", "overfit_batches"]  # few scans: training/debug_modes.py

    @field_validator("cutmix_prob")
    @classmethod
    def fits_beside_mixup(cls, cutmix: float, known: ValidationInfo) -> float:
        if cutmix + known.data.get("mixup_prob", 0) > 1:
            raise ValueError("must be at most 1 together with train.mixup_prob")
        return cutmix

    @field_validator("warmup_epochs")
    @classmethod
    def fits_schedule(cls, warmup: float, known: ValidationInfo) -> float:
        if warmup >= known.data.get("schedule_epochs", math.inf):
            raise ValueError("must be below train.schedule_epochs")
        return warmup


class Evaluate(Section):
    threshold_metric: Literal["crg", "f1", "accuracy", "none"]  # maximised by the thresholds
    n_bootstrap: Count  # resamples of patients for confidence intervals
    ci_level: Annotated[float, Field(gt=0, lt=1)]


class Export(Section):
    formats: tuple[Literal["pth", "safetensors", "pt2", "onnx"], ...] = Field(min_length=1)
    tolerance: Positive  # largest allowed difference of an exported model's probabilities
    name: str | None  # this and the following: for the model card
    owner: str | None
    license: str | None
    contact: str | None

    @field_validator("name", "owner", "license", "contact")
    @classmethod
    def is_one_line(cls, text: str | None) -> str | None:
        if text is not None and (not text.strip() or not text.isprintable()):
            raise ValueError("must be one line of text, or null")
        return text


class Params(Section):
    seed: Annotated[int, Field(ge=0)]
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
    except yaml.YAMLError as error:
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
