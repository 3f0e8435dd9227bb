"""Metadata embedded in the exported ONNX file: findings, preprocessing, thresholds, input range.

The file is untrusted, since anybody can compute its checksum. All values are therefore bounded, and
so is the memory of every table and volume made from them.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from multi_abnormality import __version__
from multi_abnormality.config.findings import names_a_picture
from multi_abnormality.config.schema import PreprocessSpec
from multi_abnormality.data.preprocessing.input_range import InputRange
from multi_abnormality.utils.errors import InputError, raise_errors
from multi_abnormality.utils.onnx_checksum import INFO_KEY

if TYPE_CHECKING:
    import onnxruntime


MAX_METADATA = 1_000_000  # characters
MAX_FINDINGS = 1000
MAX_NAME = 200  # characters of a finding's name, which is also a file name
MAX_AXIS = 4096  # voxels
MAX_VOXELS = 1 << 26  # 67 million: 512 x 362 x 362
MAX_HU = 100_000
MIN_MM, MAX_MM = 0.01, 1000.0
MAX_SHOWN = 300  # characters of a wrong value in a message
MAX_ERRORS = 5

_AGAIN = "export it again"


class ModelCard(BaseModel):
    """Metadata of an exported model, stored under INFO_KEY."""

    version: str
    findings: tuple[str, ...] = Field(min_length=1, max_length=MAX_FINDINGS)
    preprocess: PreprocessSpec
    familiar: InputRange
    synthetic: bool
    thresholds: dict[str, Annotated[float, Field(gt=0, lt=1)]]
    uncalibrated: tuple[str, ...] = ()

    @field_validator("findings")
    @classmethod
    def are_names(cls, findings: tuple[str, ...]) -> tuple[str, ...]:
        """Check that names are distinct and safe as file names of --explain's pictures."""
        if len({finding.casefold() for finding in findings}) < len(findings):
            raise ValueError("must be distinct names")
        for finding in findings:
            if len(finding) > MAX_NAME:
                raise ValueError(f"must have at most {MAX_NAME} characters each")
            if not names_a_picture(finding):
                raise ValueError(f"{finding!r} is not a valid name")
        return findings

    @field_validator("preprocess")
    @classmethod
    def is_a_volume(cls, recipe: PreprocessSpec) -> PreprocessSpec:
        """Check that a volume and its tables fit into memory."""
        if max(recipe.shape) > MAX_AXIS or math.prod(recipe.shape) > MAX_VOXELS:
            raise ValueError(
                f"shape: must be at most {MAX_AXIS} per axis and {MAX_VOXELS:,} voxels"
            )
        if not all(MIN_MM <= mm <= MAX_MM for mm in recipe.spacing):
            raise ValueError(f"spacing: must be {MIN_MM:g} to {MAX_MM:g} mm")
        if not all(abs(hu) <= MAX_HU for hu, _ in recipe.hu_to_uint8):
            raise ValueError(f"hu_to_uint8: HU must be -{MAX_HU} to {MAX_HU}")
        return recipe

    @field_validator("familiar")
    @classmethod
    def are_ranges(cls, familiar: InputRange) -> InputRange:
        for low, high in (familiar.lung_share, familiar.length):
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError("must be ranges of finite numbers, from low to high")
        return familiar

    @model_validator(mode="after")
    def has_a_threshold_each(self) -> "ModelCard":
        if set(self.thresholds) != set(self.findings):
            raise ValueError("thresholds: must have exactly one for each finding")
        return self

    @model_validator(mode="after")
    def has_known_uncalibrated(self) -> "ModelCard":
        if not set(self.uncalibrated) <= set(self.findings):
            raise ValueError("uncalibrated: must be findings of the model")
        return self


def read_card(session: "onnxruntime.InferenceSession", path: Path) -> ModelCard:
    """Read and validate the metadata of a model.

    Raises:
        InputError: metadata is missing, invalid or another version's, or inputs and outputs differ
            from it.
    """
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: has metadata that is not UTF-8 ({error.reason}); {_AGAIN}"
        ) from None
    if INFO_KEY not in metadata:
        raise InputError(
            f"{path}: has no metadata under {INFO_KEY!r}, so it was not exported by this "
            "project; choose a model_<backbone>.onnx from model_weights/"
        )
    text = metadata[INFO_KEY]
    if len(text) > MAX_METADATA:
        raise InputError(
            f"{path}: has {len(text):,} characters of metadata, more than {MAX_METADATA:,}; "
            f"{_AGAIN}"
        )
    _refuse_other_version(text, path)
    try:
        card = ModelCard.model_validate_json(text)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False, include_context=False)
        errors = [
            _shortened(f"{'.'.join(map(str, one['loc']))}: {one['msg']}")
            for one in wrong[:MAX_ERRORS]
        ]
        raise_errors(errors, f"{path}: has wrong metadata; {_AGAIN}")
        raise
    shape, findings = card.preprocess.shape, len(card.findings)
    expected = {
        "volume": ("tensor(uint8)", [*shape]),
        "probability": ("tensor(float)", [findings]),
        "threshold": ("tensor(float)", [findings]),
        "attention": ("tensor(float)", [findings, shape[0]]),
    }
    ports = (*session.get_inputs(), *session.get_outputs())
    found = {
        port.name: (port.type, port.shape if port.name == "threshold" else port.shape[1:])
        for port in ports
    }
    if found != expected:
        raise InputError(
            f"{path}: has ports {_shortened(str(found))}, but its metadata describes "
            f"{_shortened(str(expected))}; {_AGAIN}"
        )
    return card


def _refuse_other_version(metadata: str, path: Path) -> None:
    """Reject the metadata of another version, which may have another format.

    Raises:
        InputError: the version differs.
    """
    try:
        version = json.loads(metadata)["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # the full validation reports it
    if not isinstance(version, str):
        return
    if _release_line(version) != _release_line(__version__):
        raise InputError(
            f"{path}: was exported by version {_shortened(version)} of this project, but this is "
            f"{__version__}; install that version, or export the model again"
        )


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _release_line(version: str) -> list[str]:
    """Return the parts that are equal in versions with compatible files (semver.org)."""
    major, minor = ([*version.split("."), ""])[:2]
    return [major] if major != "0" else [major, minor]
