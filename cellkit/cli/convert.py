"""cellkit convert."""

from __future__ import annotations

from cellkit.cli import convert_options as c
from cellkit.cli import options as o


def convert(
    labels: c.Labels,
    output: c.Output,
    to: c.To = None,
    image: c.Image = None,
    shape: c.Shape = None,
    keep_fraction: c.KeepFraction = None,
    seed: o.Seed = 0,
    on_exists: o.OnExists = "skip",
    as_json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Write cells as other tools read them, or take over weights of theirs.

    Reads labels in any layout, and outlines drawn in ImageJ (.zip, .roi) or QuPath (.geojson); writes files of
    Cellpose, ImageJ, QuPath, COCO, the Cell Tracking Challenge, one PNG per cell, and label images.

    Outlines go along the edges of pixels, so that filling them gives the same pixels; drawn ones take the pixels whose
    centres they enclose. Where a format cannot hold overlapping cells, a warning says how many pixels are lost.
    Of what a detector predicted, label images, Cellpose's files and the challenge's get the cells of 'postprocess', the
    other formats all objects; COCO keeps their categories, scores and boxes.

    --keep-fraction makes sparse labels from full ones: a part of all cells of all images together, the same for the
    same seed, and of a smaller part a part of a larger. The pixels of the other cells become -1, background stays 0.

    -o MODEL.ckpt: LABELS are weights (.pth, .pt, or .pkl of NumPy arrays; read without executing anything) of ResNet or
    ResNeSt of ImageNet, MoCo, a Mask R-CNN or Cascade Mask R-CNN of detectron2 or detectron2-ResNeSt, or torchvision's
    Mask R-CNN. They become a detector; a table on stdout says what mapped and what was dropped and why.
    """
    from cellkit.cli import convert_models, convert_running, reporting

    reporting.set_up_logging("convert", verbose, quiet)
    reporting.check_json(as_json, output)
    if convert_models.is_meant(labels, output):
        given = (("--to", to), ("--image", image), ("--shape", shape), ("--keep-fraction", keep_fraction))
        convert_models.check_options(given)
        return convert_models.convert(labels, output, on_exists, seed, as_json=as_json)
    chosen = c.format_of(output, to)
    keeping = convert_running.keeping(keep_fraction, seed, labels, chosen, quiet)
    found = convert_running.find(labels, output, chosen, image, c.parsed_shape(shape))
    count = convert_running.count_of(found)
    with convert_running.delivered(output, chosen, on_exists, found, keeping) as (outcomes, sink):
        tally = reporting.deliver(outcomes, sink, total=count, quiet=quiet, as_json=as_json)
    tally.check(labels, output)
