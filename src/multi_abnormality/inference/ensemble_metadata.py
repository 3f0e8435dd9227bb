"""Metadata of an ensemble's folder: members, weights, calibration and thresholds.

The folder is untrusted, as an ONNX file is: all values are bounded, and paths stay in the folder.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from multi_abnormality.inference.onnx_metadata import (
    MAX_METADATA,
    as_object,
    check_model,
    is_list,
    refuse_other_version,
    require,
)
from multi_abnormality.utils.errors import InputError

FILE = "model_info.json"
MAX_MEMBERS = 64
MAX_INTERCEPT = 1000.0
_KEYS = "version findings synthetic thresholds uncalibrated slope intercept members"


@dataclass(frozen=True)
class MemberFile:
    """Member of an ensemble: its ONNX file, the file's SHA-256, and its weight."""

    file: str  # path in the folder
    sha256: str
    weight: float


@dataclass(frozen=True)
class EnsembleCard:
    """What `predict` needs of an ensemble. Values by finding are in the order of `findings`."""

    version: str
    findings: tuple[str, ...]
    synthetic: bool
    thresholds: dict[str, float]
    uncalibrated: tuple[str, ...]
    slope: tuple[float, ...]
    intercept: tuple[float, ...]
    members: tuple[MemberFile, ...]


def is_ensemble(folder: Path) -> bool:
    """Whether a folder is an ensemble's: without an ONNX file, with a description of members."""
    path = folder / FILE
    if not path.is_file() or any(folder.glob("*.onnx")):
        return False
    try:
        return path.stat().st_size > MAX_METADATA or "members" in json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError, TypeError):
        return True  # damaged, which reading it reports


def read_ensemble_card(path: Path) -> EnsembleCard:
    """Read and validate the description of an ensemble.

    Raises:
        InputError: it is damaged, invalid or another version's.
    """
    try:
        if path.stat().st_size > MAX_METADATA:
            raise ValueError(f"must have at most {MAX_METADATA:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        refuse_other_version(content, path)
        return parse_ensemble_card(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: is not the description of an ensemble; copy the folder again, or run `dvc "
            f"checkout` or `dvc pull`\n  - {str(error)[:300]}"
        ) from None


def parse_ensemble_card(content: Any) -> EnsembleCard:
    """Return the description in the content of a JSON file.

    Raises:
        ValueError: a value is missing or beyond a limit.
    """
    card = as_object(content, _KEYS)
    check_model(card)
    findings, members = card["findings"], card["members"]
    thresholds = _by_finding(card, "thresholds", findings, 0, 1)
    require(is_list(members, dict) and members, "members: must be a list of objects")
    require(len(members) <= MAX_MEMBERS, f"members: must be at most {MAX_MEMBERS}")
    parsed = tuple(map(_member, members))
    total = math.fsum(member.weight for member in parsed)
    require(abs(total - 1) < 1e-6, "members: weights must have the sum 1")
    return EnsembleCard(
        version=card["version"],
        findings=tuple(findings),
        synthetic=card["synthetic"],
        thresholds=dict(zip(findings, thresholds, strict=True)),
        uncalibrated=tuple(card["uncalibrated"]),
        slope=_by_finding(card, "slope", findings, 0, MAX_INTERCEPT),
        intercept=_by_finding(card, "intercept", findings, -MAX_INTERCEPT, MAX_INTERCEPT),
        members=parsed,
    )


def _by_finding(
    card: dict[str, Any], key: str, findings: list[str], low: float, high: float
) -> tuple[float, ...]:
    values = as_object(card[key])
    require(set(values) == set(findings), f"{key}: must have exactly one for each finding")
    ordered = [values[finding] for finding in findings]
    is_open = is_list(ordered, float) and all(low < value < high for value in ordered)
    require(is_open, f"{key}: must be numbers between {low:g} and {high:g}")
    return tuple(ordered)


def _member(content: Any) -> MemberFile:
    member = as_object(content, "file sha256 weight")
    file, sha256, weight = member["file"], member["sha256"], member["weight"]
    require(isinstance(file, str) and isinstance(sha256, str), "members: must have texts")
    parts = PurePosixPath(file).parts
    is_inside = bool(parts) and not {"..", "/"} & {*parts} and "\0" not in file
    require(is_inside, "members: file must be a path in the folder")
    is_weight = is_list([weight], float) and 0 <= weight <= 1
    require(is_weight, "members: weight must be between 0 and 1")
    return MemberFile(file, sha256, weight)
