"""Options that several verbs share, defined once: a letter means one thing everywhere."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from cellkit.config import NetworkName, PrecisionName, PretrainMethodName, RepresentationName
from cellkit.config import OnExists as OnExistsName


def _list_settings(context: typer.Context, wanted: bool) -> None:
    if wanted:
        from cellkit.cli.listing import list_settings

        list_settings(context.info_name or "", context.params.get("method"))
        raise typer.Exit


Images: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Images, folders, FILE.h5::/dataset, or - for a tar stream.",
        show_default=False,
    ),
]
Model: TypeAlias = Annotated[
    str, typer.Option("--model", "-m", metavar="MODEL", help="A bundled model's name (nuclei) or a checkpoint file.")
]
Output: TypeAlias = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="OUTPUT",
        show_default=False,
        help="DIR/ (one file per image), one FILE.h5 or FILE.tif, or - for a tar stream on stdout.",
    ),
]
OnExists: TypeAlias = Annotated[
    OnExistsName,
    typer.Option("--on-exists", help="Outputs that exist: skip those up to date, overwrite, or stop with an error."),
]
Axes: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--axes", metavar="AXES", help="Axes of the files, e.g. YX, CYX, TYX, ZCYX; else from their metadata."
    ),
]
Channels: TypeAlias = Annotated[
    str | None,
    typer.Option("--channels", metavar="LIST", help="Channels to use, by index from 0 or by name, e.g. 0,2 or DAPI."),
]
Plane: TypeAlias = Annotated[
    int | None, typer.Option("--plane", metavar="N", help="Plane of a z-stack to use, from 0.", min=0)
]
Diameter: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--diameter", metavar="PX", help="Typical cell diameter in pixels; else the model's own scale.", min=1
    ),
]
Tile: TypeAlias = Annotated[
    int | None, typer.Option("--tile", metavar="PX", help="Side of the network's tiles; else chosen by size.", min=64)
]
Device: TypeAlias = Annotated[
    str,
    typer.Option(
        "--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps; asked for by name, it must be there."
    ),
]
Precision: TypeAlias = Annotated[PrecisionName, typer.Option("--precision", help="Arithmetic of the network.")]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of all that is random.", min=0)]
Workers: TypeAlias = Annotated[
    int,
    typer.Option("--workers", "-j", metavar="N", help="Threads that read, decode and write beside the network.", min=0),
]
Set: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE|@FILE",
        help="A further setting, or a file of them; --settings lists them. Repeatable.",
    ),
]
ListSettings: TypeAlias = Annotated[
    bool,
    typer.Option("--settings", callback=_list_settings, is_eager=True, help="List the settings for --set and exit."),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
DryRun: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Say what would be read and written, and stop.")]
Verbose: TypeAlias = Annotated[
    int, typer.Option("--verbose", "-v", count=True, show_default=False, help="Say more; twice: tracebacks too.")
]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="Silent on success.")]
LabelSuffix: TypeAlias = Annotated[
    str, typer.Option("--suffix", metavar="SUFFIX", help="Kind of label files in a folder: .tif, .png or .h5.")
]

# of the verbs that train

Data: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA",
        help="Folders of images and labels, in any layout; for oce, moco and cupre images or folders of them.",
        show_default=False,
    ),
]
Checkpoint: TypeAlias = Annotated[
    str, typer.Option("--output", "-o", metavar="FILE.ckpt", help="The checkpoint to write.", show_default=False)
]
Network: TypeAlias = Annotated[
    NetworkName | None,
    typer.Option(
        "--network", help="What turns pixels into maps.", show_default="unet; mini-unet for oce; detector for detection"
    ),
]
Representation: TypeAlias = Annotated[
    RepresentationName | None,
    typer.Option(
        "--representation",
        help="What turns maps into cells.",
        show_default="flow; embedding for oce; boxes for detection",
    ),
]
PretrainMethod: TypeAlias = Annotated[
    PretrainMethodName,
    typer.Option(
        "--method",
        is_eager=True,
        help="How weights are learned: from labels (supervised, detection), from images alone (oce, moco), or in turns "
        "(cupre). Before --settings, it lists its own.",
    ),
]
ObjectSize: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--object-size",
        metavar="PX|each",
        help="For oce: diameter of an object in pixels; 'each': of each image as estimated from it; else from all.",
    ),
]
TrainNames: TypeAlias = Annotated[
    str | None, typer.Option("--names", metavar="FILE", help="Train on the images listed in this file alone.")
]
Validation: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--val",
        metavar="FILE|DIR|FRACTION",
        help="Images that choose the best weights: a list, a folder, or a part.",
    ),
]
Pairs: TypeAlias = Annotated[
    str | None, typer.Option("--pairs", metavar="FILE.csv", help="Table of image and labels, where no layout fits.")
]
Steps: TypeAlias = Annotated[int, typer.Option("--steps", metavar="N", help="Gradient steps.", min=1)]
Rate: TypeAlias = Annotated[float, typer.Option("--lr", metavar="RATE", help="Peak learning rate.", min=0)]
Resume: TypeAlias = Annotated[
    bool, typer.Option("--resume", help="Insist on going on with a run; without it, done when there is one.")
]
