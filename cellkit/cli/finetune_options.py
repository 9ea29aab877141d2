"""Options of ``cellkit finetune`` alone."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from cellkit.config import FinetuneMethodName, NetworkName, RepresentationName, TrainedPartName

DEFAULT_BASE = "nuclei"

Shots: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="SHOTS",
        help="Folders of images with outlined cells, in any layout; for supported images or folders of them.",
        show_default=False,
    ),
]
Base: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="BASE",
        help="The model to start from: a bundled name or a checkpoint.",
        show_default=DEFAULT_BASE,
    ),
]
Method: TypeAlias = Annotated[
    FinetuneMethodName,
    typer.Option(
        "--method",
        is_eager=True,
        help="Learn from shots alone, also from images without labels (contrastive), stay near the base (l2sp), or "
        "learn from some labelled cells and a segmentation (supported). Before --settings, it lists its own.",
    ),
]
Train: TypeAlias = Annotated[TrainedPartName, typer.Option("--train", help="Part of the network that learns.")]
Query: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--query",
        metavar="DIR",
        help="Images without labels, like the shots; for contrastive or batch_statistics=query. Repeatable.",
    ),
]
Contrast: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--contrast", metavar="DIR", help="Other kinds of images, a folder each; else those that the base carries."
    ),
]
Count: TypeAlias = Annotated[
    int | None, typer.Option("--shots", metavar="K", min=1, help="Draw so many of the images; else all are shots.")
]
Fraction: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--fraction", metavar="F", min=0, max=1, help="Draw this part of the images, one at least, e.g. 0.05."
    ),
]
Draw: TypeAlias = Annotated[
    int, typer.Option("--draw", metavar="SEED", help="Seed of the draw of --shots or --fraction.", min=0)
]
Steps: TypeAlias = Annotated[int, typer.Option("--steps", metavar="N", help="Gradient steps.", min=1)]
Diameter: TypeAlias = Annotated[
    float | None,
    typer.Option("--diameter", metavar="PX", min=1, help="Diameter of the cells in pixels; else that of the shots."),
]
Held: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--val",
        metavar="FILE|DIR|FRACTION",
        help="Labelled images to score before and after, not learned from: a list, a folder, or a part. For supported "
        "they choose the best weights: a list or a folder.",
    ),
]
LeaveOneOut: TypeAlias = Annotated[
    bool, typer.Option("--leave-one-out", help="Score before and after on each shot, tuned without it.")
]
KeepBetter: TypeAlias = Annotated[
    bool,
    typer.Option("--keep-better", help="Where the base scores better than the tuned model, write the base and say so."),
]

# of supported supervision

Labels: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="SPARSE",
        help="For supported: label images of the images' names in which some cells are outlined.",
    ),
]
Pseudo: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--pseudo", metavar="PSEUDO", help="For supported: a segmentation of the images, say of a model without labels."
    ),
]
Alpha: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--alpha",
        metavar="PART",
        min=0,
        max=1,
        help="For supported: weight of the loss on pseudo labels; 0 is learning from labels alone.",
        show_default="0.5; 0 or 1 where only one kind of labels is given",
    ),
]
Network: TypeAlias = Annotated[
    NetworkName | None,
    typer.Option(
        "--network", help="For supported: a fresh network, in place of a base.", show_default="that of the base"
    ),
]
Representation: TypeAlias = Annotated[
    RepresentationName | None,
    typer.Option(
        "--representation",
        help="For supported: what turns maps of a fresh network into cells.",
        show_default="star with --network",
    ),
]
