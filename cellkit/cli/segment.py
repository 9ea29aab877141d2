"""cellkit segment."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from cellkit.cli import options as o

Compat = Annotated[
    Literal["cellpose"] | None,
    typer.Option(
        "--compat",
        show_default=False,
        help="Names that another tool gives its files: NAME_cp_masks.tif (or .png by --suffix) and NAME_seg.npy.",
    ),
]


def segment(
    images: o.Images,
    output: o.Output,
    model: o.Model = "nuclei",
    diameter: o.Diameter = None,
    axes: o.Axes = None,
    channels: o.Channels = None,
    plane: o.Plane = None,
    tile: o.Tile = None,
    suffix: o.LabelSuffix = ".tif",
    compat: Compat = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    settings: o.Set = None,
    list_settings: o.ListSettings = False,
    workers: o.Workers = 1,
    on_exists: o.OnExists = "skip",
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Segment the cells of images: predict and postprocess in one process.

    Writes one label image per image. Images of any size: those that do not fit into memory go through in windows.
    A finished run, run again, does nothing; an interrupted one goes on. --compat cellpose names the files as
    Cellpose does, so that what reads them needs no change.
    """
    from cellkit import stages
    from cellkit.cli import inputs, places, reporting, running, segment_cellpose

    reporting.set_up_logging("segment", verbose, quiet)
    reporting.check_json(as_json, output)
    opened = places.opened
    if compat is not None:
        suffix, opened = segment_cellpose.masks_suffix(output, suffix), segment_cellpose.opened
    chosen, overrides = running.predict_settings(settings, diameter=diameter, tile=tile, verb="segment")
    sources = inputs.image_sources(images, inputs.read_options(axes, channels, plane))
    if dry_run:
        return running.show_reading(sources, output, suffix)
    total = inputs.count_of(sources)
    with opened(output, "labels", on_exists, suffix, inputs.places(sources)) as sink:
        ready = running.open_model(model, device, precision, chosen, overrides)
        outcomes = stages.segment(sources, ready, chosen, overrides, workers=workers, is_done=sink.is_done)
        tally = reporting.deliver(outcomes, sink, total=total, quiet=quiet, as_json=as_json)
    tally.check(inputs.named(images), output)
