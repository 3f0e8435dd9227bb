"""A revision's predictions of its test scans, and the labels that these scans had there."""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from multi_abnormality.compare.revisions import Read, Revision
from multi_abnormality.data.store import LABELS, MANIFEST, STORED, read_labels, read_manifest, whose
from multi_abnormality.errors import InputError, first_few
from multi_abnormality.evaluation.checks import Describe, check_labels, check_probabilities
from multi_abnormality.evaluation.scores import official_scores

SUBMISSION, EVALUATION = "metrics/submission.json", "metrics/evaluate.json"
SAME = 1e-9  # of a score that is computed again


@dataclass(frozen=True)
class Scored:
    """Scans that a revision was scored on.

    Attributes:
        revision: it.
        scans: N ids, such as valid_1_a.
        patients: N ids.
        sources: N hashes of the files that the scans were read from.
        voxels: N hashes of what preprocess made of them.
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

    def rows(self, rows: np.ndarray) -> "Scored":
        """These rows alone, in this order."""
        names = ("scans", "patients", "sources", "voxels", "labels", "probabilities")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def in_order_of(self, findings: Sequence[str]) -> "Scored":
        """The same findings in another order."""
        columns = [self.findings.index(finding) for finding in findings]
        cells = self.labels[:, columns], self.probabilities[:, columns]
        return replace(self, findings=tuple(findings), labels=cells[0], probabilities=cells[1])


def read_scored(revision: Revision, read: Read) -> Scored:
    """Read a revision's predictions and labels.

    Raises:
        InputError: it has no scores, its files are nowhere, or they do not fit each other.
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
            f"cannot be read ({error!r}): damaged, or of another version of this project; run "
            "`dvc repro` at that revision"
        ) from error
    _check(scored, recorded)
    return scored


def _predictions(
    revision: Revision, content: Mapping[str, Any], findings: tuple[str, ...]
) -> pd.DataFrame:
    """(N, F) probabilities by volume name, from the submission's format."""
    rows = {row["input_image_name"]: row["probabilities"] for row in content["predictions"]}
    counts = Counter(row["input_image_name"] for row in content["predictions"])
    if twice := [name for name, count in counts.items() if count > 1]:
        raise _unusable(revision, twice, "holds scans more than once")
    for finding in findings:
        if lacking := [name for name, chances in rows.items() if finding not in chances]:
            raise _unusable(revision, lacking, f"lacks the probability of {finding!r} of scans")
    values = [[float(chances[finding]) for finding in findings] for chances in rows.values()]
    return pd.DataFrame(values, index=list(rows), columns=list(findings))


def _unusable(revision: Revision, scans: Sequence[str], fault: str) -> InputError:
    """What is wrong with the predictions, and of which scans."""
    return InputError(
        f"{revision}: {SUBMISSION} {fault} ({len(scans)}): {first_few(scans)}; run `dvc repro` at "
        "that revision, which makes it anew, or bring back the one of its dvc.lock by `dvc "
        "checkout --force evaluate`"
    )


def _tables(revision: Revision, read: Read) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest and the labels of a processed set, by volume name."""
    manifest, labels = (
        reader(io.BytesIO(read(f"processed/{name}")), f"{revision}: processed/{name}")
        for reader, name in ((read_manifest, MANIFEST), (read_labels, LABELS))
    )
    return manifest.set_index("name"), labels.set_index("name")


def _join(
    revision: Revision, predictions: pd.DataFrame, manifest: pd.DataFrame, labels: pd.DataFrame
) -> Scored:
    unknown = sorted(set(predictions.index) - set(labels.index))
    if unknown:
        raise InputError(
            f"{revision}: processed/ has no labels of {first_few(unknown)}, which it was scored "
            "on; its dvc.lock and its predictions were not made together: run `dvc repro` there"
        )
    stored = manifest[manifest["status"] == STORED]
    told = whose(stored.reset_index(names="name")).set_index("name")
    valid = told[told["split"] == "valid"]
    told = told.loc[predictions.index]
    if lacking := list(dict.fromkeys(valid["scan_id"][~valid["scan_id"].isin(told["scan_id"])])):
        raise _unusable(revision, lacking, "lacks scans of the valid split")
    if twice := list(dict.fromkeys(told["scan_id"][told["scan_id"].duplicated()])):
        raise _unusable(revision, twice, "holds several reconstructions of scans")
    origins = stored.loc[predictions.index]
    return Scored(
        revision,
        told["scan_id"].to_numpy(),
        told["patient_id"].to_numpy(),
        origins["source_sha256"].to_numpy(),
        origins["voxels_sha256"].to_numpy(),
        tuple(labels.columns),
        labels.loc[predictions.index].to_numpy(),
        predictions.to_numpy(),
    )


def _check(scored: Scored, recorded: float | None) -> None:
    """That predictions and labels are those of the recorded scores."""

    def named(file: str) -> Describe:
        return lambda row: f"{scored.revision}: {file}, {scored.scans[row]}"

    check_labels(scored.labels, scored.findings, named(f"processed/{LABELS}"))
    cells = scored.labels, scored.probabilities
    check_probabilities(cells[1], cells[0], scored.findings, named(SUBMISSION))
    found = official_scores(*cells, scored.findings)["classification"]["macro"]["auroc"]
    if (found is None) != (recorded is None) or abs((found or 0) - (recorded or 0)) > SAME:
        raise InputError(
            f"{scored.revision}: {SUBMISSION} and the labels in processed/ give a macro AUROC of "
            f"{found}, but {EVALUATION} says {recorded}: they were not made together; run `dvc "
            "repro` at that revision, and commit dvc.lock with metrics/"
        )
