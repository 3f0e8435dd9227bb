"""An ensemble of exported models: a scan is read once, and preprocessed by each member's recipe.

Its folder is untrusted, as an ONNX file is: all values are bounded, and paths stay in the folder.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from multi_abnormality.data.preprocessing.resample import resample_and_quantize
from multi_abnormality.evaluation.fusion import fuse, to_logits
from multi_abnormality.inference.onnx_metadata import (
    MAX_METADATA,
    ModelCard,
    as_object,
    check_model,
    is_list,
    refuse_other_version,
    require,
)
from multi_abnormality.inference.onnx_model import Model, Prediction, load_onnx
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


if TYPE_CHECKING:
    from multi_abnormality.data.io.read import Volume


class Ensemble(Model):
    """Several models as one; `load_model` returns it. Thread-safe.

    `spacing`, and attention and volume of its predictions, are those of the first member and, for
    attention, the mean over the members with its preprocessing.

    Attributes:
        path: description of the ensemble.
        members: its models, in its order.
        ensemble: description, with weights and calibration.
    """

    def __init__(
        self, path: Path, members: Sequence[Model], ensemble: EnsembleCard, memory: float
    ) -> None:
        first = members[0]
        card = ModelCard(
            ensemble.version,
            ensemble.findings,
            first.card.preprocess,
            first.card.familiar,
            ensemble.synthetic,
            ensemble.thresholds,
            ensemble.uncalibrated,
        )
        super().__init__(path, first.session, card, memory)
        self.members = tuple(members)
        self.ensemble = ensemble
        self._columns = [
            [member.findings.index(finding) for finding in ensemble.findings] for member in members
        ]

    @property
    def has_slice_logits(self) -> bool:
        """Whether heat maps can be computed: of its members only, each by itself."""
        return False

    def predict_volume(self, path: Path, volume: "Volume") -> Prediction:
        """Predict the findings of a volume that was read from `path`."""
        recipes = dict.fromkeys(member.card.preprocess for member in self.members)
        inputs = {recipe: resample_and_quantize(volume, recipe) for recipe in recipes}
        codes = [inputs[member.card.preprocess] for member in self.members]
        outputs = [member.run(path, code) for member, code in zip(self.members, codes, strict=True)]
        first = self.card.preprocess
        probabilities, attention = [], []
        for member, output, columns in zip(self.members, outputs, self._columns, strict=True):
            probabilities.append(output["probability"][columns])
            if member.card.preprocess == first:
                attention.append(output["attention"][columns])
        fused = {
            "probability": self.fuse(np.stack(probabilities)),
            "attention": np.mean(attention, axis=0),
        }
        reasons = [
            member.explain_outlier(code, volume)
            for member, code in zip(self.members, codes, strict=True)
        ]
        digests = {
            recipe: hashlib.sha256(codes.tobytes()).hexdigest() for recipe, codes in inputs.items()
        }
        return self.prediction(
            path,
            volume,
            inputs[first],
            fused,
            next(filter(None, reasons), None),
            " ".join(digests[member.card.preprocess] for member in self.members),
        )

    def fuse(self, probabilities: np.ndarray) -> np.ndarray:
        """Fuse the members' probabilities (M, ..., F) to calibrated ones (..., F), float64."""
        weights = [member.weight for member in self.ensemble.members]
        fused = fuse(to_logits(probabilities), weights)
        calibrated = fused * np.array(self.ensemble.slope) + np.array(self.ensemble.intercept)
        result: np.ndarray = 1 / (1 + np.exp(-calibrated.clip(-36, 36)))
        return result

    @property
    def has_training_hashes(self) -> bool:
        """Whether the training patients and scans of all members can be recognized."""
        return all(member.has_training_hashes for member in self.members)

    def find_training_patients(self, patients: Sequence[str]) -> list[str]:
        """Return those of the ids that a training or validation patient of a member has."""
        found = {one for member in self.members for one in member.find_training_patients(patients)}
        return [patient for patient in dict.fromkeys(patients) if patient in found]

    def find_training_scans(self, inputs: Sequence[str]) -> list[int]:
        """Return the indices of the scans that a member was trained or validated on."""
        by_member = zip(*(digests.split() for digests in inputs), strict=True)
        found = {
            index
            for member, digests in zip(self.members, by_member, strict=False)
            for index in member.find_training_scans(digests)
        }
        return sorted(found)


def load_ensemble(folder: Path, memory: float) -> Ensemble:
    """Load an ensemble. See `predictor.load_model`.

    Args:
        folder: folder with FILE, which names the members' ONNX files.
        memory: memory limit in GB, without the weights.
    """
    path = folder / FILE
    card = read_ensemble_card(path)
    files = [folder / member.file for member in card.members]
    if missing := [file for file in files if not file.is_file()]:
        raise InputError(
            f"{missing[0]}: is missing, a member of the ensemble; copy the whole folder, or run "
            "`dvc checkout` or `dvc pull`"
        )
    size = sum(file.stat().st_size for file in files)
    members = [
        _load_member(file, member, card, memory, size)
        for file, member in zip(files, card.members, strict=True)
    ]
    return Ensemble(path, members, card, memory)


def _load_member(
    file: Path, member: MemberFile, card: EnsembleCard, memory: float, size: int
) -> Model:
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != member.sha256:
        raise InputError(
            f"{file}: is not the member that {FILE} names by its SHA-256: it was damaged or "
            "replaced; copy the whole folder again, or run `dvc checkout` or `dvc pull`"
        )
    model = load_onnx(file, memory, size)
    if set(model.findings) != set(card.findings):
        raise InputError(f"{file}: has other findings than the ensemble; fuse its members again")
    return model
