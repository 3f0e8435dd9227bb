"""What an exported ONNX model says of itself, so that no scan is made another recipe's volume.

The file may be of anybody's: its checksum can be computed by anybody too. So all values have
bounds, by which no table or volume that is made of them takes much memory.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from multi_abnormality import __version__
from multi_abnormality.data.composition import Familiar
from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.params_data import names_a_picture
from multi_abnormality.params_preprocess import Recipe
from multi_abnormality.seal import INFO_KEY

if TYPE_CHECKING:
    import onnxruntime


MAX_METADATA = 1_000_000  # characters
MAX_FINDINGS = 1000
MAX_NAME = 200  # characters of a finding's name; a file is named by it
MAX_AXIS = 4096  # voxels
MAX_VOXELS = 1 << 26  # 67 million: 512 x 362 x 362
MAX_HU = 100_000
MIN_MM, MAX_MM = 0.01, 1000.0
MAX_SHOWN = 300  # characters of a wrong value in a message
MAX_FAULTS = 5

_AGAIN = "export it again"


class ModelCard(BaseModel):
    """What the exported model says of itself, under INFO_KEY."""

    version: str
    findings: tuple[str, ...] = Field(min_length=1, max_length=MAX_FINDINGS)
    preprocess: Recipe
    familiar: Familiar
    synthetic: bool
    thresholds: dict[str, Annotated[float, Field(gt=0, lt=1)]]

    @field_validator("findings")
    @classmethod
    def are_names(cls, findings: tuple[str, ...]) -> tuple[str, ...]:
        """Keys of what is predicted, and names of --explain's pictures: in its folder alone."""
        if len({finding.casefold() for finding in findings}) < len(findings):
            raise ValueError("must be different names")
        for finding in findings:
            if len(finding) > MAX_NAME:
                raise ValueError(f"must have at most {MAX_NAME} characters each")
            if not names_a_picture(finding):
                raise ValueError(f"{finding!r} is no finding's name")
        return findings

    @field_validator("preprocess")
    @classmethod
    def is_a_volume(cls, recipe: Recipe) -> Recipe:
        """One that fits into memory, with its tables."""
        if max(recipe.shape) > MAX_AXIS or math.prod(recipe.shape) > MAX_VOXELS:
            raise ValueError(
                f"shape: must be at most {MAX_AXIS} a side and {MAX_VOXELS:,} voxels in all"
            )
        if not all(MIN_MM <= mm <= MAX_MM for mm in recipe.spacing):
            raise ValueError(f"spacing: must be {MIN_MM:g} to {MAX_MM:g} mm")
        if not all(abs(hu) <= MAX_HU for hu, _ in recipe.hu_codes):
            raise ValueError(f"hu_codes: HU must be -{MAX_HU} to {MAX_HU}")
        return recipe

    @field_validator("familiar")
    @classmethod
    def are_ranges(cls, familiar: Familiar) -> Familiar:
        for low, high in (familiar.lung_share, familiar.length):
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError("must be ranges of finite numbers, from the lowest to the highest")
        return familiar

    @model_validator(mode="after")
    def has_a_threshold_each(self) -> "ModelCard":
        if set(self.thresholds) != set(self.findings):
            raise ValueError("thresholds: must have exactly one for each finding")
        return self


def read_card(session: "onnxruntime.InferenceSession", path: Path) -> ModelCard:
    """What a model says of itself.

    Raises:
        InputError: it says nothing, says it as another version does, or is of other ports.
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
        faults = [
            _shortened(f"{'.'.join(map(str, one['loc']))}: {one['msg']}")
            for one in wrong[:MAX_FAULTS]
        ]
        raise_faults(faults, f"{path}: has wrong metadata; {_AGAIN}")
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
            f"{path}: has ports {_shortened(str(found))}, and its metadata is of a model with "
            f"{_shortened(str(expected))}; {_AGAIN}"
        )
    return card


def _refuse_other_version(metadata: str, path: Path) -> None:
    """Before all else that it says: another version may say it in another form."""
    try:
        version = json.loads(metadata)["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # who reads it all says what is wrong
    if not isinstance(version, str):
        return
    if _line(version) != _line(__version__):
        raise InputError(
            f"{path}: was exported by version {_shortened(version)} of this project, and this is "
            f"{__version__}; install that one, or export the model again"
        )


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _line(version: str) -> list[str]:
    """What versions that understand each other's files have in common; see semver.org."""
    major, minor = ([*version.split("."), ""])[:2]
    return [major] if major != "0" else [major, minor]
