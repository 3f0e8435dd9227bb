"""MONAI's 3D DenseNet-121."""

from monai.networks.nets.densenet import DenseNet121
from torch import Tensor, nn


class DenseNet3d(nn.Module):
    """The whole volume at once, its windows as channels.

    Args:
        channels: of a slice.
        shape: of a volume, (Z, Y, X); any serves.
        findings: how many.
    """

    def __init__(self, channels: int, shape: tuple[int, int, int], findings: int) -> None:  # noqa: ARG002
        super().__init__()
        self.network = DenseNet121(spatial_dims=3, in_channels=channels, out_channels=findings)
        self.head = self.network.class_layers.out

    def forward(self, shown: Tensor) -> Tensor:
        return self.network(shown.transpose(1, 2))
