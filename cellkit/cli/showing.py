"""The demonstration: bundled images through the same stages that the verbs call."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from cellkit import stages
from cellkit.cli import running
from cellkit.cli.reporting import progress
from cellkit.data.layouts import LabelRef, find_pairs
from cellkit.io.atomic import written_whole
from cellkit.io.images import ReadOptions, read_image
from cellkit.io.labels import LabelImage
from cellkit.io.sinks import open_sink
from cellkit.io.sources import Source
from cellkit.metrics import ImageReport, summarise
from cellkit.ops.drawing import PREDICTION_COLOUR, TRUTH_COLOUR, overlay, sheet, to_rgb
from cellkit.stages.scoring import Scored, ScoreSettings

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
COLUMNS = 3
SIDE = 420  # px per image on the sheet
SHOWN = ("n_true", "n_predicted", "ap_dsb@0.5", "ap_dsb", "f1@0.5", "ctc/SEG")


def run_demo(output: str, model: str, device: str, *, quiet: bool) -> None:
    """Segment the bundled images, score them, write labels and one picture, print a table and the places."""
    start = time.monotonic()
    folder = Path(output)
    pairs = {pair.key: pair for pair in find_pairs(str(SAMPLES)).pairs}
    sources = [Source(key=pair.key, path=pair.image, options=ReadOptions()) for pair in pairs.values()]
    ready = running.open_model(model, device, "auto", stages.PredictSettings())
    results: list[LabelImage] = []
    with open_sink(f"{folder / 'labels'}/", "labels", "overwrite") as sink:
        segmented = stages.segment(sources, ready, stages.PredictSettings())
        for outcome in progress(segmented, len(sources), quiet):
            if isinstance(outcome, stages.Failure):
                raise outcome.error
            if isinstance(outcome, LabelImage):
                sink.write(outcome)
                results.append(outcome)
    truth = {key: pair.labels for key, pair in pairs.items()}
    settings = ScoreSettings(surfaces=False)
    outcomes = stages.evaluate(truth, results, settings)
    scores = [item.report for item in outcomes if isinstance(item, Scored)]
    picture = folder / "overlay.png"
    _write_png(picture, _draw(results, {key: pair.image for key, pair in pairs.items()}, truth))
    if not quiet:
        _print_table(scores)
        sys.stdout.write(
            f"labels:  {folder / 'labels'}\npicture: {picture} (found: amber, true: green)\n"
            f"{time.monotonic() - start:.1f} s on {ready.device.description}\n"
        )


def _draw(results: list[LabelImage], images: dict[str, str], truth: Mapping[str, LabelRef]) -> NDArray[np.uint8]:
    pictures = []
    for result in results:
        image = read_image(images[result.key], ReadOptions())
        picture = to_rgb(np.asarray(image.pixels[:3]))
        picture = overlay(picture, truth[result.key].read(result.labels.shape).labels, TRUTH_COLOUR)
        pictures.append(overlay(picture, result.labels, PREDICTION_COLOUR))
    return sheet(pictures, COLUMNS, SIDE)


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    with written_whole(path) as temporary:
        iio.imwrite(temporary, picture, extension=".png")


def _print_table(scores: list[ImageReport]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("image", *SHOWN):
        table.add_column(name, justify="left" if name == "image" else "right", no_wrap=True)
    report = summarise(scores)
    for image in report.images:
        table.add_row(image.key, *(_show(name, image.values[name]) for name in SHOWN))
    table.add_row("mean", *(_show(name, report.mean[name]) for name in SHOWN))
    Console(file=sys.stdout, width=120).print(table)


def _show(name: str, value: float) -> str:
    return f"{value:.0f}" if name.startswith("n_") else f"{value:.3f}"
