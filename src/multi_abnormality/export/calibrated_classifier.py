"""Exported model: classifier, calibration and thresholds."""

import torch
from torch import Tensor, nn

from multi_abnormality.evaluation.calibration import Calibration
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

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities, thresholds and attention.

        Args:
            volume: (N, Z, Y, X) uint8 codes.

        Returns:
            Calibrated probabilities (N, F), thresholds (F,) and attention (N, F, Z): the weight of
            each slice for each finding.
        """
        logits, attention = self.classifier.predict(volume)
        probability = torch.sigmoid(self.slope * logits + self.intercept)
        return probability, self.thresholds.clone(), attention
