"""measure --styles: images -> the style vector of each, with reading and network overlapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellkit.engine.device import Device
from cellkit.errors import InputError
from cellkit.io.sources import Source
from cellkit.networks import Styled
from cellkit.overlap import ahead
from cellkit.stages.model import Model
from cellkit.stages.outcomes import Failure, never_done
from cellkit.stages.prediction import Command, PredictSettings, Prepared, read_all
from cellkit.stages.styles_contrast import contrast_crops, unlabelled_crops
from cellkit.stages.styles_vectors import style_of, styled

__all__ = ["StyledImage", "contrast_crops", "embed", "unlabelled_crops"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StyledImage:
    """The style of one image.

    Attributes:
        key: name of the image.
        source: the image as the user named it.
        style: (S,) float32 of unit length; zeros where the network saw nothing at all.
    """

    key: str
    source: str
    style: NDArray[np.float32]


def embed(sources: Iterable[Source], model: Model, *, diameter: float | None = None) -> Iterator[StyledImage | Failure]:
    """The styles of images, in their order; channels, normalisation and scale are those of prediction.

    Args:
        sources: what the user named.
        model: network and preprocessing.
        diameter: typical cell diameter in pixels of the images, or None: that of the images that the model was tuned
            for, else the model's own scale.

    Yields:
        A style per image, or a failure for one that could not be read.

    Raises:
        ModelError: the network has no style.
        UsageError: a diameter that no image can have.
        MemoryLimitError: not even one tile fits into memory.
    """
    network = styled(model.network, model.name)
    command = Command(verb="measure", model=model, settings=PredictSettings(diameter=diameter))
    for item in ahead(read_all(sources, command, never_done)):
        if isinstance(item, Prepared):
            yield _embedded(item, network, model.device)
        elif isinstance(item, Failure):
            yield item


def _embedded(item: Prepared, network: Styled, device: Device) -> StyledImage | Failure:
    key, source = item.image.key, item.image.source
    try:
        return StyledImage(key=key, source=source, style=style_of(network, item.pixels, device))
    except InputError as error:  # of a large image windows are read only now
        return Failure(key=key, source=source, error=error)
