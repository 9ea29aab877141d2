"""cellkit measure."""

from __future__ import annotations

from cellkit.cli import measure_options as m
from cellkit.cli import options as o


def measure(
    labels: m.Labels,
    output: m.Table,
    image: m.Image = None,
    crops: m.Crops = None,
    crop_background: m.CropBackground = "keep",
    crop_size: m.CropSize = None,
    pixel_size: m.PixelSize = None,
    axes: o.Axes = None,
    channels: o.Channels = None,
    plane: o.Plane = None,
    allow_missing: m.AllowMissing = False,
    workers: o.Workers = 2,
    on_exists: o.OnExists = "skip",
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Measure each cell: a table with a row per cell.

    Columns are image and label, as they are in the label file; score, where the file has scores; area, centroid, box
    (first row and column, and those after the last), perimeter, equivalent diameter, eccentricity, solidity and
    whether the cell touches the border of the image, in pixels; the same in micrometres (_um, _um2) where the pixel
    size is known; with --image the mean, least and largest intensity and its standard deviation in each channel
    (intensity_mean_DAPI; channels without a name have their number from 0). All images go into one table; what is not
    known of a cell is empty. Images and labels are matched by name.

    --crops writes each cell as DIR/IMAGE_LABEL.tif, the label as five digits or more.

    With --on-exists skip an output that would be the same stays, and one that would be another is an error.
    """
    from cellkit.cli import measure_inputs, measure_sinks, reporting
    from cellkit.stages.measuring import measure as measured

    reporting.set_up_logging("measure", verbose, quiet)
    measure_inputs.check(pixel_size, image, crops, crop_size)
    found = measure_inputs.find(
        labels, image, measure_inputs.read_options(axes, channels, plane), optional=allow_missing
    )
    cut = measure_sinks.CropSettings(crops, size=crop_size, blank=crop_background == "blank", workers=workers)
    with measure_sinks.opened(output, cut, on_exists, found.files) as sink:
        outcomes = measured(found.pairs, pixel_size=pixel_size, workers=workers)
        tally = reporting.deliver(outcomes, sink, total=found.count, quiet=quiet)
    tally.check(labels)
