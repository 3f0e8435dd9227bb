"""MONAI's 3D DenseNet-121."""

from monai.networks.nets.densenet import DenseNet121
from torch import Tensor, nn
from torch.nn import functional

AIR = -1.0  # the lowest of every window
LEAST = 32  # voxels along each axis: it halves them five times


class DenseNet3d(nn.Module):
    """The whole volume at once, its windows as channels; air is added where it is too small.

    Args:
        channels: of a slice.
        shape: of a volume, (Z, Y, X).
        findings: how many.
    """

    def __init__(self, channels: int, shape: tuple[int, int, int], findings: int) -> None:
        super().__init__()
        z, y, x = (max(LEAST - count, 0) for count in shape)
        self.margins = x // 2, x - x // 2, y // 2, y - y // 2, z // 2, z - z // 2
        self.network = DenseNet121(spatial_dims=3, in_channels=channels, out_channels=findings)
        self.head = self.network.class_layers.out

    def forward(self, shown: Tensor) -> Tensor:
        return self.network(functional.pad(shown.transpose(1, 2), self.margins, value=AIR))
