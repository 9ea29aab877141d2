"""Options of ``cellkit view`` alone."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import typer

StyleName: TypeAlias = Literal["outline", "fill", "both"]
SuffixName: TypeAlias = Literal[".png", ".jpg"]

Image: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE",
        help="An image, a folder of images, a prediction, a folder of them, or - for a tar stream of either.",
        show_default=False,
    ),
]
Labels: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="LABELS",
        help="Its cells: label files, a dataset, objects of a detector, or - for a tar stream.",
        show_default=False,
    ),
]
Picture: TypeAlias = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="OUTPUT",
        show_default=False,
        help="FILE.png or FILE.jpg (of several images a contact sheet), DIR/ (one picture per image), or - for a PNG "
        "on stdout.",
    ),
]
Truth: TypeAlias = Annotated[
    str | None, typer.Option("--truth", metavar="TRUTH", help="True cells, outlined in green and counted below.")
]
Style: TypeAlias = Annotated[StyleName, typer.Option("--style", help="How cells are drawn.")]
Size: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--size",
        metavar="PX",
        help="Longest side of a picture or sheet; else that of the image, small ones enlarged. At most 4096.",
        min=64,
        max=4096,
    ),
]
Contrast: TypeAlias = Annotated[
    str, typer.Option("--contrast", metavar="LOW,HIGH", help="Percentiles that become black and white.")
]
PixelSize: TypeAlias = Annotated[
    float | None,
    typer.Option("--pixel-size", metavar="UM", help="Micrometres per pixel, for the scale bar; else as stored."),
]
Suffix: TypeAlias = Annotated[SuffixName, typer.Option("--suffix", help="Kind of pictures in a folder.")]
AllowMissing: TypeAlias = Annotated[
    bool, typer.Option("--allow-missing", help="Draw images that have no labels or truth without them.")
]
