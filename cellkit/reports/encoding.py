"""Pictures inside a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST_PNG_BYTES = 600_000  # noise does not compress: beyond this a picture is a JPEG
JPEG_QUALITY = 82
FULL, HALVED = 0, 2  # resolution of the colour in a JPEG


def data_url(picture: NDArray[np.uint8], *, lined: bool = True) -> str:
    """A picture (H, W, 3) as ``data:`` URL: PNG, or JPEG where a PNG is large.

    ``lined``: it has coloured lines of one pixel, which need colour in full resolution.
    """
    image = Image.fromarray(np.ascontiguousarray(picture))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    kind = "png"
    if buffer.tell() > MOST_PNG_BYTES:
        buffer, kind = io.BytesIO(), "jpeg"
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=FULL if lined else HALVED)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
