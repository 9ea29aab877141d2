"""Options that are otherwise for detectors than for what gives maps."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

Rate: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--lr",
        metavar="RATE",
        help="Peak learning rate.",
        min=0,
        show_default="0.001; for detectors 0.02 x batch / 16",
    ),
]
