"""Types of parameters: bounds and checks that the fields of schema.py name."""

import math
import re
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    ValidationInfo,
)

from multi_abnormality.config.findings import FINDINGS, names_a_picture
from multi_abnormality.config.yaml_reader import in_yaml
from multi_abnormality.utils.strict_csv import WORKBOOK, cell_value

T = TypeVar("T")

CT_RATE = "ct_rate"  # its 18 findings

# Column names of this project's tables, plots and reports, which no finding may have.
RESERVED = {
    *("name", "split", "patient_id", "scan_id", "reconstruction", "shard", "status", "reason"),
    *("source_sha256", "source_shape", "source_spacing", "source_axes", "source_release"),
    *("source_notes", "voxels_sha256", "Manufacturer", "ManufacturerModelName"),
    *("ConvolutionKernel", "PatientSex", "PatientAge", "VolumeName", "All findings", "finding"),
    *("scan", "path", "line", "series"),
}
_CT_RATE_VALUES = {"positive": ("1",), "negative": ("0",), "uncertain": (), "missing": ()}
_CT_RATE_SPLIT_VALUES = {"train": ("train",), "val": ("val",), "test": ("test",), "missing": ()}
HF_HUB = "hf-hub:"
HUB_MODEL = re.compile(
    r"hf-hub:(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)@(?P<revision>[\w-][\w./-]*)", re.ASCII
)
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_COMMIT = re.compile("[0-9a-f]{7,40}")
_ADDRESS = re.compile(r"(?:tcp|tls|ucx|ws|wss)://(?:[^\s/:\[\]]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}")


class Section(BaseModel):
    """Frozen model that rejects unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        defer_build=True,  # a program builds only the sections that it uses
    )


def parse_duration(text: str) -> int:
    """Seconds of a duration such as "5h30m".

    Raises:
        ValueError: the text is not a duration above zero.
    """
    found = _DURATION.fullmatch(text.strip())
    units = (86400, 3600, 60, 1)
    seconds = found and sum(
        unit * int(count or 0) for unit, count in zip(units, found.groups(), strict=True)
    )
    if not seconds:
        raise ValueError('must be a duration such as "5h30m"')
    return seconds


def is_inside(path: str) -> bool:
    """Whether a path is relative and does not leave its directory."""
    return bool(path) and not PurePosixPath(path).is_absolute() and ".." not in path.split("/")


def _require(check: Callable[[Any], object], message: str) -> AfterValidator:
    """Validator that raises an error with this message if the check returns a false value."""

    def validate(value: T) -> T:
        if not check(value):
            raise ValueError(message)
        return value

    return AfterValidator(validate)


class NotTextError(ValueError):
    """A value that would be right in quotes, such as the number 5 as a column's name."""


def _require_text(check: Callable[[str], object], message: str) -> BeforeValidator:
    """Validator that also raises this message for a value that is no text."""

    def validate(value: T) -> T:
        if not isinstance(value, str) and check(str(value)):
            raise NotTextError(message)
        if not isinstance(value, str) or not check(value):
            raise ValueError(message)
        return value

    return BeforeValidator(validate)


def _is_line(text: str) -> bool:
    return bool(text.strip()) and text.isprintable()


def _is_increasing(knots: tuple[tuple[int, int], ...]) -> bool:
    hu, codes = zip(*knots, strict=True)
    rising = all(a < b for column in (hu, codes) for a, b in pairwise(column))
    return rising and codes[0] == 0 and codes[-1] == 255


def _to_nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _is_sensitivity_target(text: str) -> bool:
    match = re.fullmatch(r"sensitivity>=(0?\.\d+)", text)
    return match is not None and 0 < float(match[1]) < 1


def _check_cutmix(cutmix: float, known: ValidationInfo) -> float:
    if cutmix + known.data.get("mixup_prob", 0) > 1:
        raise ValueError("must be at most 1 together with train.mixup_prob")
    return cutmix


def _check_pin(sha256: str, known: ValidationInfo) -> str:
    if known.data.get("pretrained") is False:
        raise ValueError("must be null, as model.pretrained is false: the weights are random")
    return sha256


