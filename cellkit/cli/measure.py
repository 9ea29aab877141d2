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
    styles: m.Styles = False,
    model: m.StyleModel = None,
    picture: m.Picture = None,
    diameter: o.Diameter = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    seed: o.Seed = 0,
    workers: o.Workers = 2,
    on_exists: o.OnExists = "skip",
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Measure each cell: a table with a row per cell; or the style of each image.

    Columns are image and label, as they are in the label file; score, where the file has scores; area, centroid, box
    (first row and column, and those after the last), perimeter, equivalent diameter, eccentricity, solidity and
    whether the cell touches the border of the image, in pixels; the same in micrometres (_um, _um2) where the pixel
    size is known; with --image the mean, least and largest intensity and its standard deviation in each channel
    (intensity_mean_DAPI; channels without a name have their number from 0). All images go into one table; what is not
    known of a cell is empty. Images and labels are matched by name.

    --crops writes each cell as DIR/IMAGE_LABEL.tif, the label as five digits or more.

    --styles takes images, several folders or files too, and writes a row per image: image, dataset (the folder) and
    style_0, style_1, ..., what the deepest layer of the encoder sees on average, as a vector of unit length. Images of
    one kind lie close together; styles of two models cannot be compared. --picture draws all images on a plane by
    t-SNE, in the colours of their datasets; its axes have no unit, and distances between groups mean little.
    --diameter, --device, --precision and --seed are for styles alone.

    With --on-exists skip an output that would be the same stays, and one that would be another is an error.
    """
    from cellkit.cli import inputs, measure_cells, measure_files, measure_styles, reporting

    reporting.set_up_logging("measure", verbose, quiet)
    of_cells = measure_cells.CellRequest(image, crops, crop_background, crop_size, pixel_size, allow_missing)
    of_images = measure_styles.StyleRequest(model, picture, diameter, device, precision, seed)
    measure_styles.check(styles, labels, of_cells, of_images)
    reading = inputs.read_options(axes, channels, plane)
    destination = measure_files.Destination(output, on_exists, workers, quiet)
    if styles:
        return measure_styles.write(labels, reading, of_images, destination)
    measure_cells.write(labels[0], reading, of_cells, destination)
