"""One way to score for all."""

import numpy as np
from sklearn.metrics import roc_auc_score

from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.evaluation.predictions import by_scan


def macro_auroc(processed: ProcessedSet, names: list[str], logits: np.ndarray) -> float:
    """Mean AUROC by scan over the findings that have both classes.

    Args:
        processed: what the volumes are of.
        names: of the volumes, V.
        logits: (V, F).
    """
    patients = processed.manifest.set_index("name").loc[names, "patient_id"]
    labels, of_scans = processed.labels_of(names), processed.scans_of(names)
    scans = by_scan(names, logits, labels, of_scans, patients.tolist(), processed.findings)
    both = [column for column in range(logits.shape[1]) if 0 < scans.labels[:, column].mean() < 1]
    return float(roc_auc_score(scans.labels[:, both], scans.logits[:, both]))
