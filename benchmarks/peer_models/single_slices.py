"""Classifier of single slices with their volume's labels, as in this project's predecessor."""

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional


class SingleSlices(nn.Module):
    """EfficientNet-B0 on each slice alone; a volume's score is the mean of its slices' scores.

    Args:
        channels: number of channels of a slice.
        shape: (Z, Y, X) of a volume; unused.
        findings: number of findings.
    """

    def __init__(self, channels: int, shape: tuple[int, int, int], findings: int) -> None:  # noqa: ARG002
        super().__init__()
        self.network = timm.create_model(
            "efficientnet_b0", in_chans=channels, num_classes=findings
        ).to(memory_format=torch.channels_last)
        self.head = self.network.classifier

    def forward(self, shown: Tensor) -> Tensor:
        slices = shown.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        logits = self.network(slices).unflatten(0, shown.shape[:2])
        # The logit of the probabilities' mean, and of a single slice its own.
        seen, unseen = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        return seen.logsumexp(dim=1) - unseen.logsumexp(dim=1)
