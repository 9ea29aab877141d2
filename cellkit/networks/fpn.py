"""Feature pyramid: the maps of a trunk's stages, each with the same number of channels (Lin et al. 2017).

As in detectron2: a normalisation after each convolution, no ReLU, nearest neighbours on the way down, sums, and a
sixth level of every second pixel of the fifth.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cellkit.errors import ModelError
from cellkit.networks.detector_spec import NormName
from cellkit.networks.resnet import Trunk
from cellkit.networks.resnet_layers import NormedConv

STRIDE = 32  # pixels of the image in one of res5


class FPN(nn.Module):
    """Trunk and pyramid: (B, channels, H, W) -> P2 to P6.

    Args:
        bottom_up: the trunk.
        channels: of each level.
        norm: name of the normalisation.
    """

    def __init__(self, bottom_up: Trunk, channels: int = 256, *, norm: NormName = "bn") -> None:
        super().__init__()
        self.bottom_up = bottom_up
        for level, width in enumerate(bottom_up.widths, 2):
            self.add_module(f"fpn_lateral{level}", _plain(NormedConv(width, channels, norm=norm)))
            self.add_module(f"fpn_output{level}", _plain(NormedConv(channels, channels, 3, norm=norm)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, channels, H, W) -> P2 (B, 256, H / 4, W / 4), P3, P4, P5 (B, 256, H / 32, W / 32), P6 (half of that).

        Raises:
            ModelError: sides that 32 does not divide: levels would not lie on each other.
        """
        if x.shape[2] % STRIDE or x.shape[3] % STRIDE:
            size = f"{x.shape[2]} x {x.shape[3]} pixels"
            raise ModelError("network", f"a pyramid does not fit {size}", f"pad images to multiples of {STRIDE} pixels")
        return self.pyramid(self.bottom_up(x))

    def pyramid(self, stages: list[Tensor]) -> list[Tensor]:
        """The maps of the trunk, res2 to res5 -> P2 to P6."""
        levels: list[Tensor] = []
        above: Tensor | None = None
        for level, stage in reversed(list(enumerate(stages, 2))):
            lateral: Tensor = self.get_submodule(f"fpn_lateral{level}")(stage)
            above = lateral if above is None else lateral + F.interpolate(above, scale_factor=2, mode="nearest")
            levels.insert(0, self.get_submodule(f"fpn_output{level}")(above))
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]


def _plain(conv: NormedConv) -> NormedConv:
    nn.init.kaiming_uniform_(conv.weight, a=1)  # no ReLU follows (Xavier over the incoming connections)
    return conv
