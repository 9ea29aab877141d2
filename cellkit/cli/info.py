"""cellkit info."""

from __future__ import annotations

from typing import Annotated

import typer

from cellkit.cli import options as o


def info(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|MODEL",
            help="An image, output or checkpoint, or a bundled model's name.",
            show_default=False,
        ),
    ] = None,
    as_json: o.Json = False,
    verbose: o.Verbose = 0,
) -> None:
    """Tell about a file, a model, or this installation.

    A model: its card (data, licence, recipe, scores, limits). An output: the commands that made it. An image: how it
    is read. Nothing: versions and devices.
    """
    from cellkit.cli import describing, reporting

    reporting.set_up_logging("info", verbose, quiet=False)
    facts = describing.installation() if subject is None else describing.subject(subject)
    describing.write(facts, as_json=as_json)
