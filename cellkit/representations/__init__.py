"""Representations by name: how labels become targets and maps become cells.

To add one: write its module, add its line to :data:`REPRESENTATIONS` and its name to ``config.RepresentationName``,
and a test.
"""

from __future__ import annotations

from cellkit.config import RepresentationName
from cellkit.representations.border import BORDER
from cellkit.representations.embedding import EMBEDDING
from cellkit.representations.flow import FLOW
from cellkit.representations.hover import HOVER
from cellkit.representations.mask import MASK
from cellkit.representations.representation import DecodeSettings, Representation
from cellkit.representations.star import STAR

__all__ = ["REPRESENTATIONS", "DecodeSettings", "Representation"]

REPRESENTATIONS: dict[RepresentationName, Representation] = {
    "flow": FLOW,
    "mask": MASK,
    "border": BORDER,
    "hover": HOVER,
    "embedding": EMBEDDING,
    "star": STAR,
}
