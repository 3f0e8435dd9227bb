"""Subgroup analysis: scores by manufacturer, kernel, slice thickness, sex and age.

A model may detect a scanner rather than a disease: in CT-RATE the manufacturer correlates with the
findings. A subgroup that scores far below the others, or differs much in its fraction of positives,
deserves a closer look.
"""

import re
from bisect import bisect
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from multi_abnormality.data.catalog.label_checks import labeled_cells
from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
from multi_abnormality.evaluation.scores import evaluate, macro_intervals, macro_score
from multi_abnormality.utils.console import track

MAX_GROUPS = 6  # per trait; rarer values are merged
MIN_SCANS = 20  # subgroups with fewer have no scores
OTHERS = "others"
THICKNESS_EDGES = (1.0, 2.0, 4.0)  # mm
AGE_EDGES = (40, 60, 80)  # years


def subgroup_columns(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the traits that scans are grouped by, one column each, empty where unknown.

    Args:
        manifest: manifest of the processed dataset, one row per scan.
    """
    thickness = [
        _slice_distance(*row) for row in manifest[["source_spacing", "source_axes"]].to_numpy()
    ]
    ages = [int(match[1]) if (match := re.match(r"0*(\d+)Y", age)) else None
            for age in manifest["PatientAge"]]  # fmt: skip
    return pd.DataFrame(
        {
            "Manufacturer": manifest["Manufacturer"].tolist(),
            "Kernel": [_kernel_name(kernel) for kernel in manifest["ConvolutionKernel"]],
            "Slice thickness": _ranges(thickness, THICKNESS_EDGES, "mm"),
            "Sex": manifest["PatientSex"].tolist(),
            "Age": _ranges(ages, AGE_EDGES, "years"),
        }
    )


def score_groups(
    groups: pd.DataFrame,
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    findings: Sequence[str],
    resampling: ResamplingConfig,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Compute macro AUROC and CRG of each group of each trait, with counts and intervals.

    Args:
        groups: N rows, from `subgroup_columns`.
        labels: (N, F), 0, 1 or NaN for a missing one, which is left out.
        probabilities: (N, F).
        patients: N ids.
        findings: F names.
        resampling: settings of the intervals.

    Returns:
        Scores by trait and group. Groups below MIN_SCANS scans have counts only; traits with fewer
        than two known groups are left out.
    """
    patient_of_row = np.asarray(patients)
    result: dict[str, dict[str, dict[str, Any]]] = {}
    parts = [
        (trait, kind, rows)
        for trait, kinds in members(groups).items()
        for kind, rows in kinds.items()
    ]
    for trait, kind, rows in track(parts, "score groups", len(parts), "groups"):
        own = labels[rows], probabilities[rows], patient_of_row[rows].tolist()
        known, _ = labeled_cells(*own[:2])
        group: dict[str, Any] = {
            "scans": len(own[2]),
            "patients": len(set(own[2])),
            "positive_share": float(known.mean()) if len(known) else None,
        }
        if group["scans"] >= MIN_SCANS:
            group |= _scores(evaluate(*own, findings, resampling))
        result.setdefault(trait, {})[kind] = group
    return {trait: kinds for trait, kinds in result.items() if len(kinds) > 1}


def members(groups: pd.DataFrame) -> dict[str, dict[str, np.ndarray]]:
    """Return which rows each group of each trait has: (N,) bool; rare groups are merged.

    Args:
        groups: N rows, from `subgroup_columns`.
    """
    found = {}
    for trait in groups:
        kinds = _merge_rare(groups[trait].astype(str).to_numpy())
        found[str(trait)] = {kind: kinds == kind for kind in _ordered(kinds)}
    return found


def _scores(scores: dict[str, Any]) -> dict[str, Any]:
    intervals = macro_intervals(scores)
    return {
        "auroc": macro_score(scores, "auroc"),
        "auroc_interval": intervals["auroc"],
        "crg": macro_score(scores, "crg"),
        "crg_interval": intervals["crg"],
    }


def _merge_rare(kinds: np.ndarray) -> np.ndarray:
    counts = pd.Series(kinds[kinds != ""]).value_counts()
    kept = set(sorted(counts.index, key=lambda kind: (-counts[kind], kind))[:MAX_GROUPS])
    rare = np.array([kind != "" and kind not in kept for kind in kinds], dtype=bool)
    return np.where(rare, OTHERS, kinds)


def _ordered(kinds: np.ndarray) -> list[str]:
    """Sort known kinds by their first number, then by name; OTHERS last."""
    known = set(kinds) - {""}
    return sorted(known, key=lambda kind: (kind == OTHERS, *_first_number(kind), kind))


def _first_number(text: str) -> tuple[float, int]:
    numbers = re.findall(r"\d+(?:\.\d+)?", text)
    return (float(numbers[0]) if numbers else 0.0), int(not text.startswith("below"))


def _kernel_name(kernel: str) -> str:
    """Join the values of a multi-valued DICOM tag, in CT-RATE's tables "['Br40f', '3']"."""
    return ", ".join(re.findall(r"'([^']*)'", kernel)) or kernel


def _ranges(values: Iterable[float | None], edges: Sequence[float], unit: str) -> list[str]:
    """Return the name of the range of each value, empty if it is unknown."""
    names = [
        f"below {edges[0]:g} {unit}",
        *(f"{low:g} to {high:g} {unit}" for low, high in pairwise(edges)),
        f"{edges[-1]:g} {unit} and more",
    ]
    return ["" if value is None else names[bisect(edges, value)] for value in values]


def _slice_distance(spacing: str, axes: str) -> float | None:
    """Return the mm along the body, from a spacing as "0.7 0.7 2.5" with axes as "LPS"."""
    along = [float(mm) for mm, axis in zip(spacing.split(), axes, strict=True) if axis in "SI"]
    return along[0] if along else None
