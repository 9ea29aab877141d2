"""Networks by name: what turns pixels into maps, or finds objects.

To add one: write its module, add its line to :data:`NETWORKS`, or to :data:`DETECTORS` if it finds objects, and its
name to ``config.NetworkName``, and a test.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from cellkit.config import NetworkName, NetworkSpec, TrainedPartName
from cellkit.errors import ModelError
from cellkit.networks.batch_unet import BatchUNet, TransposedBatchUNet
from cellkit.networks.detector import Detector
from cellkit.networks.detector_spec import DetectorSpec
from cellkit.networks.ensemble import Ensemble
from cellkit.networks.fcrn import FCRN
from cellkit.networks.light_unet import LightUNet
from cellkit.networks.mini_unet import MiniUNet
from cellkit.networks.residual_unet import Output, ResidualUNet, StyleUNet

__all__ = [
    "DETECTORS",
    "NETWORKS",
    "Detector",
    "Encoding",
    "Ensemble",
    "Output",
    "Partitioned",
    "Styled",
    "build",
    "initialise",
    "margin_of",
    "set_affine",
    "stride_of",
]


GRID = 8  # pixels, of tiles at least


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
class Encoding(Protocol):
    """A network that tells the latent code of an image."""

    def encode(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, D, h, w), equal to the latent code of a whole pass, by the encoder alone."""


@runtime_checkable
class Partitioned(Protocol):
    """A network of which a part can be trained alone."""

    def parts(self) -> dict[TrainedPartName, list[nn.Module]]:
        """The modules of each part: ``head``, ``decoder`` (with the head) and ``all``."""


NETWORKS: dict[NetworkName, NetworkType] = {
    "unet": ResidualUNet,
    "style-unet": StyleUNet,
    "mini-unet": MiniUNet,
    "fcrn": FCRN,
    "light-unet": LightUNet,
    "batch-unet": BatchUNet,
    "batch-unet-transposed": TransposedBatchUNet,
}
"""Those that give a map for each pixel."""

DETECTORS: dict[NetworkName, type[Detector]] = {"detector": Detector}
"""Those that find objects; made from the settings of their specification."""


def margin_of(network: nn.Module) -> int:
    """Pixels from the edge of its input in which a network sees mirrored image for lack of another."""
    if isinstance(network, Ensemble):
        return max(margin_of(member) for member in network.members)
    return network.margin if isinstance(network, MiniUNet) else 0


def stride_of(network: nn.Module | Styled) -> int:
    """Pixels of the grid that tiles of an image begin on, so that a network sees them as it sees the whole."""
    members: Iterable[object] = network.members if isinstance(network, Ensemble) else [network]
    return math.lcm(GRID, *(int(getattr(member, "stride", 1)) for member in members))


def build(spec: NetworkSpec) -> nn.Module:
    """The network of a specification, with torch's default weights; of an ensemble, one of its members.

    Raises:
        ModelError: settings that no detector has.
    """
    if spec.name in DETECTORS:
        return DETECTORS[spec.name](_detector_spec(spec))
    return set_affine(NETWORKS[spec.name](spec.channels, spec.outputs, spec.widths), affine=spec.affine)


def _detector_spec(spec: NetworkSpec) -> DetectorSpec:
    try:
        found = DetectorSpec.from_dict(spec.settings)
    except TypeError as error:
        raise ModelError(
            spec.name, f"has settings that this cellkit does not know: {error}", "upgrade cellkit"
        ) from error
    if found.channels != spec.channels:
        problem = f"takes {found.channels} channels by its settings, and {spec.channels} by its specification"
        raise ModelError(spec.name, problem, "both must be the same")
    return found


def set_affine(network: nn.Module, *, affine: bool, gamma: float = 1.0) -> nn.Module:
    """Give each batch normalisation a scale and a shift to learn, or take them away, in place.

    Running statistics stay, and so do a scale and a shift that are there already. What is given or taken is a parameter
    of the network: optimisers are made afterwards, and ``NetworkSpec.affine`` of its checkpoint says which it is.

    Args:
        network: on any device.
        affine: whether they have a scale and a shift.
        gamma: first value of a scale that is given; the first shift is 0. Fine-tuning by Dawoud et al. begins with 0.1.
    """
    example = next(network.parameters())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine != affine:
            module.affine = affine
            for name, value in (("weight", gamma), ("bias", 0.0)):
                first = nn.Parameter(example.detach().new_full((module.num_features,), value)) if affine else None
                module.register_parameter(name, first)
    return network


def initialise(network: nn.Module) -> nn.Module:
    """Kaiming-normal weights and zero biases for every convolution (He et al. 2015), in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.ConvTranspose2d):  # of kernel = stride: a pixel comes from one pixel per channel
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.in_channels))
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return network
