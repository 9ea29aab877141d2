"""The score of a network on labelled images that training does not see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cellkit.config import Preprocessing, Spec
from cellkit.data.examples import load_pair
from cellkit.data.layouts import Pair
from cellkit.engine.device import Device
from cellkit.engine.inference import Tiling, infer
from cellkit.metrics import ImageReport, score, summarise
from cellkit.overlap import ordered_map
from cellkit.representations import Representation

VALIDATION_WORKERS = 8  # decoding threads; the network waits for none of them


@dataclass(frozen=True, kw_only=True)
class Held:
    """One image kept for validation, as the network sees it, with its truth."""

    key: str
    pixels: NDArray[np.float32]
    labels: NDArray[np.int32]


class Validation:
    """Scores a network: prediction, decoding with the default settings, ``ap_dsb``.

    Args:
        pairs: labelled images, read once and kept.
        preprocessing: as for training.
        representation: decodes the maps.
        settings: of decoding.
        device: where the network runs.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        preprocessing: Preprocessing,
        representation: Representation,
        settings: Spec,
        device: Device,
    ) -> None:
        self.representation = representation
        self.settings = settings
        self.device = device
        self.held = [_hold(pair, preprocessing) for pair in pairs]

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Means over images: ``ap_dsb`` (over .50:.95) and ``ap_dsb@0.5``."""
        arrays = ((held, held.pixels) for held in self.held)
        maps = infer(network, arrays, self.device, Tiling())
        scores = ordered_map(self._score, maps, VALIDATION_WORKERS)
        means = summarise(list(scores)).mean
        return {name: means[name] for name in ("ap_dsb", "ap_dsb@0.5")}

    def _score(self, item: tuple[Held, NDArray[np.float16]]) -> ImageReport:
        held, maps = item
        return score(held.labels, self.representation.decode(maps, self.settings).labels, key=held.key, surfaces=False)


def _hold(pair: Pair, preprocessing: Preprocessing) -> Held:
    pixels, labels = load_pair(pair, preprocessing)
    return Held(key=pair.key, pixels=pixels, labels=labels)
