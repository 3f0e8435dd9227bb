"""Test predictions of a revision, with the scans' labels at that revision."""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from multi_abnormality.data.storage.processed_dataset import (
    LABELS,
    MANIFEST,
    STORED,
    add_scan_ids,
    read_labels,
    read_manifest,
)
from multi_abnormality.evaluation.prediction_checks import (
    check_labels,
    check_probabilities,
)
from multi_abnormality.evaluation.scores import official_scores
from multi_abnormality.tools.compare.revisions import Read, Revision
from multi_abnormality.utils.errors import InputError, first_few

SUBMISSION, EVALUATION = "metrics/submission.json", "metrics/evaluate.json"
TOLERANCE = 1e-9  # of a recomputed score


@dataclass(frozen=True)
class RevisionPredictions:
    """Predictions and labels of the scans that a revision was scored on.

    Attributes:
        revision: the revision.
        scans: N scan ids, such as valid_1_a.
        patients: N patient ids.
        sources: N hashes of the scans' files.
        voxels: N hashes of the preprocessed voxels.
        findings: F names.
        labels: (N, F), 0 or 1.
        probabilities: (N, F).
    """

    revision: Revision
    scans: np.ndarray
    patients: np.ndarray
    sources: np.ndarray
    voxels: np.ndarray
    findings: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray

    def rows(self, rows: np.ndarray) -> "RevisionPredictions":
        """Select rows, in the given order."""
        names = ("scans", "patients", "sources", "voxels", "labels", "probabilities")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def in_order_of(self, findings: Sequence[str]) -> "RevisionPredictions":
        """Reorder the findings."""
        columns = [self.findings.index(finding) for finding in findings]
        cells = self.labels[:, columns], self.probabilities[:, columns]
        return replace(self, findings=tuple(findings), labels=cells[0], probabilities=cells[1])


def read_revision_predictions(revision: Revision, read: Read) -> RevisionPredictions:
    """Read a revision's predictions and labels.

    Raises:
        InputError: the revision has no scores, or its files are missing or inconsistent.
    """
    try:
        recorded = json.loads(read(EVALUATION))["classification"]["macro"]["auroc"]
        content = json.loads(read(SUBMISSION))
        manifest, labels = _tables(revision, read)
        predictions = _predictions(revision, content, tuple(labels.columns))
        scored = _join(revision, predictions, manifest, labels)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{revision}: {SUBMISSION}, {EVALUATION}, processed/{MANIFEST} or processed/{LABELS} "
            f"cannot be read ({error!r}): damaged, or written by another version; run "
            "`dvc repro` at that revision"
        ) from error
    _check(scored, recorded)
    return scored


def _predictions(
    revision: Revision, content: Mapping[str, Any], findings: tuple[str, ...]
) -> pd.DataFrame:
    """Read (N, F) probabilities by volume name from the submission's format."""
    rows = {row["input_image_name"]: row["probabilities"] for row in content["predictions"]}
    counts = Counter(row["input_image_name"] for row in content["predictions"])
    if duplicates := [name for name, count in counts.items() if count > 1]:
        raise _unusable(revision, duplicates, "has scans more than once")
    for finding in findings:
        if missing := [name for name, probs in rows.items() if finding not in probs]:
            raise _unusable(revision, missing, f"lacks the probability of {finding!r} for scans")
    values = [[float(probs[finding]) for finding in findings] for probs in rows.values()]
    return pd.DataFrame(values, index=list(rows), columns=list(findings))


def _unusable(revision: Revision, scans: Sequence[str], fault: str) -> InputError:
    """Error that names the scans whose predictions are unusable."""
    return InputError(
        f"{revision}: {SUBMISSION} {fault} ({len(scans)}): {first_few(scans)}; run `dvc repro` at "
        "that revision, which writes it again, or restore the one of its dvc.lock by `dvc "
        "checkout --force evaluate`"
    )


def _tables(revision: Revision, read: Read) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the manifest and the labels of a processed dataset, by volume name."""
    manifest, labels = (
        reader(io.BytesIO(read(f"processed/{name}")), f"{revision}: processed/{name}")
        for reader, name in ((read_manifest, MANIFEST), (read_labels, LABELS))
    )
    return manifest.set_index("name"), labels.set_index("name")


def _join(
    revision: Revision, predictions: pd.DataFrame, manifest: pd.DataFrame, labels: pd.DataFrame
) -> RevisionPredictions:
    unknown = sorted(set(predictions.index) - set(labels.index))
    if unknown:
        raise InputError(
            f"{revision}: processed/ has no labels of {first_few(unknown)}, which it was scored "
            "on; its dvc.lock and its predictions belong to different runs: run `dvc repro` there"
        )
    stored = manifest[manifest["status"] == STORED]
    volumes = add_scan_ids(stored.reset_index(names="name")).set_index("name")
    test = volumes[volumes["split"] == "test"]
    volumes = volumes.loc[predictions.index]
    scan_ids = volumes["scan_id"]
    if missing := list(dict.fromkeys(test["scan_id"][~test["scan_id"].isin(scan_ids)])):
        raise _unusable(revision, missing, "lacks scans of the test split")
    if duplicates := list(dict.fromkeys(scan_ids[scan_ids.duplicated()])):
        raise _unusable(revision, duplicates, "has several reconstructions of scans")
    origins = stored.loc[predictions.index]
    return RevisionPredictions(
        revision,
        scan_ids.to_numpy(),
        volumes["patient_id"].to_numpy(),
        origins["source_sha256"].to_numpy(),
        origins["voxels_sha256"].to_numpy(),
        tuple(labels.columns),
        labels.loc[predictions.index].to_numpy(),
        predictions.to_numpy(),
    )


def _check(scored: RevisionPredictions, recorded: float | None) -> None:
    """Check that predictions and labels give the recorded score."""

    def named(file: str) -> list[str]:
        return [f"{scored.revision}: {file}, {scan}" for scan in scored.scans]

    check_labels(scored.labels, scored.findings, named(f"processed/{LABELS}"))
    cells = scored.labels, scored.probabilities
    check_probabilities(cells[1], cells[0], scored.findings, named(SUBMISSION))
    found = official_scores(*cells, scored.findings)["classification"]["macro"]["auroc"]
    if (found is None) != (recorded is None) or abs((found or 0) - (recorded or 0)) > TOLERANCE:
        raise InputError(
            f"{scored.revision}: {SUBMISSION} and the labels in processed/ give a macro AUROC of "
            f"{found}, but {EVALUATION} has {recorded}: they were not made together; run `dvc "
            "repro` at that revision, and commit dvc.lock with metrics/"
        )
