"""Test predictions of a revision, with the scans' labels at that revision."""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from multi_abnormality.evaluation.scored_scans import (
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
    """Predictions and labels of the scans that a revision was scored on, by scan id."""

    revision: Revision  # the revision
    # `patient_id`, `name` of the volume, and hashes of the file and of the preprocessed voxels:
    # `source_sha256`, `voxels_sha256`.
    scans: pd.DataFrame
    # 0, 1 or NaN for one that is missing or of a finding that was not trained, for lack of labels
    # in the train split; a column per finding.
    labels: pd.DataFrame
    probabilities: pd.DataFrame  # a column per finding

    def select(self, scans: pd.Index, findings: pd.Index) -> "RevisionPredictions":
        """Select scans and findings, in the given order."""
        return RevisionPredictions(
            self.revision,
            self.scans.loc[scans],
            self.labels.loc[scans, findings],
            self.probabilities.loc[scans, findings],
        )


def read_revision_predictions(revision: Revision, read: Read) -> RevisionPredictions:
    """Read a revision's predictions and labels."""
    try:
        evaluation = json.loads(read(EVALUATION))
        recorded = evaluation["classification"]["macro"]["auroc"]
        content = json.loads(read(SUBMISSION))
        manifest, labels = read_tables(revision, read)
        predictions = read_probabilities(revision, content, tuple(labels.columns))
        scored = _join(revision, predictions, manifest, labels, evaluation)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{revision}: {SUBMISSION}, {EVALUATION}, processed/{MANIFEST} or processed/{LABELS} "
            f"cannot be read ({error!r}): damaged, or written by another version; run "
            "`dvc repro` at that revision"
        ) from error
    _check(scored, recorded)
    return scored


def read_probabilities(
    revision: Revision, content: Mapping[str, Any], findings: tuple[str, ...]
) -> pd.DataFrame:
    """Read (N, F) probabilities by volume name, from a submission or the calibrated ones.

    Raises:
        InputError: a scan is there twice, or lacks the probability of a finding.
    """
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


def read_tables(revision: Revision, read: Read) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the manifest and the labels of a processed dataset, by volume name."""
    manifest, labels = (
        reader(io.BytesIO(read(f"processed/{name}")), f"{revision}: processed/{name}")
        for reader, name in ((read_manifest, MANIFEST), (read_labels, LABELS))
    )
    return manifest.set_index("name"), labels.set_index("name")


def _join(
    revision: Revision,
    predictions: pd.DataFrame,
    manifest: pd.DataFrame,
    labels: pd.DataFrame,
    evaluation: Mapping[str, Any],
) -> RevisionPredictions:
    unknown = sorted(set(predictions.index) - set(labels.index))
    if unknown:
        raise InputError(
            f"{revision}: processed/ has no labels of {first_few(unknown)}, which it was scored "
            "on; its dvc.lock and its predictions belong to different runs: run `dvc repro` there"
        )
    stored = manifest[manifest["status"] == STORED]
    fold = evaluation.get("cross_validation", {}).get("fold")
    volumes = add_scan_ids(stored.reset_index(names="name"), fold).set_index("name")
    test = volumes["scan_id"][volumes["split"] == "test"]
    volumes = volumes.loc[predictions.index]
    scan_ids = volumes["scan_id"]
    if missing := list(dict.fromkeys(test[~test.isin(scan_ids)])):
        raise _unusable(revision, missing, "lacks scans of the test split")
    if duplicates := list(dict.fromkeys(scan_ids[scan_ids.duplicated()])):
        raise _unusable(revision, duplicates, "has several reconstructions of scans")
    hashes = stored.loc[predictions.index, ["source_sha256", "voxels_sha256"]]
    scans = hashes.assign(patient_id=volumes["patient_id"], name=predictions.index)
    untrained = evaluation.get("counts", {}).get("untrained", [])
    scored = labels.loc[predictions.index].assign(**dict.fromkeys(untrained, np.nan))
    tables = scans, scored, predictions
    return RevisionPredictions(revision, *(table.set_axis(scan_ids) for table in tables))


def _check(scored: RevisionPredictions, recorded: float | None) -> None:
    """Check that predictions and labels give the recorded score."""

    def named(file: str) -> list[str]:
        return [f"{scored.revision}: {file}, {scan}" for scan in scored.scans.index]

    findings = tuple(scored.labels.columns)
    labels, probabilities = scored.labels.to_numpy(), scored.probabilities.to_numpy()
    check_labels(labels, findings, named(f"processed/{LABELS}"))
    check_probabilities(probabilities, labels, findings, named(SUBMISSION))
    found = official_scores(labels, probabilities, findings)["classification"]["macro"]["auroc"]
    if (found is None) != (recorded is None) or abs((found or 0) - (recorded or 0)) > TOLERANCE:
        raise InputError(
            f"{scored.revision}: {SUBMISSION} and the labels in processed/ give a macro AUROC of "
            f"{found}, but {EVALUATION} has {recorded}: they were not made together; run `dvc "
            "repro` at that revision, and commit dvc.lock with metrics/"
        )
