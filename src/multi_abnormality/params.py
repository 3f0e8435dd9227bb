"""params.yaml as types: one frozen model a section, unknown keys refused, all faults at once."""

import difflib
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator

from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.params_data import Data
from multi_abnormality.section import Section

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")

_ADDRESS = re.compile(r"(?:tcp|tls|ucx|ws|wss)://(?:[^\s/:\[\]]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}")


def parse_duration(text: str) -> int:
    """Seconds of a text such as "5h30m".

    Raises:
        ValueError: it is none, or not above zero.
    """
    found = _DURATION.fullmatch(text.strip())
    units = (86400, 3600, 60, 1)
    seconds = found and sum(
        unit * int(count or 0) for unit, count in zip(units, found.groups(), strict=True)
    )
    if not seconds:
        raise ValueError('must be a duration such as "5h30m"')
    return seconds


S = TypeVar("S", bound=Section)


class Recipe(Section):
    """What a stored volume is. Axes are (Z, Y, X): to the head, to the back, to the left."""

    spacing: tuple[Positive, Positive, Positive]  # mm
    shape: tuple[Count, Count, Count]  # voxels
    hu_codes: tuple[tuple[int, int], ...] = Field(min_length=2)  # (HU, 8-bit code) knots

    @field_validator("hu_codes")
    @classmethod
    def rise(cls, knots: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        hu, codes = zip(*knots, strict=True)
        rising = all(a < b for column in (hu, codes) for a, b in pairwise(column))
        if not rising or codes[0] != 0 or codes[-1] != 255:
            raise ValueError("must rise in both columns, its codes from 0 to 255")
        return knots


class Preprocess(Recipe):
    on_error: Literal["stop", "skip"]  # over volumes that cannot be used

    @property
    def recipe(self) -> Recipe:
        """The part of it that stored volumes depend on."""
        return Recipe(**{name: getattr(self, name) for name in Recipe.model_fields})


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
    objective: Literal["crg", "f1", "accuracy", "none"]  # that a cut at 0.5 shall be best for
    resamples: Count  # of the bootstrap over patients behind every interval
    confidence: Annotated[float, Field(gt=0, lt=1)]


class Export(Section):
    formats: tuple[Literal["pth", "safetensors", "pt2", "onnx"], ...] = Field(min_length=1)
    tolerance: Positive  # largest difference allowed between an exported model and the checkpoint


class Machine(Section):
    """What this machine has. No stage tracks it: it says where and how fast, not what."""

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Count | Literal["auto"]  # of each node, that train together; auto: all its GPUs
    nodes: Count
    strategy: Literal["auto", "ddp"]  # of several devices; auto: ddp where there are several
    workers: Annotated[int, Field(ge=0)] | Literal["auto"]  # processes that preprocess or load
    dask: str | None  # address of a Dask scheduler whose workers preprocess; null: this machine's
    time_budget: str | None  # of the train stage, such as "5h30m"; null: no end
    accept_changed_code: bool  # go on from a checkpoint that other source files made

    @field_validator("dask")
    @classmethod
    def is_address(cls, text: str | None) -> str | None:
        if text is not None and not _ADDRESS.fullmatch(text):
            raise ValueError('must be null or an address such as "tcp://host:8786"')
        return text

    @field_validator("time_budget")
    @classmethod
    def is_duration(cls, text: str | None) -> str | None:
        if text is not None:
            parse_duration(text)
        return text


class Backup(Section):
    """Where a running training is saved to. No stage tracks it: nothing here changes a result."""

    remote: str | None  # name of a DVC remote; null: DVC's default one; "off": no backup
    git_remote: str | None  # name of a Git remote for resume commits; null: the DVC remote
    keep: Count  # generations on the remote
    grace: Annotated[float, Field(ge=0)]  # s that a stop waits for the last push


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


class _Yaml12Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's floats and booleans, as DVC reads them.

    PyYAML is a YAML 1.1 reader: it takes `1e-4` for a string and `on` for True. It also takes the
    last of two equal keys, where YAML allows none.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice; keep one", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Yaml12Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":float", ":bool"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
        r"|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check a params.yaml.

    Raises:
        InputError: names the file and every wrong key, with what would be allowed.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Yaml12Loader)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); run in the project's folder"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold the sections {', '.join(Params.model_fields)}")
    try:
        return Params.model_validate(_tuples(content))
    except ValidationError as error:
        raise_faults(_describe(error), f"{path}: wrong parameters")
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


def _describe(error: ValidationError) -> list[str]:
    """A line a wrong key, with what would be allowed."""
    allowed: dict[str, list[str]] = {}
    given: dict[str, object] = {}
    faults = []
    for fault in error.errors():
        key, section = _locate(fault["loc"])
        if fault["type"] == "missing":
            faults.append(f"{key}: is missing")
        elif fault["type"] == "extra_forbidden":
            faults.append(f"{key}: unknown key; {_nearest(str(fault['loc'][-1]), section)}")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            allowed.setdefault(key, []).append(message.replace("Input should", "must"))
            given[key] = fault["input"]
    wrong = [f"{key}: {' or '.join(what)}, not {given[key]!r}" for key, what in allowed.items()]
    return sorted(faults + wrong)


def _locate(location: tuple[int | str, ...]) -> tuple[str, type[Section]]:
    """The key as the file has it, without pydantic's names of types, and the section it is in."""
    section: type[Section] = Params
    parts = [str(location[0])]
    for part in location[1:]:
        field = section.model_fields.get(parts[-1])
        if field and isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            section = field.annotation
            parts.append(str(part))
        elif isinstance(part, int):
            parts.append(str(part))
    return ".".join(parts), section


def _nearest(name: str, section: type[Section]) -> str:
    close = difflib.get_close_matches(name, section.model_fields, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(section.model_fields)}"
