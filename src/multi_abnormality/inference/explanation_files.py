"""Files that explain a scan's prediction: a page, pictures, heat maps as NIfTI, and JSON."""

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deflate
import numpy as np

from multi_abnormality.evaluation.slice_rendering import (
    HEAT_FROM,
    describe_window,
    draw_heat,
    draw_slice,
    window_name,
)
from multi_abnormality.evaluation.template_environment import template_environment
from multi_abnormality.evaluation.threshold_selection import decide
from multi_abnormality.inference.explanation import ExplainedFinding, explain_scan
from multi_abnormality.inference.scan_grid import ScanGrid
from multi_abnormality.utils.atomic_io import atomic_write, write_json

if TYPE_CHECKING:
    from multi_abnormality.data.io.read import Volume
    from multi_abnormality.data.io.scan_sources import ScanSource
    from multi_abnormality.inference.onnx_metadata import ModelCard
    from multi_abnormality.inference.predictor import Model, Prediction

PAGE, EXPLANATION = "index.html", "explanation.json"
COMPRESSION = 2  # of 12
UINT8, MILLIMETRES, SCANNER = 2, 2, 1  # NIfTI's codes
NEIGHBORS = 12  # of the scan's own slices on each side


def write_explanation(
    model: "Model",
    name: str,
    source: "ScanSource",
    volume: "Volume",
    prediction: "Prediction",
    folder: Path,
) -> None:
    """Write the page of a scan, its pictures and heat maps, and last explanation.json.

    Args:
        model: model with logits of slices.
        name: the scan's name.
        source: where the volume was read from.
        volume: the scan.
        prediction: prediction of that volume.
        folder: output directory of this scan. Files of an earlier prediction are removed.
    """
    (folder / EXPLANATION).unlink(missing_ok=True)
    grid = ScanGrid(volume, source.series)
    files = _Files(folder, volume, grid)
    explained = explain_scan(model, volume, prediction)
    shown = [files.write(number, one) for number, one in enumerate(explained, start=1)]
    files.remove_others()
    page = template_environment("multi_abnormality.evaluation", autoescape=True)
    sections = {one.finding.name: number for number, one in enumerate(explained, start=1)}
    text = page.get_template("explanation.html").render(
        name=name,
        synthetic=model.is_synthetic,
        warnings=prediction.warnings,
        findings=sorted(prediction.findings, key=lambda one: -one.probability),
        explained=shown,
        sections=sections,
        model_mm=model.spacing[0],
        heat_from=HEAT_FROM,
        model=model.path.name,
    )
    atomic_write(text.encode(), folder / PAGE)
    write_json(_content(model, name, prediction, explained, shown, grid), folder / EXPLANATION)


