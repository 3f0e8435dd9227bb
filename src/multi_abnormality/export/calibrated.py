"""The model that ships: volumes in, calibrated probabilities out, cut at 0.5."""

import torch
from torch import Tensor, nn

from multi_abnormality.evaluation.calibration import Calibration
from multi_abnormality.model.classifier import VolumeClassifier


class CalibratedClassifier(nn.Module):
    """A classifier with its calibration: volumes of 8-bit codes to probabilities.

    The classifier becomes contiguous, as other programs have their weights.
    """

    slope: Tensor
    intercept: Tensor

    def __init__(self, classifier: VolumeClassifier, calibration: Calibration) -> None:
        super().__init__()
        self.classifier = classifier
        # Torch's own types lack this argument.
        classifier.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.register_buffer("slope", torch.tensor(calibration.slope, dtype=torch.float32))
        moved = torch.tensor(calibration.moved_intercept, dtype=torch.float32)
        self.register_buffer("intercept", moved)

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """(N, Z, Y, X) uint8 -> (N, F) probabilities, and (N, F, Z), how much each slice counts"""
        logits, attention = self.classifier.predict(volume)
        return torch.sigmoid(self.slope * logits + self.intercept), attention
