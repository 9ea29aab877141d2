"""``cellkit measure`` of cells: from labels and images to the table and the crops."""

from __future__ import annotations

from dataclasses import dataclass

from cellkit.cli import measure_inputs, measure_sinks, reporting
from cellkit.cli.measure_files import Destination
from cellkit.cli.measure_options import BackgroundName
from cellkit.io.images import ReadOptions
from cellkit.stages.measuring import measure


@dataclass(frozen=True)
class CellRequest:
    """What is measured of cells.

    Attributes:
        image: their image or folder of images, or None.
        crops: folder of crops, or None.
        background: what is around the cell in its crop.
        crop_size: side of crops in pixels, or None.
        pixel_size: micrometres per pixel, or None.
        allow_missing: labels may have no image, and images no labels.
    """

    image: str | None
    crops: str | None
    background: BackgroundName
    crop_size: int | None
    pixel_size: float | None
    allow_missing: bool

    def given(self) -> list[str]:
        """The options that the user gave."""
        values = {
            "--image": self.image is not None,
            "--crops": self.crops is not None,
            "--crop-background": self.background != "keep",
            "--crop-size": self.crop_size is not None,
            "--pixel-size": self.pixel_size is not None,
            "--allow-missing": self.allow_missing,
        }
        return [name for name, is_given in values.items() if is_given]


def write(labels: str, reading: ReadOptions, request: CellRequest, destination: Destination) -> None:
    """Measure the cells of all images; write the table, and the crops that are wanted.

    Args:
        labels: as the user named them.
        reading: how images are read.
        request: what is measured.
        destination: where the table goes.

    Raises:
        CellkitError: an image at least could not be done, or none of what is wanted.
    """
    measure_inputs.check(request.pixel_size, request.image, request.crops, request.crop_size)
    found = measure_inputs.find(labels, request.image, reading, optional=request.allow_missing)
    workers = destination.workers
    blank = request.background == "blank"
    cut = measure_sinks.CropSettings(request.crops, size=request.crop_size, blank=blank, workers=workers)
    with measure_sinks.opened(destination.output, cut, destination.on_exists, found.files) as sink:
        outcomes = measure(found.pairs, pixel_size=request.pixel_size, workers=workers)
        tally = reporting.deliver(outcomes, sink, total=found.count, quiet=destination.quiet)
    tally.check(labels)
