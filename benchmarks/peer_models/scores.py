"""Score of all contenders."""

import numpy as np
from sklearn.metrics import roc_auc_score

from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.evaluation.scored_scans import average_over_reconstructions


def macro_auroc(processed: ProcessedDataset, names: list[str], logits: np.ndarray) -> float:
    """Return the mean AUROC by scan over the findings that have both classes.

    Args:
        processed: the processed dataset.
        names: names of V volumes.
        logits: (V, F).
    """
    patients = processed.manifest.set_index("name").loc[names, "patient_id"]
    labels, of_scans = processed.labels_of(names), processed.scans_of(names)
    scans = average_over_reconstructions(
        names, logits, labels, of_scans, patients.tolist(), processed.findings
    )
    both = [column for column in range(logits.shape[1]) if 0 < scans.labels[:, column].mean() < 1]
    return float(roc_auc_score(scans.labels[:, both], scans.logits[:, both]))
