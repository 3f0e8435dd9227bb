"""Section `data` of params.yaml: findings, scans and labels."""

import unicodedata
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from multi_abnormality.config.base import Section
from multi_abnormality.config.findings import FINDINGS, names_a_picture

CT_RATE = "ct_rate"  # its 18 findings

# Column names of this project's tables, plots and reports, which no finding may have.
RESERVED = {
    *("name", "split", "patient_id", "scan_id", "reconstruction", "shard", "status", "reason"),
    *("source_sha256", "source_shape", "source_spacing", "source_axes", "source_release"),
    *("source_notes", "voxels_sha256", "Manufacturer", "ManufacturerModelName"),
    *("ConvolutionKernel", "PatientSex", "PatientAge", "VolumeName", "All findings", "finding"),
    *("scan", "path", "line", "series"),
}


class Columns(Section):
    """Names of the columns of data.table. The column of a finding has the finding's name."""

    scan: str
    patient: str | None  # null: every scan is of another patient
    split: str | None  # train or test; null: random by patient
    manufacturer: str | None  # this and the following: subgroups of the scores
    kernel: str | None
    sex: str | None
    age: str | None  # in years

    @field_validator("*")
    @classmethod
    def not_blank(cls, column: str | None) -> str | None:
        if column is not None and not (column.strip() and column.isprintable()):
            raise ValueError("must be a column's name, without invisible characters")
        return column and unicodedata.normalize("NFC", column)


class Data(Section):
    """Content of data/. Only preprocess reads it; later stages read the processed set."""

    table: str | None  # path in data/; null: CT-RATE's layout
    findings: Literal["ct_rate"] | tuple[str, ...]  # in the order of the model's outputs
    scans: str  # directory in data/ that the table's paths are relative to
    columns: Columns
    test_fraction: Annotated[
        float, Field(gt=0, lt=1)
    ]  # of the patients, if no column has the split
    split_seed: Annotated[int, Field(ge=0)]  # seed of that split

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the findings."""
        return FINDINGS if isinstance(self.findings, str) else self.findings

    @field_validator("table", "scans")
    @classmethod
    def is_in_data(cls, path: str | None) -> str | None:
        if path is not None and not is_inside(path):
            raise ValueError("must be a path in data/, which DVC keeps track of")
        return path

    @field_validator("findings", mode="before")
    @classmethod
    def are_texts(cls, findings: object) -> object:
        if not isinstance(findings, list | tuple):
            if findings == CT_RATE:
                return findings
            raise ValueError("must be ct_rate, or a list of names, such as [Emphysema, Cyst]")
        if wrong := [one for one in findings if not isinstance(one, str)]:
            raise ValueError(
                f"must be names; YAML takes {', '.join(map(repr, wrong))} for something else: "
                "put the name in quotes"
            )
        return tuple(unicodedata.normalize("NFC", one) for one in findings)

    @field_validator("findings")
    @classmethod
    def are_names(cls, findings: str | tuple[str, ...], known: ValidationInfo) -> object:
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
                f"must be among CT-RATE's 18, as long as data.table is null: "
                f"{', '.join(map(repr, unknown))}"
            )
        return findings

    @field_validator("columns")
    @classmethod
    def are_no_findings(cls, columns: Columns, known: ValidationInfo) -> Columns:
        findings = known.data.get("findings", ())
        names = FINDINGS if findings == CT_RATE else findings
        if both := sorted(set(columns.model_dump().values()) & set(names)):
            raise ValueError(f"must not name a finding's column: {', '.join(map(repr, both))}")
        return columns


def is_inside(path: str) -> bool:
    """Whether a path is relative and does not leave its directory."""
    return bool(path) and not PurePosixPath(path).is_absolute() and ".." not in path.split("/")


def _is_name(finding: str) -> bool:
    """Whether it can be a finding's name, which is also that of columns and keys."""
    return (
        names_a_picture(finding)
        and finding == finding.strip()
        and "|" not in finding
        and finding not in RESERVED
    )
