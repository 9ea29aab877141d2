"""cellkit postprocess."""

from __future__ import annotations

from typing import Annotated

import typer

from cellkit.cli import options as o


def postprocess(
    predictions: Annotated[
        list[str],
        typer.Argument(
            metavar="PREDICTION", help="Prediction files, folders, or - for a tar stream.", show_default=False
        ),
    ],
    output: o.Output,
    search: Annotated[
        str | None,
        typer.Option(
            "--search",
            metavar="LABELS",
            help="Labels of some of the images, by name: take the settings of decoding that suit them best, for all.",
        ),
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(
            "--save-settings",
            metavar="FILE",
            help="Write what --search found, for --set @FILE of this and other verbs.",
        ),
    ] = None,
    settings: o.Set = None,
    list_settings: o.ListSettings = False,
    suffix: o.LabelSuffix = ".tif",
    workers: o.Workers = 1,
    on_exists: o.OnExists = "skip",
    as_json: o.Json = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Turn predicted maps into cells.

    Reads what 'cellkit predict' wrote and writes one label image per image: 0 is background, each cell has its
    number. Settings of the decoding come with the prediction; --set changes them without the network, and --search
    finds them on a few labelled images: bandwidth and shrink of embeddings, thresholds of others. Scores on the images
    that it searched on are flattered.
    """
    from cellkit import stages
    from cellkit.cli import inputs, places, reporting, running, searching
    from cellkit.errors import UsageError

    reporting.set_up_logging("postprocess", verbose, quiet)
    reporting.check_json(as_json, output)
    overrides = running.decoding_settings(settings)
    paths = inputs.prediction_files(predictions)
    if search is not None:
        overrides |= searching.search(paths, search, overrides, workers, save)
    elif save is not None:
        raise UsageError("--save-settings", "there is nothing to save without a search", "add --search LABELS")
    taken = [(str(path), path.stem) for path in paths or ()]
    with places.opened(output, "labels", on_exists, suffix, taken) as sink:
        outcomes = stages.postprocess(inputs.predictions(paths), overrides, workers=workers, is_done=sink.is_done)
        tally = reporting.deliver(outcomes, sink, total=None, quiet=quiet, as_json=as_json)
    tally.check(inputs.named(predictions), output)
