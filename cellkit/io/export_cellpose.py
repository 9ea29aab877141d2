"""Cellpose's NAME_seg.npy, as its window opens it."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from cellkit.io.label_image import stored_dtype


def encode_seg_npy(image: str, labels: NDArray[np.int32], boundary: NDArray[np.int32], history: str = "") -> bytes:
    """A pickled dictionary with the keys ``masks``, ``outlines``, ``filename`` and what else Cellpose asks for.

    Format: https://cellpose.readthedocs.io/en/latest/outputs.html#seg-npy-output.

    Args:
        image: file of the image; where there is none of this name, Cellpose looks for it beside the file.
        labels: (H, W).
        boundary: (H, W) the labels on the outlines, else 0.
        history: kept under ``cellkit``.
    """
    largest = int(labels.max(initial=0))
    areas = np.unique(labels[labels > 0], return_counts=True)[1]
    diameter = float(2 * np.sqrt(np.median(areas) / np.pi)) if areas.size else float("nan")
    content = {
        "masks": labels.astype(stored_dtype(largest)),
        "outlines": boundary.astype(stored_dtype(largest)),
        "filename": image,
        "chan_choose": [0, 0],
        "ismanual": np.zeros(largest, bool),
        "diameter": diameter,
        "cellkit": history,
    }
    if areas.size:
        content["est_diam"] = diameter  # its window shows it as a number, so that None would stop it
    memory = io.BytesIO()
    np.save(memory, np.array(content, dtype=object), allow_pickle=True)
    return memory.getvalue()
