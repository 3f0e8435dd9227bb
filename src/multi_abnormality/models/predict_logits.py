"""Logits of whole volumes."""

import numpy as np
import torch

from multi_abnormality.data.loading.eval_dataset import EvalDataset, eval_dataloader
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.utils.console import track
from multi_abnormality.utils.system_memory import tune_malloc

BATCH = 4  # volumes


def predict_logits(
    classifier: VolumeClassifier,
    volumes: EvalDataset,
    device: torch.device,
    workers: int,
    what: str = "volumes",
) -> np.ndarray:
    """Predict the (V, F) float32 logits of V volumes, in their order.

    Args:
        classifier: trained classifier.
        volumes: dataset of volumes.
        device: device to compute on.
        workers: number of data loader workers.
        what: description of the volumes for the progress bar.
    """
    tune_malloc()
    classifier = classifier.to(device).eval()
    torch.backends.cudnn.allow_tf32 = False  # so that a GPU's scores equal those of ONNX on a CPU
    batches = []
    loader = eval_dataloader(volumes, BATCH, workers)
    with torch.inference_mode():
        for batch in track(loader, f"predict {what}", len(loader), unit="batches"):
            batches.append(classifier(batch["volume"].to(device)).float().cpu().numpy())
    return np.concatenate(batches)
