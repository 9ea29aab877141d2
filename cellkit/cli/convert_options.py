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
        help="Label files, a folder of them, a COCO file, an HDF5 file, or annotated images in any layout.",
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
        help="DIR/, or FILE.json (COCO), FILE.zip (ROIs of one image), FILE.geojson(.gz), FILE.h5, FILE.tif, FILE.png.",
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
    """Whether the output is ``DIR/``, an existing folder, or a name without suffix."""
    return output.endswith("/") or Path(output).is_dir() or not Path(output).suffix


def format_of(output: str, to: FormatName | None) -> FormatName:
    """The format to write.

    Raises:
        UsageError: the name of the output says none, or another one than ``--to``; stdout.
    """
    if output in ("", "-"):
        raise UsageError("--output", "converted cells go into files", "give DIR/ or a file")
    if is_folder(output):
        return to or "tif"
    named = next((found for suffix, found in SUFFIXES.items() if output.lower().endswith(suffix)), None)
    if named is None or to not in (None, named):
        what = f"is no name of a file of the format {to}" if to else "its name says no format"
        raise UsageError(output, what, f"one of {', '.join(SUFFIXES)}, or DIR/ with --to FORMAT")
    return named
