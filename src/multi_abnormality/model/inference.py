"""Logits of whole volumes."""

import numpy as np
import torch

from multi_abnormality.console import track
from multi_abnormality.data.batches import WholeVolumes, whole_loader
from multi_abnormality.memory import keep_freed_memory
from multi_abnormality.model.classifier import VolumeClassifier

BATCH = 4  # volumes


def volume_logits(
    classifier: VolumeClassifier,
    volumes: WholeVolumes,
    device: torch.device,
    workers: int,
    what: str = "volumes",
) -> np.ndarray:
    """(V, F) float32 logits of V volumes, in their order.

    Args:
        classifier: to ask.
        volumes: to ask it about.
        device: to compute on.
        workers: processes that load.
        what: the volumes are, on the progress bar.
    """
    keep_freed_memory()
    classifier = classifier.to(device).eval()
    torch.backends.cudnn.allow_tf32 = False  # so that a GPU's scores are those of ONNX on a CPU
    batches = []
    loader = whole_loader(volumes, BATCH, workers)
    with torch.inference_mode():
        for batch in track(loader, f"predict {what}", len(loader), unit="batches"):
            batches.append(classifier(batch["volume"].to(device)).float().cpu().numpy())
    return np.concatenate(batches)
