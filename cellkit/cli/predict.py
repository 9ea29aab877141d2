"""cellkit predict."""

from __future__ import annotations

from cellkit.cli import options as o


def predict(
    images: o.Images,
    output: o.Output,
    model: o.Model = "nuclei",
    diameter: o.Diameter = None,
    axes: o.Axes = None,
    channels: o.Channels = None,
    plane: o.Plane = None,
    tile: o.Tile = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    settings: o.Set = None,
    list_settings: o.ListSettings = False,
    on_exists: o.OnExists = "skip",
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Predict dense maps for images, or the objects on them.

    Writes one prediction per image, in the order given, for 'cellkit postprocess': a folder of HDF5 files,
    one HDF5 file, or a tar stream. A finished run, run again, does nothing; an interrupted one goes on.
    Predictions of a detector hold boxes, scores and masks that may overlap, and 'cellkit evaluate' scores them too.
    """
    from cellkit import stages
    from cellkit.cli import inputs, places, reporting, running

    reporting.set_up_logging("predict", verbose, quiet)
    reporting.check_json(as_json, output)
    chosen, overrides = running.predict_settings(settings, diameter=diameter, tile=tile)
    sources = inputs.image_sources(images, inputs.read_options(axes, channels, plane))
    if dry_run:
        return running.show_reading(sources, output, ".h5")
    total = inputs.count_of(sources)
    with places.opened(output, "maps", on_exists, ".h5", inputs.places(sources)) as sink:
        ready = running.open_model(model, device, precision, chosen, overrides)
        outcomes = stages.predict(sources, ready, chosen, overrides, is_done=sink.is_done)
        tally = reporting.deliver(outcomes, sink, total=total, quiet=quiet, as_json=as_json)
    tally.check(inputs.named(images), output)
