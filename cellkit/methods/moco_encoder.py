"""The part of any network that contrastive learning trains: from an image to one vector; the rest stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from cellkit.errors import UsageError
from cellkit.networks import Encoding, Partitioned
from cellkit.networks.detector import Detector
from cellkit.networks.resnet import Trunk

PROBE = 64  # pixels a side of the image that tells how many features there are


class ImageEncoder(nn.Module):
    """The mean over the deepest map of a network: (B, channels, H, W) -> (B, D) float32.

    Of a detector that is the trunk's res5, of a dense network its latent code. Neither pyramid and heads nor a decoder
    is computed, or learned.

    Args:
        network: its weights are shared, not copied.

    Raises:
        UsageError: the network has no encoder that works alone.
    """

    ground: Tensor
    spread: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.body: nn.Module
        if isinstance(network, Detector):
            self.body, self.channels = network.backbone.bottom_up, network.spec.channels
            ground, spread = network.ground, network.spread
        elif isinstance(network, Encoding) and isinstance(network, Partitioned):
            self.body = cast(nn.Module, network)
            self.channels = int(cast(int, self.body.channels))
            ground, spread = torch.zeros(1), torch.ones(1)
        else:
            problem = f"{type(network).__name__} has no encoder that learns alone"
            raise UsageError("--network", problem, "take a detector or a U-Net")
        place = next(network.parameters()).device
        self.register_buffer("ground", ground.to(place), persistent=False)
        self.register_buffer("spread", spread.to(place), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, D)."""
        x = (x - self.ground) / self.spread
        deepest = self.body(x)[-1] if isinstance(self.body, Trunk) else cast(Encoding, self.body).encode(x)
        pooled: Tensor = deepest.mean((2, 3), dtype=torch.float32)
        return pooled

    def parts(self) -> Iterator[nn.Module]:
        """All modules of the encoder, those inside others, too."""
        beside = {id(module) for part in self._beside() for module in part.modules()}
        inner = self.body.modules() if isinstance(self.body, Trunk) else list(self.body.modules())[1:]
        yield from (module for module in inner if id(module) not in beside)

    def weights(self) -> list[nn.Parameter]:
        """The parameters of the encoder, those that are frozen, too."""
        return list(dict.fromkeys(p for module in self.parts() for p in module.parameters(recurse=False)))

    def measure(self, *, measuring: bool) -> None:
        """Let batch normalisations follow their batches, or make constants of the statistics that they have."""
        for module in self.parts():
            module.training = measuring

    def copied(self) -> ImageEncoder:
        """The same encoder with weights of its own, which have no gradient, and without what lies beside it."""
        beside = {id(module) for module in self._beside()}
        memo = {key: nn.Identity() for key in beside}  # what is not copied
        other = copy.deepcopy(self, memo)
        return other.requires_grad_(False)

    @torch.no_grad()
    def features(self) -> int:
        """How many numbers it tells of an image (D)."""
        probe = torch.zeros(1, self.channels, PROBE, PROBE, device=self.ground.device)
        return int(self.copied().eval()(probe).shape[1])

    def _beside(self) -> list[nn.Module]:
        """Modules of a dense network that come after the latent code."""
        return [] if isinstance(self.body, Trunk) else cast(Partitioned, self.body).parts()["decoder"]
