"""Segment cells in microscope images when almost no annotation is at hand.

Importing this package is light: torch is imported only when something is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__version__ = "0.1.0"


def segment(
    image: NDArray[Any], model: str = "nuclei", *, diameter: float | None = None, device: str = "auto"
) -> NDArray[np.int32]:
    """Segment the cells of one image.

    For many images take :mod:`cellkit.stages`, which loads the model once.

    Args:
        image: (H, W), (C, H, W) or, with three or four channels last, (H, W, C); any real type.
        model: a bundled model's name or the path of a checkpoint.
        diameter: typical cell diameter in pixels, or None: the model's own scale.
        device: auto, cpu, cuda, cuda:N or mps.

    Returns:
        (H, W): 0 is background, cells are numbered from 1 in raster order.

    Raises:
        CellkitError: the model cannot be loaded, or does not fit the image.
    """
    from cellkit.stages.arrays import segment_array

    return segment_array(image, model, diameter=diameter, device=device)
