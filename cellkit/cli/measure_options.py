"""Options of ``cellkit measure`` alone."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import typer

BackgroundName: TypeAlias = Literal["keep", "blank"]

Labels: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="LABELS",
        help="Label files in any layout: a file, FILE.h5::/dataset, a folder, COCO JSON, or - for a tar stream."
        " With --styles images.",
        show_default=False,
    ),
]
Image: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--image", metavar="IMAGE", help="Their image or folder of images, or - for a tar stream: intensities too."
    ),
]
Table: TypeAlias = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="TABLE",
        show_default=False,
        help="FILE.csv, FILE.parquet (needs pyarrow), or - for CSV on stdout.",
    ),
]
Crops: TypeAlias = Annotated[
    str | None, typer.Option("--crops", metavar="DIR", help="Write each cell as an image into this folder.")
]
CropBackground: TypeAlias = Annotated[
    BackgroundName, typer.Option("--crop-background", help="What is around the cell in its crop: kept, or made 0.")
]
CropSize: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--crop-size", metavar="PX", help="Side of square crops, 0 beyond the image; else the box of the cell.", min=1
    ),
]
PixelSize: TypeAlias = Annotated[
    float | None, typer.Option("--pixel-size", metavar="UM", help="Micrometres per pixel; else as stored.")
]
AllowMissing: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--allow-missing", help="Labels without an image: shapes alone; images without labels: pass them over."
    ),
]
Styles: TypeAlias = Annotated[
    bool, typer.Option("--styles", help="Measure images instead: the style vector of each, by the encoder of a model.")
]
StyleModel: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="Of --styles: a bundled model's name or a checkpoint file; else nuclei."
    ),
]
Picture: TypeAlias = Annotated[
    str | None,
    typer.Option("--picture", metavar="FILE", help="Of --styles: a map of all images too, FILE.svg or FILE.png."),
]
