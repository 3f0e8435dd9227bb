"""Metadata embedded in the exported ONNX file: findings, preprocessing, thresholds, input range.

The file is untrusted, since anybody can compute its checksum. All values are therefore bounded, and
so is the memory of every table and volume made from them.
"""

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from multi_abnormality import __version__
from multi_abnormality.config.findings import names_a_picture
from multi_abnormality.data.preprocessing.input_range import InputRange
from multi_abnormality.evaluation.training_hashes import TrainingHashes
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.onnx_checksum import INFO_KEY

if TYPE_CHECKING:
    import onnxruntime


MAX_METADATA = 5_000_000  # characters, most of them hashes of training patients and scans
MAX_FINDINGS = 1000
MAX_NAME = 200  # characters of a finding's name, which is also a file name
MAX_AXIS = 4096  # voxels
MAX_VOXELS = 1 << 26  # 67 million: 512 x 362 x 362
MAX_HU = 100_000
MAX_ADJACENT = 15
MIN_MM, MAX_MM = 0.01, 1000.0
MAX_SHOWN = 300  # characters of a wrong value in a message

_AGAIN = "export it again"


class Preprocessing(NamedTuple):
    """Form of the volumes that the model reads. Axes are (Z, Y, X)."""

    spacing: tuple[float, float, float]  # mm
    shape: tuple[int, int, int]  # voxels
    hu_to_uint8: tuple[tuple[int, int], ...]  # (HU, 8-bit code) knots


@dataclass(frozen=True)
class ModelCard:
    """Metadata of an exported model, stored under INFO_KEY."""

    version: str
    findings: tuple[str, ...]
    preprocess: Preprocessing
    familiar: InputRange
    synthetic: bool
    thresholds: dict[str, float]
    uncalibrated: tuple[str, ...] = ()
    adjacent_slices: int = 1  # that the model sees as one; models without slice_logit lack it
    training: TrainingHashes | None = None  # None: exported without


def parse_card(content: Any) -> ModelCard:
    """Return the metadata in the content of a JSON text.

    pydantic could validate it, but its import takes a tenth of the time of a prediction.

    Raises:
        ValueError: a value is missing or beyond a limit.
    """
    card = as_object(content, "version findings preprocess familiar synthetic thresholds")
    check_model(card)
    findings, thresholds = card["findings"], as_object(card["thresholds"])
    values = [*thresholds.values()]
    is_open = is_list(values, float) and all(0 < value < 1 for value in values)
    require(is_open, "thresholds: must be numbers between 0 and 1")
    require(set(thresholds) == set(findings), "thresholds: must have exactly one for each finding")
    return ModelCard(
        version=card["version"],
        findings=tuple(findings),
        preprocess=_preprocessing(as_object(card["preprocess"], "spacing shape hu_to_uint8")),
        familiar=_input_range(as_object(card["familiar"], "lung_share length")),
        synthetic=card["synthetic"],
        thresholds=thresholds,
        uncalibrated=tuple(card.get("uncalibrated", [])),
        adjacent_slices=_adjacent_slices(card.get("adjacent_slices", 1)),
        training=TrainingHashes.parse(card["training"]) if "training" in card else None,
    )


def check_model(card: dict[str, Any]) -> None:
    """Check what models and ensembles have. Findings are file names of --explain's pictures."""
    findings, uncalibrated = card["findings"], card.get("uncalibrated", [])
    require(isinstance(card["version"], str), "version: must be a text")
    require(isinstance(card["synthetic"], bool), "synthetic: must be true or false")
    require(is_list(findings, str) and findings, "findings: must be a list of names")
    require(len(findings) <= MAX_FINDINGS, f"findings: must have at most {MAX_FINDINGS} items")
    distinct = {finding.casefold() for finding in findings}
    require(len(distinct) == len(findings), "findings: must be distinct names")
    for name in findings:
        require(len(name) <= MAX_NAME, f"findings: must have at most {MAX_NAME} characters each")
        require(names_a_picture(name), f"findings: {name!r} is not a valid name")
    is_known = is_list(uncalibrated, str) and set(uncalibrated) <= set(findings)
    require(is_known, "uncalibrated: must be findings of the model")


