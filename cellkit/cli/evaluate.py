"""cellkit evaluate."""

from __future__ import annotations

from typing import Annotated

import typer

from cellkit.cli import options as o


def evaluate(
    truth: Annotated[
        str, typer.Argument(metavar="TRUTH", help="True labels: a folder, a file, or a dataset.", show_default=False)
    ],
    prediction: Annotated[
        str,
        typer.Argument(
            metavar="PREDICTION", help="Predicted labels: folder, file, or - for a tar stream.", show_default=False
        ),
    ],
    names: Annotated[
        str | None, typer.Option("--names", metavar="FILE", help="Score the images listed in this file alone.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Pass over images that only one side has.")
    ] = False,
    as_json: o.Json = False,
    csv: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Write one row per image; - is stdout.")
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option("--fail-under", metavar="NAME=VALUE", help="Exit 6 when a score is below VALUE. Repeatable."),
    ] = None,
    workers: o.Workers = 2,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Score predicted cells against true cells.

    Pairs are matched by name. Reports ap_dsb, precision, recall and F1 at IoU .50 to .95, ctc/SEG, AJI, and IoU
    and Dice of the foreground: per image (--csv), as means over images, and pooled over the set.
    """
    from cellkit.cli import reporting, scoring

    reporting.set_up_logging("evaluate", verbose, quiet)
    scoring.check_outputs(csv, as_json=as_json)
    gates = scoring.parse_gates(fail_under)
    report, problems = scoring.score_all(truth, prediction, names, workers=workers, quiet=quiet)
    if csv:
        scoring.write_csv(report, csv)
    if as_json:
        scoring.write_json(report)
    elif csv != "-":
        scoring.write_table(report)
    problems.check(prediction, allow_missing=allow_missing)
    scoring.check_gates(report, gates)
