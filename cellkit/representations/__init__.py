"""Representations by name: how labels become targets, and predictions become cells.

To add one: write its module, add its line to :data:`REPRESENTATIONS`, or to :data:`OBJECTS` if its networks give
objects and no dense maps, and its name to ``config.RepresentationName``, and a test.
"""

from __future__ import annotations

from cellkit.config import RepresentationName
from cellkit.errors import UsageError
from cellkit.representations.border import BORDER
from cellkit.representations.boxes import BOXES
from cellkit.representations.embedding import EMBEDDING
from cellkit.representations.flow import FLOW
from cellkit.representations.hover import HOVER
from cellkit.representations.mask import MASK
from cellkit.representations.representation import Decodable, DecodeSettings, ObjectRepresentation, Representation
from cellkit.representations.star import STAR

__all__ = [
    "OBJECTS",
    "REPRESENTATIONS",
    "Decodable",
    "DecodeSettings",
    "ObjectRepresentation",
    "Representation",
    "representation_of",
]


class _Dense(dict[RepresentationName, Representation]):
    """Whoever needs maps, and is given the name of a representation that has none, learns it in one line."""

    def __missing__(self, name: RepresentationName) -> Representation:
        raise UsageError("representation", f"'{name}' has no dense maps", f"choose from {', '.join(self)}")


REPRESENTATIONS: dict[RepresentationName, Representation] = _Dense(
    flow=FLOW,
    mask=MASK,
    border=BORDER,
    hover=HOVER,
    embedding=EMBEDDING,
    star=STAR,
)
"""Those of dense maps. A name that is none of them raises UsageError."""

OBJECTS: dict[RepresentationName, ObjectRepresentation] = {"boxes": BOXES}
"""Those of networks that find objects."""


def representation_of(name: RepresentationName) -> Representation | ObjectRepresentation:
    """The representation of that name, of whatever kind."""
    return OBJECTS[name] if name in OBJECTS else REPRESENTATIONS[name]
