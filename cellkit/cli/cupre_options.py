"""Options of ``cellkit pretrain --method cupre`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import typer

from cellkit.config import PretrainMethodName
from cellkit.errors import UsageError

Labelled: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--labelled",
        metavar="DIR",
        help="For cupre: labelled images of anything, such as COCO, in any layout; they take turns with those of DATA, "
        "which have no labels. Repeatable.",
        show_default=False,
    ),
]


def refuse_labelled(labelled: Sequence[str] | None, method: PretrainMethodName) -> None:
    """One method alone has two kinds of images.

    Raises:
        UsageError: it was given to another.
    """
    if labelled and method != "cupre":
        raise UsageError("--labelled", f"the method {method} has no use for it", "add --method cupre")
