"""MONAI's 3D DenseNet-121."""

from monai.networks.nets.densenet import DenseNet121
from torch import Tensor, nn
from torch.nn import functional

AIR = -1.0  # lowest value of every window
MIN_SIZE = 32  # voxels along each axis: the network halves them five times


class DenseNet3d(nn.Module):
    """3D DenseNet on the whole volume with windows as channels; small volumes are padded with air.

    Args:
        channels: number of channels of a slice.
        shape: (Z, Y, X) of a volume.
        findings: number of findings.
    """

    def __init__(self, channels: int, shape: tuple[int, int, int], findings: int) -> None:
        super().__init__()
        z, y, x = (max(MIN_SIZE - count, 0) for count in shape)
        self.padding = x // 2, x - x // 2, y // 2, y - y // 2, z // 2, z - z // 2
        self.network = DenseNet121(spatial_dims=3, in_channels=channels, out_channels=findings)
        self.head = self.network.class_layers.out

    def forward(self, shown: Tensor) -> Tensor:
        return self.network(functional.pad(shown.transpose(1, 2), self.padding, value=AIR))
