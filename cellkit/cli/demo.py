"""cellkit demo."""

from __future__ import annotations

from typing import Annotated

import typer

from cellkit.cli import options as o


def demo(
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="Folder for the labels and the picture.")
    ] = "cellkit-demo",
    model: o.Model = "nuclei",
    device: o.Device = "auto",
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Segment, score and draw six bundled images.

    Shows in half a minute that everything works: labels and one picture are written, a table of scores is printed.
    """
    from cellkit.cli import reporting, showing

    reporting.set_up_logging("demo", verbose, quiet)
    showing.run_demo(output, model, device, quiet=quiet)