def _preprocessing(recipe: dict[str, Any]) -> Preprocessing:
    """Check that a volume and its tables fit into memory."""
    spacing, shape, knots = recipe["spacing"], recipe["shape"], recipe["hu_to_uint8"]
    is_spacing = is_list(spacing, float, 3) and all(MIN_MM <= mm <= MAX_MM for mm in spacing)
    require(is_spacing, f"preprocess.spacing: must be {MIN_MM:g} to {MAX_MM:g} mm")
    is_shape = is_list(shape, int, 3) and 1 <= min(shape) <= max(shape) <= MAX_AXIS
    require(
        is_shape and math.prod(shape) <= MAX_VOXELS,
        f"preprocess.shape: must be at most {MAX_AXIS} per axis and {MAX_VOXELS:,} voxels",
    )
    are_pairs = is_list(knots, list) and knots and all(is_list(knot, int, 2) for knot in knots)
    require(are_pairs, "preprocess.hu_to_uint8: must be pairs of whole numbers")
    hu, codes = zip(*knots, strict=True)
    rises = all(low < high for column in (hu, codes) for low, high in pairwise(column))
    require(
        rises and codes[0] == 0 and codes[-1] == 255,
        "preprocess.hu_to_uint8: must rise in both columns, its codes from 0 to 255",
    )
    require(
        -MAX_HU <= hu[0] <= hu[-1] <= MAX_HU,
        f"preprocess.hu_to_uint8: HU must be -{MAX_HU} to {MAX_HU}",
    )
    return Preprocessing(tuple(spacing), tuple(shape), tuple(map(tuple, knots)))


def _adjacent_slices(count: Any) -> int:
    is_odd = is_list([count], int) and 1 <= count <= MAX_ADJACENT and count % 2 == 1
    require(is_odd, f"adjacent_slices: must be an odd number up to {MAX_ADJACENT}")
    return int(count)


def _input_range(familiar: dict[str, Any]) -> InputRange:
    ranges = familiar["lung_share"], familiar["length"]
    are_ranges = all(
        is_list(one, float, 2) and -math.inf < one[0] <= one[1] < math.inf for one in ranges
    )
    require(are_ranges, "familiar: must be ranges of finite numbers, from low to high")
    return InputRange(*map(tuple, ranges))


def as_object(value: Any, keys: str = "") -> dict[str, Any]:
    """Return a JSON object, which must have these keys."""
    require(isinstance(value, dict), "must be a JSON object")
    for key in keys.split():
        require(key in value, f"{key}: is missing")
    return dict(value)


def is_list(value: object, kind: type, length: int | None = None) -> bool:
    """Return whether a value is a list of items of a kind; whole numbers count as float."""
    kinds = (int, float) if kind is float else kind
    return (
        isinstance(value, list)
        and len(value) == (len(value) if length is None else length)
        and all(isinstance(one, kinds) and not isinstance(one, bool) for one in value)
    )


def require(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)


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
    try:
        content = json.loads(text)
        refuse_other_version(content, path)
        card = parse_card(content)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: has wrong metadata; {_AGAIN}\n  - {_shortened(str(error))}"
        ) from None
    shape, findings = card.preprocess.shape, len(card.findings)
    expected = {
        "volume": ("tensor(uint8)", [*shape]),
        "probability": ("tensor(float)", [findings]),
        "threshold": ("tensor(float)", [findings]),
        "attention": ("tensor(float)", [findings, shape[0]]),
        "slice_logit": ("tensor(float)", [findings, shape[0]]),
    }
    ports = (*session.get_inputs(), *session.get_outputs())
    found = {
        port.name: (port.type, port.shape if port.name == "threshold" else port.shape[1:])
        for port in ports
    }
    if "slice_logit" not in found:  # exported before it was an output
        del expected["slice_logit"]
    if found != expected:
        raise InputError(
            f"{path}: has ports {_shortened(str(found))}, but its metadata describes "
            f"{_shortened(str(expected))}; {_AGAIN}"
        )
    return card


def refuse_other_version(content: Any, path: Path) -> None:
    """Reject the metadata of another version, which may have another format.

    Raises:
        InputError: the version differs.
    """
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, str):
        return  # the full validation reports it
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
