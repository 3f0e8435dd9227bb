"""CT-Net (Draelos et al. 2021, doi:10.1016/j.media.2020.101857), after its description."""

import timm
import torch
from torch import Tensor, nn

TRIPLET = 3
WIDTHS = (64, 32)  # channels of the convolutions over the whole volume
HIDDEN = 128


class CtNet(nn.Module):
    """Triplets of neighbouring slices through ResNet-18, its maps through 3D convolutions.

    As published, a triplet is an image of three channels with one window, as pretrained weights
    require. These weights are random, so a triplet has all windows of its slices.

    Args:
        channels: number of channels of a slice.
        shape: (Z, Y, X) of a volume. Slices beyond whole triplets, at the top, are ignored.
        findings: number of findings.
    """

    def __init__(self, channels: int, shape: tuple[int, int, int], findings: int) -> None:
        super().__init__()
        self.triplets = shape[0] // TRIPLET
        self.network = timm.create_model(
            "resnet18", in_chans=TRIPLET * channels, num_classes=0, global_pool=""
        ).to(memory_format=torch.channels_last)
        layers, width = [], self.network.num_features
        for narrower in WIDTHS:
            convolution = nn.Conv3d(width, narrower, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm3d(narrower), nn.ReLU()]
            width = narrower
        self.volume = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            found = self.eval()._features(torch.zeros(1, shape[0], channels, *shape[1:]))
        self.train()
        self.hidden = nn.Sequential(nn.Linear(found.shape[1], HIDDEN), nn.ReLU())
        self.head = nn.Linear(HIDDEN, findings)

    def _features(self, shown: Tensor) -> Tensor:
        """Map (N, Z, C, Y, X) to (N, D)."""
        used = shown[:, : self.triplets * TRIPLET].unflatten(1, (self.triplets, TRIPLET))
        images = used.flatten(2, 3).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        maps = self.network(images).unflatten(0, (len(shown), self.triplets))
        return self.volume(maps.transpose(1, 2))

    def forward(self, shown: Tensor) -> Tensor:
        return self.head(self.hidden(self._features(shown)))
