"""Results in the form of the Cell Tracking Challenge: 01_RES/maskTTT.tif and res_track.txt.

Format: https://celltrackingchallenge.net, "Annotations and submission of results".
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellkit.errors import UsageError
from cellkit.io.label_image import LARGEST_UINT16

FRAME_KEY = re.compile(r"(?:(\d{2,})_)?t(\d{3,})")
TRACKS = "res_track.txt"


def frame_places(keys: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Sequence and number of the frame of each image: of t013 or 02_t013 as they say, of others from 0 in order."""
    found = {key: match for key in keys if (match := FRAME_KEY.fullmatch(key))}
    if len(found) == len(keys):
        places = {key: (match[1] or "01", int(match[2])) for key, match in found.items()}
        if len(set(places.values())) == len(keys):
            return places
    return {key: ("01", number) for number, key in enumerate(keys)}


def frame_file(sequence: str, number: int, frames: int) -> str:
    """``01_RES/mask007.tif``; four digits where a sequence has more than 1000 frames."""
    return f"{sequence}_RES/mask{number:0{3 if frames <= 1000 else 4}d}.tif"


def encode_frame(name: str, labels: NDArray[np.int32], before: int) -> tuple[bytes, int]:
    """A frame whose objects are numbered on from those of the frames before, without gaps: each is its own track.

    Args:
        name: of the image, for messages.
        labels: (H, W).
        before: largest label of the frames before.

    Returns:
        the TIFF, and the largest label so far.

    Raises:
        UsageError: more labels than 16 bits can tell.
    """
    present = np.unique(labels)
    present = present[present > 0]
    last = before + present.size
    if last > LARGEST_UINT16:
        problem = f"with it there are {last} objects in the sequence; a CTC result has at most {LARGEST_UINT16}"
        raise UsageError(name, problem, "convert fewer frames at a time")
    numbers = np.searchsorted(present, labels) + 1 + before
    memory = io.BytesIO()
    tifffile.imwrite(memory, np.where(labels > 0, numbers, 0).astype(np.uint16), compression="zlib", metadata=None)
    return memory.getvalue(), last


def encode_tracks(frames: Sequence[tuple[int, int, int]]) -> bytes:
    """``res_track.txt``: a line ``label begin end parent`` per object; all end in the frame in which they begin.

    Args:
        frames: number of each frame, its first label and the one after its last.
    """
    lines = [f"{label} {number} {number} 0\n" for number, first, end in frames for label in range(first, end)]
    return "".join(lines).encode("ascii")