def is_explained(probabilities: dict[str, float], card: "ModelCard", folder: Path) -> bool:
    """Return whether the folder explains this prediction; EXPLANATION is written last."""
    try:
        shown = json.loads((folder / EXPLANATION).read_text(encoding="utf-8"))["findings"]
        explained = {
            finding: (entry["probability"], entry["positive"]) for finding, entry in shown.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # missing or invalid: write it again
    decisions = decide(probabilities, card.thresholds, card.uncalibrated)
    return explained == {
        finding: (probabilities[finding], positive) for finding, positive in decisions.items()
    }


class _Files:
    """Pictures and heat maps of a scan in its folder."""

    def __init__(self, folder: Path, volume: "Volume", grid: ScanGrid) -> None:
        self._folder = folder
        self._volume = volume
        self._grid = grid
        self._written: set[str] = set()

    def write(self, number: int, one: ExplainedFinding) -> dict[str, Any]:
        """Write the files of one finding; return what the page shows."""
        finding, count = one.finding, len(self._volume.hu)
        first, last = max(one.slice - NEIGHBORS, 0), min(one.slice + NEIGHBORS, count - 1)
        stem = f"{number:02d}_{re.sub(r'[^a-z0-9]+', '_', finding.name.lower())[:60]}"
        heat_map = f"heat_maps/{stem}.nii.gz"
        self._write(heat_map, self._nifti(one))
        picture = f"slices/heat_{stem}.webp"
        self._write(picture, draw_heat(one.heat, self._volume.spacing))
        return {
            "name": finding.name,
            "probability": finding.probability,
            "threshold": finding.threshold,
            "window": describe_window(finding.name),
            "slices": [self._slice(z, finding.name) for z in range(first, last + 1)],
            "shown": one.slice - first,
            "heat": picture,
            "heat_map": heat_map,
            "first": one.first - first,
            "last": one.last - first,
            "outside": one.outside,
            "padding": one.padding,
            "evidence": f"These slices have {one.attention:.0%} of the finding's attention.",
        }

    def _slice(self, z: int, finding: str) -> dict[str, str]:
        path = f"slices/{window_name(finding).replace(' ', '_')}_{z + 1:04d}.webp"
        if path not in self._written:
            self._write(path, draw_slice(self._volume.hu[z], finding, self._volume.spacing))
        at = self._grid.slice(z)
        where = f"Slice {at.number} of {len(self._volume.hu)} from the feet"
        return {
            "src": path,
            "alt": f"{where}, {window_name(finding)} window",
            "position": f"{where}; {at.name}; z {at.z:g} mm",
        }

    def _nifti(self, one: ExplainedFinding) -> bytes:
        heat = np.zeros(self._volume.hu.shape, np.uint8)
        heat[one.first : one.last + 1] = np.rint(255 * one.heat)
        return encode_heat_map(self._grid.to_file(heat), self._volume.affine)

    def _write(self, path: str, content: bytes) -> None:
        atomic_write(content, self._folder / path)
        self._written.add(path)

    def remove_others(self) -> None:
        """Remove files that an earlier prediction left."""
        for path in (*self._folder.glob("slices/*.webp"), *self._folder.glob("heat_maps/*.nii.gz")):
            if path.relative_to(self._folder).as_posix() not in self._written:
                path.unlink()


def _content(
    model: "Model",
    name: str,
    prediction: "Prediction",
    explained: Sequence[ExplainedFinding],
    shown: Sequence[dict[str, Any]],
    grid: ScanGrid,
) -> dict[str, Any]:
    """Return the content of explanation.json."""
    details = {
        one.finding.name: {
            "window": page["window"],
            "heat_map": page["heat_map"],
            "heat_outside_body": one.outside,
            "attention": one.attention,
            "attention_on_padding": one.padding,
            "slice": asdict(grid.slice(one.slice)),
            "heat_map_slices": [asdict(grid.slice(z)) for z in range(one.first, one.last + 1)],
            "peak": _peak(one, grid),
        }
        for one, page in zip(explained, shown, strict=True)
    }
    return {
        "scan": name,
        "model": model.path.name,
        "synthetic": model.is_synthetic,
        "warnings": list(prediction.warnings),
        "method": "occlusion of squares",
        "coordinates": "mm to the left, the back and the head (LPS), as in DICOM",
        "findings": {
            finding.name: {
                "probability": finding.probability,
                "threshold": finding.threshold,
                "positive": finding.positive,
                **details.get(finding.name, {}),
            }
            for finding in prediction.findings
        },
    }


def _peak(one: ExplainedFinding, grid: ScanGrid) -> dict[str, Any] | None:
    """Return the voxel with the highest heat; None without heat."""
    if one.peak is None:
        return None
    index = grid.file_index(one.slice, *one.peak)
    return {
        "position": grid.position(index),
        "file_index": index,
        "instance_number": grid.instance_number(index[2]),
    }


def encode_heat_map(heat: np.ndarray, affine: np.ndarray) -> bytes:
    """Return the bytes of a .nii.gz file in the scan's geometry; equal input gives equal bytes.

    Args:
        heat: (I, J, K) uint8 in the axis order of the scan's file; 255 is a heat of 1.
        affine: (4, 4) mm, from voxel indices to RAS+ coordinates.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    header = struct.pack(
        "<i10s18sihcb8h3f4h8f3fhcb4f2i80s24s2h6f12f16s4s4s",
        *(348, b"", b"", 0, 0, b"r", 0),
        *(3, *heat.shape, 1, 1, 1, 1),
        *(0, 0, 0),  # intent
        *(0, UINT8, 8, 0),
        *(1, *map(float, spacing), 0, 0, 0, 0),
        *(352, 1 / 255, 0),  # offset of the voxels, slope, intercept
        *(0, b"\0", MILLIMETRES, 1, 0, 0, 0, 0, 0),  # shown from 0 to 1
        *(b"heat map, 0 to 1", b""),
        *(0, SCANNER, 0, 0, 0, 0, 0, 0),  # no quaternion, which cannot have a tilted gantry
        *map(float, affine[:3].ravel()),
        *(b"", b"n+1\0", b"\0\0\0\0"),
    )
    return bytes(deflate.gzip_compress(header + heat.tobytes(order="F"), COMPRESSION))