def check_overlay(overlay: Section, known: ValidationInfo) -> Section:
    """Random weights have no configuration; of a network on the hub its input size is one."""
    if known.data.get("pretrained") is False:
        is_on_hub = str(known.data.get("backbone")).startswith(HF_HUB)
        unused = ("mean", "std") if is_on_hub else tuple(type(overlay).model_fields)
        if given := [key for key in unused if getattr(overlay, key) is not None]:
            raise ValueError(
                f"{', '.join(given)} must be null, as model.pretrained is false: the weights are "
                "random"
            )
    return overlay


def _check_warmup(warmup: float, known: ValidationInfo) -> float:
    if warmup >= known.data.get("schedule_epochs", math.inf):
        raise ValueError("must be below train.schedule_epochs")
    return warmup


def _normalize_findings(findings: object) -> object:
    if not isinstance(findings, list | tuple):
        if findings == CT_RATE:
            return findings
        raise ValueError("must be ct_rate, or a list of names, such as [Emphysema, Cyst]")
    if wrong := [one for one in findings if not isinstance(one, str)]:
        raise ValueError(
            f"must be names; YAML takes {', '.join(map(in_yaml, wrong))} for something else: "
            "put the name in quotes"
        )
    return tuple(map(_to_nfc, findings))


def _check_findings(findings: str | tuple[str, ...], known: ValidationInfo) -> object:
    if findings == CT_RATE:
        return findings
    if not findings:
        raise ValueError("must name one finding or more")
    folded = [finding.casefold() for finding in findings]
    if twice := sorted({one for one in findings if folded.count(one.casefold()) > 1}):
        raise ValueError(f"must name each finding once: {', '.join(map(repr, twice))}")
    if wrong := [one for one in findings if not _is_name(one)]:
        raise ValueError(
            f"must be names: {', '.join(map(repr, wrong))} is empty, begins or ends with a "
            "space, has characters that no name can have, or is a word of this project's "
            "tables; rename the table's column"
        )
    unknown = [one for one in findings if one not in FINDINGS]
    if unknown and "table" in known.data and known.data["table"] is None:
        raise ValueError(
            f"must be among CT-RATE's 18 unless data.table names a table: there is no "
            f"{', '.join(map(repr, unknown))}"
        )
    return findings


def _is_name(finding: str) -> bool:
    """Whether it can be a finding's name, which is also that of columns and keys."""
    return (
        names_a_picture(finding)
        and finding == finding.strip()
        and "|" not in finding
        and finding not in RESERVED
    )


def check_columns(columns: Section, known: ValidationInfo) -> Section:
    """Check that no column of data.columns is a finding's."""
    findings = known.data.get("findings", ())
    names = FINDINGS if findings == CT_RATE else findings
    if both := sorted(set(columns.model_dump().values()) & set(names)):
        raise ValueError(f"must not name a finding's column: {', '.join(map(repr, both))}")
    return columns


def check_sheet(sheet: str | None, known: ValidationInfo) -> str | None:
    """Check that data.sheet is given only for a workbook."""
    table = known.data.get("table", WORKBOOK)
    if sheet is not None and not (table or "").lower().endswith(WORKBOOK):
        raise ValueError(f"must be null, as data.table is not an {WORKBOOK} file")
    return sheet


def _to_words(values: object) -> object:
    """Convert YAML's numbers and booleans to what a table's cell may have."""
    if not isinstance(values, list | tuple):
        raise ValueError("must be a list of words and numbers, such as [1, ja]")
    if wrong := [one for one in values if not isinstance(one, str | int) and not _is_finite(one)]:
        raise ValueError(
            f"must be words and numbers; YAML takes {', '.join(map(in_yaml, wrong))} for something "
            'else: put the word in quotes; "" is an empty cell'
        )
    return tuple(map(_to_word, values))


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _to_word(value: str | float) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return cell_value(_to_nfc(str(value).strip()))


def check_values(values: Section, known: ValidationInfo) -> Section:
    """Check that no value is in two lists of data.values, and that CT-RATE's are its own."""
    if known.data.get("table", WORKBOOK) is None and values.model_dump() != _CT_RATE_VALUES:
        raise ValueError("must be positive: [1] and negative: [0], as long as data.table is null")
    _check_one_list_each(values)
    return values


