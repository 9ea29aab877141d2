"""Networks by name: what turns pixels into maps.

To add one: write its module, add its line to :data:`NETWORKS` and its name to ``config.NetworkName``, and a test.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from cellkit.config import NetworkName, NetworkSpec, TrainedPartName
from cellkit.networks.mini_unet import MiniUNet
from cellkit.networks.residual_unet import Output, ResidualUNet, StyleUNet

__all__ = ["NETWORKS", "Output", "Partitioned", "Styled", "build", "initialise", "margin_of"]


class NetworkType(Protocol):
    """How a network is made from its specification."""

    def __call__(self, channels: int, outputs: int, widths: tuple[int, ...]) -> nn.Module:
        """A module from (B, channels, H, W) to :class:`Output`."""


@runtime_checkable
class Styled(Protocol):
    """A network that tells the style of an image."""

    def styles(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, S), equal to the style of a whole pass, by the encoder alone."""


@runtime_checkable
class Partitioned(Protocol):
    """A network of which a part can be trained alone."""

    def parts(self) -> dict[TrainedPartName, list[nn.Module]]:
        """The modules of each part: ``head``, ``decoder`` (with the head) and ``all``."""


NETWORKS: dict[NetworkName, NetworkType] = {
    "unet": ResidualUNet,
    "style-unet": StyleUNet,
    "mini-unet": MiniUNet,
}


def margin_of(network: nn.Module) -> int:
    """Pixels from the edge of its input in which a network sees mirrored image for lack of another."""
    return network.margin if isinstance(network, MiniUNet) else 0


def build(spec: NetworkSpec) -> nn.Module:
    """The network of a specification, with torch's default weights."""
    return NETWORKS[spec.name](spec.channels, spec.outputs, spec.widths)


def initialise(network: nn.Module) -> nn.Module:
    """Kaiming-normal weights and zero biases for every convolution (He et al. 2015), in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
