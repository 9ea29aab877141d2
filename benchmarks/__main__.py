"""``python -m benchmarks``: make comparisons, print a table, write JSON."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.harness import Bench, Measurement, Unavailable
from benchmarks.peer import Peer, PeerError
from cellkit.errors import CellkitError

ROOT = Path(__file__).resolve().parent.parent
PEER_PYTHON = ROOT / "benchmarks" / "environments" / "cellpose" / "bin" / "python"
COMPARISONS = {  # name -> module with measure(bench); imported when it is its turn, so that none costs another
    "startup": "benchmarks.startup",
    "flow-targets": "benchmarks.flow_targets",
    "flow-decoding": "benchmarks.flow_decoding",
    "network": "benchmarks.network",
    "training-step": "benchmarks.training_step",
    "contrastive-step": "benchmarks.contrastive_step",
    "cellulus-step": "benchmarks.cellulus_step",
    "meta-step": "benchmarks.meta_step",
    "adapt-step": "benchmarks.adapt_step",
    "detector": "benchmarks.detector",
    "mean-shift": "benchmarks.mean_shift",
    "polygon-nms": "benchmarks.polygon_nms",
    "finetuning": "benchmarks.finetuning",
    "scoring": "benchmarks.scoring",
    "coco-segm": "benchmarks.coco_segm",
    "exports": "benchmarks.exports",
    "pipes": "benchmarks.pipes",
    "huge": "benchmarks.huge",
    "huge-embedding": "benchmarks.huge_embedding",
}
ON_REQUEST = frozenset({"huge", "huge-embedding"})  # take most of an hour and 2 GB of disk
EXPECTED = (Unavailable, PeerError, CellkitError, subprocess.CalledProcessError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the comparisons named; 0 unless one could not be made. A goal that is missed is told, no failure."""
    options = _parser().parse_args(arguments)
    names = options.names or [name for name in COMPARISONS if options.all or name not in ON_REQUEST]
    console = Console(width=None if sys.stdout.isatty() else 180)
    measurements: list[Measurement] = []
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cellkit-benchmarks-")))
        bench = Bench(
            data=Path(options.data),
            scratch=scratch,
            start_peer=_starter(options.peer, scratch, stack),
            quick=options.quick,
        )
        for name in names:
            console.print(f"{name} ...", style="dim")
            try:
                measurements.extend(_measured(name, bench))
            except EXPECTED as error:
                left_out[name] = str(error).splitlines()[-1]
                console.print(f"{name}: left out: {error}", style="red")
        peer = bench.peer.versions() if "peer" in vars(bench) else {}
    console.print(report.table(measurements))
    if options.json:
        report.write(Path(options.json), report.document(measurements, left_out, peer, quick=options.quick))
    return 1 if left_out else 0


def _measured(name: str, bench: Bench) -> Iterator[Measurement]:
    measure: Callable[[Bench], Iterator[Measurement]] = importlib.import_module(COMPARISONS[name]).measure
    yield from measure(bench)


def _starter(python: str | None, scratch: Path, stack: ExitStack) -> Callable[[], Peer] | None:
    """Starts the peer when the first comparison asks for it; ends it with the run."""
    chosen = python or (str(PEER_PYTHON) if PEER_PYTHON.exists() else None)
    if chosen is None:
        return None
    return partial(_start, chosen, scratch, stack)


def _start(python: str, scratch: Path, stack: ExitStack) -> Peer:
    return stack.enter_context(Peer(python, scratch / "peer"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Compare cellkit's speed with its peer's."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*COMPARISONS, []], help=", ".join(COMPARISONS))
    parser.add_argument("--all", action="store_true", help=f"also {', '.join(sorted(ON_REQUEST))}")
    parser.add_argument("--json", metavar="FILE", help="write every number here")
    parser.add_argument(
        "--peer", metavar="PYTHON", default=os.environ.get("CELLKIT_PEER"), help="Python with cellpose 3.1"
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        default=os.environ.get("CELLKIT_DATA", str(ROOT.parent / "shared" / "data")),
        help="folder that holds dsb2018/",
    )
    parser.add_argument("--quick", action="store_true", help="small inputs, one round: only to see that it works")
    return parser


if __name__ == "__main__":
    sys.exit(main())