def check_split_values(values: Section, known: ValidationInfo) -> Section:
    """Check that no value is in two lists of data.split_values, and that CT-RATE has none."""
    if known.data.get("table", WORKBOOK) is None and values.model_dump() != _CT_RATE_SPLIT_VALUES:
        raise ValueError(
            "must be train: [train], val: [val], test: [test] and missing: [], as long as "
            "data.table is null"
        )
    _check_one_list_each(values)
    return values


def check_fold(fold: int | None, known: ValidationInfo) -> int | None:
    """Check that data.fold is one of data.folds."""
    folds = known.data.get("folds", 0)  # 0: wrong, and reported already
    if folds is None and fold is not None:
        raise ValueError("must be null, as data.folds is null")
    if folds and (fold is None or fold >= folds):
        raise ValueError(f"must be 0 to {folds - 1}, as data.folds is {folds}")
    return fold


def _check_one_list_each(values: Section) -> None:
    """Raise an error if a value is in two lists of a section."""
    lists_of: dict[str, dict[str, str]] = {}
    for name, words in values.model_dump().items():
        for word in words:
            lists_of.setdefault(word.casefold(), {}).setdefault(name, word)
    twice = [
        f"{' or '.join(map(repr, dict.fromkeys(words.values())))} is in {' and '.join(words)}"
        for words in lists_of.values()
        if len(words) > 1
    ]
    if twice:
        raise ValueError(f"must have each value in one list, whatever its case: {', '.join(twice)}")


Backbone = Annotated[
    str,
    _require(
        lambda name: not name.startswith(HF_HUB) or HUB_MODEL.fullmatch(name),
        "must be hf-hub:owner/name@revision; the revision is a commit, a tag or a branch",
    ),
]
WeightsSha256 = Annotated[
    str,
    _require_text(re.compile("[0-9a-f]{64}").fullmatch, "must be null or 64 hexadecimal digits"),
    AfterValidator(_check_pin),
]
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Spacing = Annotated[float, Field(ge=0.05, le=50)]  # mm, as of the scans that are read
SingleLine = Annotated[str, _require_text(_is_line, "must be one line of text, or null")]
ColumnName = Annotated[
    str,
    _require_text(_is_line, "must be a column's name, without invisible characters"),
    AfterValidator(_to_nfc),
]
DataPath = Annotated[
    str, _require_text(is_inside, "must be a path in data/, which DVC keeps track of")
]
Duration = Annotated[str, _require_text(parse_duration, 'must be a duration such as "5h30m"')]
Commit = Annotated[
    str,
    _require_text(
        _COMMIT.fullmatch,
        "must be null or the hash of a commit or experiment, as `git rev-parse --short HEAD` "
        "prints it: 7 to 40 hexadecimal digits, in quotes if YAML reads them as a number",
    ),
]
DaskAddress = Annotated[
    str, _require_text(_ADDRESS.fullmatch, 'must be null or an address such as "tcp://host:8786"')
]
Findings = Annotated[
    Literal["ct_rate"] | tuple[str, ...],
    BeforeValidator(_normalize_findings),
    AfterValidator(_check_findings),
]
Knots = Annotated[
    tuple[tuple[int, int], ...],
    Field(min_length=2),
    _require(_is_increasing, "must rise in both columns, its codes from 0 to 255"),
]
SensitivityTarget = Annotated[
    str,
    _require(
        _is_sensitivity_target,
        "such as 'sensitivity>=0.95', without spaces; the number is above 0 and below 1",
    ),
]
Words = Annotated[tuple[str, ...], BeforeValidator(_to_words)]
Loggers = Annotated[
    tuple[Literal["tensorboard", "csv", "wandb", "mlflow", "dvclive"], ...],
    _require(lambda names: len(set(names)) == len(names), "must name each logger once"),
]
CutmixProb = Annotated[Probability, AfterValidator(_check_cutmix)]
WarmupEpochs = Annotated[NonNegativeFloat, AfterValidator(_check_warmup)]
