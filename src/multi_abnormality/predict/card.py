"""What an exported ONNX model says of itself, so that no scan is made another recipe's volume."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError, field_validator

from multi_abnormality import __version__
from multi_abnormality.data.composition import Familiar
from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.params import Recipe
from multi_abnormality.params_data import names_a_picture
from multi_abnormality.seal import INFO_KEY

if TYPE_CHECKING:
    import onnxruntime


class ModelCard(BaseModel):
    """What the exported model says of itself, under INFO_KEY."""

    version: str
    findings: tuple[str, ...]
    preprocess: Recipe
    familiar: Familiar

    @field_validator("findings")
    @classmethod
    def are_names(cls, findings: tuple[str, ...]) -> tuple[str, ...]:
        """Keys of what is predicted, and names of --explain's pictures: in its folder alone."""
        if len({finding.casefold() for finding in findings}) < len(findings):
            raise ValueError("must be different names")
        for finding in findings:
            if not names_a_picture(finding):
                raise ValueError(f"{finding!r} is no finding's name")
        return findings


def read_card(session: "onnxruntime.InferenceSession", path: Path) -> ModelCard:
    """What a model says of itself.

    Raises:
        InputError: it says nothing, says it as another version does, or is of other ports.
    """
    metadata = session.get_modelmeta().custom_metadata_map
    if INFO_KEY not in metadata:
        raise InputError(
            f"{path}: has no metadata under {INFO_KEY!r}, so it was not exported by this "
            "project; choose a model_<backbone>.onnx from model_weights/"
        )
    _refuse_other_version(metadata[INFO_KEY], path)
    try:
        card = ModelCard.model_validate_json(metadata[INFO_KEY])
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise_faults(faults, f"{path}: has wrong metadata; export it again")
        raise
    shape, findings = card.preprocess.shape, len(card.findings)
    expected = {
        "volume": ("tensor(uint8)", [*shape]),
        "probabilities": ("tensor(float)", [findings]),
        "attention": ("tensor(float)", [findings, shape[0]]),
    }
    ports = (*session.get_inputs(), *session.get_outputs())
    found = {port.name: (port.type, port.shape[1:]) for port in ports}
    if found != expected:
        raise InputError(
            f"{path}: has ports {found}, and its metadata is of a model with {expected}; export it "
            "again"
        )
    return card


def _refuse_other_version(metadata: str, path: Path) -> None:
    """Before all else that it says: another version may say it in another form."""
    try:
        version = json.loads(metadata)["version"]
    except (ValueError, KeyError, TypeError):
        return  # who reads it all says what is wrong
    if _line(str(version)) != _line(__version__):
        raise InputError(
            f"{path}: was exported by version {version} of this project, and this is "
            f"{__version__}; install that one, or export the model again"
        )


def _line(version: str) -> list[str]:
    """What versions that understand each other's files have in common; see semver.org."""
    major, minor = ([*version.split("."), ""])[:2]
    return [major] if major != "0" else [major, minor]
