"""cellkit view."""

from __future__ import annotations

from cellkit.cli import options as o
from cellkit.cli import view_options as v


def view(
    image: v.Image,
    output: v.Picture,
    labels: v.Labels = None,
    truth: v.Truth = None,
    style: v.Style = "outline",
    size: v.Size = None,
    contrast: v.Contrast = "0.5,99.5",
    pixel_size: v.PixelSize = None,
    axes: o.Axes = None,
    channels: o.Channels = None,
    plane: o.Plane = None,
    suffix: v.Suffix = ".png",
    allow_missing: v.AllowMissing = False,
    workers: o.Workers = 2,
    on_exists: o.OnExists = "skip",
    as_json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Draw images with their cells, or the maps of a prediction.

    Cells are outlined or filled, each in a colour of its own that is the same in every picture; cells that touch have
    different ones. A scale bar is drawn where the pixel size is known. Of several images, images and labels are
    matched by name.
    """
    from cellkit.cli import reporting, view_inputs, view_sinks

    reporting.set_up_logging("view", verbose, quiet)
    reporting.check_json(as_json, output)
    settings = view_inputs.settings(style, size, contrast, pixel_size)
    views = view_inputs.find(image, view_inputs.read_options(axes, channels, plane))
    both = view_inputs.annotated(views, labels, truth, optional=allow_missing)
    plan = view_sinks.plan(output, views, size)
    with view_sinks.opened(output, suffix, on_exists, plan, view_inputs.files(views, both)) as sink:
        outcomes = view_inputs.drawn(views, both, plan, settings, workers, sink.is_done)
        tally = reporting.deliver(outcomes, sink, total=views.count, quiet=quiet, as_json=as_json)
    tally.check(image, output)
