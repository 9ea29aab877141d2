"""Options of ``cellkit evaluate``."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

Truth: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="TRUTH", help="True cells: a folder, a file, or a dataset in any layout.", show_default=False
    ),
]
Predicted: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="PREDICTION",
        help="Predicted cells: folder, file, COCO JSON, CTC results, HDF5, or - for a tar stream.",
        show_default=False,
    ),
]
Names: TypeAlias = Annotated[
    str | None, typer.Option("--names", metavar="FILE", help="Score the images listed in this file alone.")
]
AllowMissing: TypeAlias = Annotated[
    bool, typer.Option("--allow-missing", help="Pass over images that only one side has.")
]
CocoAreas: TypeAlias = Annotated[
    str, typer.Option("--coco-areas", metavar="RANGES", help="Small and large of COCO: coco, livecell, or A,B.")
]
MaxDets: TypeAlias = Annotated[
    str | None,
    typer.Option("--max-dets", metavar="N,...", help="Detections per image for COCO, e.g. 100,500,2000; else all."),
]
Categories: TypeAlias = Annotated[
    bool,
    typer.Option("--categories/--no-categories", help="COCO asks for the right category where both sides have some."),
]
MinScore: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--min-score",
        metavar="SCORE",
        help="Predicted objects of a lower score count for COCO's values alone: 0.5 leaves a detector's cells.",
        show_default=False,
    ),
]
Surfaces: TypeAlias = Annotated[
    bool, typer.Option("--surfaces/--no-surfaces", help="Whether distances of outlines (hd95, asd) are wanted.")
]
GroupBy: TypeAlias = Annotated[
    str | None,
    typer.Option("--group-by", metavar="FILE.csv:COLUMN", help="A row per group of images, from a table of them."),
]
Compare: TypeAlias = Annotated[
    tuple[str, str] | None,
    typer.Option("--compare", metavar="A B", help="Compare two predictions of TRUTH, in place of PREDICTION."),
]
Curve: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--curve",
        metavar="FILE.csv",
        help="Fit scores over shots (columns shots,score), or compare scores with costs (method,score,parameters).",
    ),
]
Objects: TypeAlias = Annotated[
    str | None, typer.Option("--objects", metavar="FILE", help="Write one row per object as CSV; - is stdout.")
]
Csv: TypeAlias = Annotated[
    str | None, typer.Option("--csv", metavar="FILE", help="Write one row per image; - is stdout.")
]
Markdown: TypeAlias = Annotated[
    str | None, typer.Option("--markdown", metavar="FILE", help="Write tables in Markdown; - is stdout.")
]
Html: TypeAlias = Annotated[
    str | None, typer.Option("--html", metavar="FILE", help="Write one page with tables, charts and pictures.")
]
Pictured: TypeAlias = Annotated[
    str | None, typer.Option("--images", metavar="DIR", help="Images for the pictures; else those beside the truth.")
]
FailUnder: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--fail-under", metavar="NAME=VALUE", help="Exit 6 when a score is below VALUE. Repeatable."),
]
FailOver: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--fail-over", metavar="NAME=VALUE", help="Exit 6 when e.g. hd95 is above VALUE. Repeatable."),
]
