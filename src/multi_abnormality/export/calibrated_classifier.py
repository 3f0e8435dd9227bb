"""Exported model: classifier, calibration and thresholds."""

import torch
from torch import Tensor, nn

from multi_abnormality.evaluation.calibration import Calibration
from multi_abnormality.evaluation.grad_cam import slice_logits
from multi_abnormality.models.classifier import VolumeClassifier


class CalibratedClassifier(nn.Module):
    """Classifier with its calibration and thresholds.

    The classifier's weights become contiguous, as other programs expect. Thresholds are not in the
    state dict, so files of weights do not change with them.
    """

    slope: Tensor
    intercept: Tensor
    thresholds: Tensor

    def __init__(self, classifier: VolumeClassifier, calibration: Calibration) -> None:
        super().__init__()
        self.classifier = classifier
        # Torch's own types lack this argument.
        classifier.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.register_buffer("slope", torch.tensor(calibration.slope, dtype=torch.float32))
        self.register_buffer("intercept", torch.tensor(calibration.intercept, dtype=torch.float32))
        thresholds = torch.tensor(calibration.thresholds, dtype=torch.float32)
        self.register_buffer("thresholds", thresholds, persistent=False)

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return probabilities, thresholds, attention and logits of slices.

        Args:
            volume: (N, Z, Y, X) uint8 codes.

        Returns:
            Calibrated probabilities (N, F), thresholds (F,), attention (N, F, Z): the weight of
            each slice for each finding, and the logit (N, F, Z) of each slice alone, before
            calibration.
        """
        height = self.classifier.heights(volume)
        features = self.classifier.encoder(self.classifier.slices(volume))
        by_slice = slice_logits(self.classifier, features, height.flatten())
        logits, attention = self.classifier.pooling(features.unflatten(0, height.shape), height)
        probability = torch.sigmoid(self.slope * logits + self.intercept)
        alone = by_slice.unflatten(0, height.shape).transpose(1, 2)
        return probability, self.thresholds.clone(), attention, alone
