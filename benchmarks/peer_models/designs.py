"""Registry of the peers, with their slices and volumes per step."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from peer_models.ct_net import CtNet
from peer_models.single_slices import SingleSlices


@dataclass(frozen=True)
class Peer:
    build: Callable[[int, tuple[int, int, int], int], nn.Module]  # channels, shape, findings
    slices: int | None  # slices per volume and step; None for all
    batch_size: int  # volumes


def dense_net(channels: int, shape: tuple[int, int, int], findings: int) -> nn.Module:
    from peer_models.dense_net import DenseNet3d  # MONAI takes seconds to import

    return DenseNet3d(channels, shape, findings)


PEERS = {
    "slices": Peer(SingleSlices, slices=1, batch_size=36),
    "ct_net": Peer(CtNet, slices=None, batch_size=4),
    "dense_net": Peer(dense_net, slices=None, batch_size=4),
}
