"""Options of ``cellkit finetune`` alone."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from cellkit.config import FinetuneMethodName, TrainedPartName

Shots: TypeAlias = Annotated[
    list[str],
    typer.Argument(metavar="SHOTS", help="Folders of images with outlined cells, in any layout.", show_default=False),
]
Base: TypeAlias = Annotated[
    str,
    typer.Option("--model", "-m", metavar="BASE", help="The model to start from: a bundled name or a checkpoint."),
]
Method: TypeAlias = Annotated[
    FinetuneMethodName,
    typer.Option("--method", help="Learn from shots alone, also from images without labels, or stay near the base."),
]
Train: TypeAlias = Annotated[TrainedPartName, typer.Option("--train", help="Part of the network that learns.")]
Query: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--query", metavar="DIR", help="Images without labels, like the shots; for contrastive. Repeatable."),
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
Draw: TypeAlias = Annotated[int, typer.Option("--draw", metavar="SEED", help="Seed of the draw of --shots.")]
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
        help="Labelled images to score before and after, not learned from: a list, a folder, or a part.",
    ),
]
LeaveOneOut: TypeAlias = Annotated[
    bool, typer.Option("--leave-one-out", help="Score before and after on each shot, tuned without it.")
]
KeepBetter: TypeAlias = Annotated[
    bool,
    typer.Option("--keep-better", help="Where the base scores better than the tuned model, write the base and say so."),
]
