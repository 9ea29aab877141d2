"""cellkit pretrain."""

from __future__ import annotations

from typing import Annotated

import typer

from cellkit.cli import options as o
from cellkit.config import NetworkName, PretrainMethodName, RepresentationName


def pretrain(
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA...", help="Folders of images and labels, in any layout.", show_default=False),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE.ckpt", help="The checkpoint to write.", show_default=False)
    ],
    network: Annotated[NetworkName, typer.Option("--network", help="What turns pixels into maps.")] = "unet",
    representation: Annotated[
        RepresentationName, typer.Option("--representation", help="What turns maps into cells.")
    ] = "flow",
    method: Annotated[PretrainMethodName, typer.Option("--method", help="How weights are learned.")] = "supervised",
    names: Annotated[
        str | None, typer.Option("--names", metavar="FILE", help="Train on the images listed in this file alone.")
    ] = None,
    val: Annotated[
        str | None,
        typer.Option(
            "--val",
            metavar="FILE|DIR|FRACTION",
            help="Images that choose the best weights: a list, a folder, or a part.",
        ),
    ] = None,
    pairs: Annotated[
        str | None, typer.Option("--pairs", metavar="FILE.csv", help="Table of image and labels, where no layout fits.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="Gradient steps.", min=1)] = 1000,
    lr: Annotated[float, typer.Option("--lr", metavar="RATE", help="Peak learning rate.")] = 1e-3,
    diameter: o.Diameter = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    seed: o.Seed = 0,
    settings: o.Set = None,
    list_settings: o.ListSettings = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Insist on going on with an interrupted run; without it, done when there is one."
        ),
    ] = False,
    on_exists: o.OnExists = "skip",
    dry_run: o.DryRun = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Train a model on labelled images.

    Writes a checkpoint that 'cellkit predict' needs alone, with metrics and the state to resume from beside it.
    An interrupted run, run again, goes on where it stopped.
    """
    from cellkit.cli import reporting, training

    reporting.set_up_logging("pretrain", verbose, quiet)
    recipe = training.recipe(
        settings, network=network, representation=representation, steps=steps, lr=lr, diameter=diameter, seed=seed
    )
    learn, held = training.datasets(data, names=names, val=val, pairs=pairs, seed=seed)
    if dry_run:
        return training.show_datasets(learn, held)
    training.run(learn, held, recipe, (device, precision), output, resume=resume, on_exists=on_exists, quiet=quiet)
