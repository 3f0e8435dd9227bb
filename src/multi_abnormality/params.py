"""params.yaml as types: one frozen model a section, unknown keys refused, all faults at once."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator

from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.params_data import Data
from multi_abnormality.params_faults import describe
from multi_abnormality.params_machine import Backup, Machine
from multi_abnormality.params_preprocess import Preprocess
from multi_abnormality.section import Count, Positive, Probability, Section, Share
from multi_abnormality.yaml12 import load_yaml

S = TypeVar("S", bound=Section)


class Lora(Section):
    """Low-rank adaptation, where model.finetune asks for it."""

    rank: Count
    alpha: Positive  # the adaptation's scale is alpha / rank
    targets: tuple[str, ...] = Field(min_length=1)  # ends of the names of linear layers


class Model(Section):
    backbone: str
    pretrained: bool | str  # false: random, true: timm's hub, or the path of a weights file
    global_pool: str | None  # of a slice's feature map, by timm's names; null: the backbone's own
    multiscale: bool  # use the maps of two stages before the last as well
    attention: Literal["none", "se", "cbam"]  # on a slice's feature maps
    slice_chunk: Count | None  # slices encoded at a time, to save memory; null: all of a step
    windows: tuple[tuple[float, Positive], ...] = Field(min_length=1)  # (centre, width) in HU
    adjacent_slices: Literal[1, 3, 5]  # that are an input's channels: the slice and its neighbours
    pooling: Literal["query", "mean", "max", "transformer"]  # from slices to the scan
    dropout: Share
    finetune: Literal["full", "frozen", "progressive", "lora"]  # what of the backbone learns
    unfreeze_epoch: Annotated[int, Field(ge=0)]  # progressive: the first with a part of it
    lora: Lora


class Train(Section):
    epochs: Count
    schedule_epochs: Count  # the learning rate falls over these, and stays as it is after them
    batch_size: Count  # volumes
    accumulate: Count  # batches whose gradients make one step of the optimizer
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    slices: Count  # drawn from each volume at a training step; evaluation sees them all
    reconstructions: Literal["random", "first", "all"]  # of each scan, that an epoch sees
    augmentation: Literal["none", "basic", "advanced"]
    mixup: Probability  # that a batch's volumes are mixed
    cutmix: Probability  # that they exchange a box
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    layer_decay: Annotated[float, Field(gt=0, le=1)]  # of the learning rate, a layer down
    warmup_epochs: Annotated[float, Field(ge=0)]
    clip_norm: Positive
    average_decay: Share  # of the exponential average of weights, per step; 0 is none
    loss: Literal["asl", "bce", "focal"]
    gamma_negative: Annotated[float, Field(ge=0)]  # asl: focus on hard negatives
    gamma_positive: Annotated[float, Field(ge=0)]  # asl
    clip: Share  # asl: negatives below this probability count nothing
    focal_gamma: Annotated[float, Field(ge=0)]  # focal: focus on hard cells
    label_smoothing: Share  # labels of s / 2 and 1 - s / 2
    positive_weight_limit: Annotated[float, Field(ge=1)]  # of a finding's positives; 1: no weights
    validation_fraction: Annotated[float, Field(gt=0, lt=1)]  # of the train split's patients
    early_stopping_patience: Count  # epochs
    save_every_n_epochs: Count
    save_every_n_minutes: Positive
    resume: Literal["auto", "must", "never"]  # from the newest checkpoint: if there is one, ...
    deterministic: bool
    compile: bool  # the encoder, by torch.compile
    debug: Literal["none", "fast", "overfit"]  # few scans: training/debug.py

    @field_validator("cutmix")
    @classmethod
    def fits_beside_mixup(cls, cutmix: float, known: ValidationInfo) -> float:
        if cutmix + known.data.get("mixup", 0) > 1:
            raise ValueError("must be at most 1 together with train.mixup")
        return cutmix

    @field_validator("warmup_epochs")
    @classmethod
    def fits_schedule(cls, warmup: float, known: ValidationInfo) -> float:
        if warmup >= known.data.get("schedule_epochs", math.inf):
            raise ValueError("must be below train.schedule_epochs")
        return warmup


class Evaluate(Section):
    threshold_metric: Literal["crg", "f1", "accuracy", "none"]  # that thresholds are best for
    resamples: Count  # of the bootstrap over patients behind every interval
    confidence: Annotated[float, Field(gt=0, lt=1)]


class Export(Section):
    formats: tuple[Literal["pth", "safetensors", "pt2", "onnx"], ...] = Field(min_length=1)
    tolerance: Positive  # largest difference allowed between an exported model and the checkpoint
    name: str | None  # these four stand in the model card
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
    backup: Backup


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check a params.yaml.

    Raises:
        InputError: names the file and every wrong key, with what would be allowed.
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
        text: of the file.
        path: that errors name.

    Raises:
        InputError: names every wrong key, with what would be allowed.
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
        raise_faults(describe(error, Params), f"{path}: wrong parameters")
        raise


def parse_section(section: type[S], content: dict[str, Any]) -> S:
    """A section from plain values, as a file of this project holds them."""
    return section.model_validate(_tuples(content))


def _tuples(value: object) -> object:
    """Lists as tuples: what strict, frozen models take."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value
