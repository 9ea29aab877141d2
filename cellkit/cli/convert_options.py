"""Options of ``cellkit convert`` alone, and what its output and format say together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from cellkit.errors import UsageError

# as in cellkit.stages.converting, which is too heavy for --help
FormatName: TypeAlias = Literal[
    "tif", "png", "h5", "coco", "roi", "geojson", "geojson.gz", "ctc", "objects", "cellpose", "seg"
]

Labels: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="LABELS",
        help="A label file or a folder of them, outlines (.zip, .geojson), a COCO file, an HDF5 file, annotated images "
        "in any layout, or - for a tar stream; weights of others (.pth, .pt, .pkl).",
        show_default=False,
    ),
]
Output: TypeAlias = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        show_default=False,
        help="DIR/, or FILE.json (COCO), FILE.zip (ROIs of one image), FILE.geojson(.gz), FILE.h5, FILE.tif, FILE.png, "
        "or - for a tar stream on stdout (JSON of coco); of weights MODEL.ckpt.",
    ),
]
To: TypeAlias = Annotated[
    FormatName | None,
    typer.Option(
        "--to",
        show_default=False,
        help="Format; else by the name of OUT, tif in a folder. roi: ImageJ; geojson: QuPath; ctc: 01_RES; "
        "objects: a PNG per cell; cellpose: _cp_masks; seg: _seg.npy.",
    ),
]

Image: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--image",
        metavar="IMAGE",
        show_default=False,
        help="The image on which outlines were drawn, or a folder of such: it tells their size.",
    ),
]
Shape: TypeAlias = Annotated[
    str | None,
    typer.Option("--shape", metavar="H,W", show_default=False, help="The same in pixels, without an image."),
]

KeepFraction: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--keep-fraction",
        metavar="PART",
        show_default=False,
        help="Keep this part of all cells, drawn by --seed, e.g. 0.01; nothing is known (-1) of the others. tif, h5.",
    ),
]

SUFFIXES: dict[str, FormatName] = {  # the longer before the shorter
    ".geojson.gz": "geojson.gz",
    ".geojson": "geojson",
    ".json": "coco",
    ".zip": "roi",
    ".tiff": "tif",
    ".tif": "tif",
    ".png": "png",
    ".hdf5": "h5",
    ".h5": "h5",
}


def is_folder(output: str) -> bool:
    """Whether the output is ``DIR/``, an existing folder, a name without suffix, or the stream."""
    return output.endswith("/") or Path(output).is_dir() or not Path(output).suffix


def format_of(output: str, to: FormatName | None) -> FormatName:
    """The format to write.

    Raises:
        UsageError: the name of the output says none, or another one than ``--to``.
    """
    if not output:
        raise UsageError("--output", "an empty name", "give DIR/, a file or -")
    if is_folder(output):
        return to or "tif"
    named = next((found for suffix, found in SUFFIXES.items() if output.lower().endswith(suffix)), None)
    if named is None or to not in (None, named):
        what = f"is no name of a file of the format {to}" if to else "its name says no format"
        raise UsageError(output, what, f"one of {', '.join(SUFFIXES)}, or DIR/ with --to FORMAT")
    return named


def parsed_shape(text: str | None) -> tuple[int, int] | None:
    """``--shape H,W`` as numbers.

    Raises:
        UsageError: they are none.
    """
    if text is None:
        return None
    sides = [part.strip() for part in text.split(",")]
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() and int(side) > 0 for side in sides):
        raise UsageError("--shape", f"'{text}' is no height and width", "e.g. --shape 512,512")
    return int(sides[0]), int(sides[1])
