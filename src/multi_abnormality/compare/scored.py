"""A revision's predictions of its test scans, and the labels that these scans had there."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from multi_abnormality.compare.revisions import Read, Revision
from multi_abnormality.data.store import LABELS, MANIFEST, read_labels, whose
from multi_abnormality.errors import InputError
from multi_abnormality.evaluation.checks import check_labels, check_probabilities
from multi_abnormality.evaluation.scores import official_scores

PREDICTIONS, EVALUATION = "metrics/predictions.json", "metrics/evaluate.json"
SAME = 1e-9  # of a score that is computed again


@dataclass(frozen=True)
class Scored:
    """Scans that a revision was scored on.

    Attributes:
        revision: it.
        scans: N ids, such as valid_1_a.
        patients: N ids.
        sources: N hashes of the files that the scans were read from.
        findings: F names.
        labels: (N, F), 0 or 1.
        probabilities: (N, F).
    """

    revision: Revision
    scans: np.ndarray
    patients: np.ndarray
    sources: np.ndarray
    findings: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray

    def rows(self, rows: np.ndarray) -> "Scored":
        """These rows alone, in this order."""
        names = ("scans", "patients", "sources", "labels", "probabilities")
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
        content = json.loads(read(PREDICTIONS))
        manifest, labels = _tables(read)
        predictions = _predictions(content, tuple(labels.columns))
        scored = _join(revision, predictions, manifest, labels)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{revision}: {PREDICTIONS}, {EVALUATION}, processed/{MANIFEST} or processed/{LABELS} "
            f"cannot be read ({error!r}): damaged, or of another version of this project; run "
            "`dvc repro` at that revision"
        ) from error
    _check(scored, recorded)
    return scored


def _predictions(content: Mapping[str, Any], findings: tuple[str, ...]) -> pd.DataFrame:
    """(N, F) probabilities by volume name, from the submission's format."""
    rows = content["predictions"]
    names = [row["input_image_name"] for row in rows]
    if len(set(names)) < len(names):
        raise ValueError("a scan stands twice")
    values = [[float(row["probabilities"][finding]) for finding in findings] for row in rows]
    return pd.DataFrame(values, index=names, columns=list(findings))


def _tables(read: Read) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest and the labels of a processed set, by volume name."""
    texts = (io.BytesIO(read(f"processed/{name}")) for name in (MANIFEST, LABELS))
    manifest = pd.read_csv(next(texts), dtype=str, keep_default_na=False).set_index("name")
    return manifest, read_labels(next(texts)).set_index("name")


def _join(
    revision: Revision, predictions: pd.DataFrame, manifest: pd.DataFrame, labels: pd.DataFrame
) -> Scored:
    unknown = sorted(set(predictions.index) - set(labels.index))
    if unknown:
        raise InputError(
            f"{revision}: processed/ has no labels of {unknown[0]}"
            f"{f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''}, which it was scored "
            "on; its dvc.lock and its predictions were not made together: run `dvc repro` there"
        )
    told = whose(manifest.loc[predictions.index].reset_index(names="name"))
    if not told["scan_id"].is_unique:
        raise ValueError("a scan has a prediction for each of its reconstructions")
    return Scored(
        revision,
        told["scan_id"].to_numpy(),
        told["patient_id"].to_numpy(),
        manifest.loc[predictions.index, "source_sha256"].to_numpy(),
        tuple(labels.columns),
        labels.loc[predictions.index].to_numpy(),
        predictions.to_numpy(),
    )


def _check(scored: Scored, recorded: float | None) -> None:
    """That predictions and labels are those of the recorded scores."""
    check_labels(scored.labels, scored.findings, lambda row: scored.scans[row])
    cells = scored.labels, scored.probabilities
    check_probabilities(cells[1], cells[0], scored.findings, lambda row: scored.scans[row])
    found = official_scores(*cells, scored.findings)["classification"]["macro"]["auroc"]
    if (found is None) != (recorded is None) or abs((found or 0) - (recorded or 0)) > SAME:
        raise InputError(
            f"{scored.revision}: {PREDICTIONS} and the labels in processed/ give a macro AUROC of "
            f"{found}, but {EVALUATION} says {recorded}: they were not made together; run `dvc "
            "repro` at that revision, and commit dvc.lock with metrics/"
        )
