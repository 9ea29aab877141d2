"""What a detector predicted, as ``cellkit view`` draws it: the cells that ``postprocess`` makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cellkit.cli import inputs
from cellkit.cli.inputs import STREAM, HeldLabels
from cellkit.data.layouts import LabelRef
from cellkit.data.predicted_objects import HeldObjects, ObjectLabels
from cellkit.data.truth import Truth, check_shape
from cellkit.errors import UsageError
from cellkit.io.label_image import whole
from cellkit.stages.outcomes import Failure


@dataclass(frozen=True, eq=False)
class ObjectCells:
    """The objects of one image, flattened by the settings of decoding that lie beside them.

    Attributes:
        objects: where they are kept.
    """

    objects: ObjectLabels | HeldObjects

    @property
    def name(self) -> str:
        """That of the objects."""
        return self.objects.name

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """Their cells; see :class:`cellkit.data.truth.LabelRef`.

        Raises:
            InputError: the file or a mask is damaged, or they are those of an image of another shape.
        """
        from cellkit.stages.postprocessing import flattened  # torch only where there are objects

        prediction = self.objects.prediction
        check_shape(self.name, prediction.shape, shape)
        cells = flattened(prediction)
        return Truth(labels=whole(cells), scores=cells.scores, pixel_size=cells.pixel_size)


def as_cells(found: Mapping[str, LabelRef]) -> dict[str, LabelRef]:
    """Labels by key, where objects of a detector are replaced by the cells that they become."""
    return {key: ObjectCells(ref) if isinstance(ref, ObjectLabels) else ref for key, ref in found.items()}


def check_images(image: str, *, are_objects: bool) -> None:
    """Refuse objects where images are wanted: what is in such a file is no picture.

    Raises:
        UsageError: these are objects.
    """
    if are_objects:
        problem = "holds the objects of a detector, which are drawn on their images"
        raise UsageError(image, problem, "name the images first, then the objects")


def streamed() -> Iterator[tuple[str, LabelRef]]:
    """Key and labels of each member of the tar stream on stdin.

    Raises:
        InputError: one that cannot be read.
    """
    for item in inputs.predicted_objects([STREAM], {}):
        if isinstance(item, Failure):
            raise item.error
        if isinstance(item, HeldObjects):
            yield item.prediction.key, ObjectCells(item)
        else:
            yield item.key, HeldLabels(item)
