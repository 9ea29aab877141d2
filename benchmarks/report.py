"""What is told in the end: a table, and JSON with the facts of the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.harness import SIGNS, Measurement
from cellkit import __version__

FORMAT = 1
PACKAGES = ("torch", "numpy", "scipy", "scikit-image")
WORDS = {True: "yes", False: "NO", None: ""}


def table(measurements: Sequence[Measurement]) -> Table:
    """One row per measurement."""
    grid = Table("comparison", "ours", "peer", "ratio (range)", "goal", "met", "note")
    for one in measurements:
        grid.add_row(
            f"{one.comparison}: {one.case}",
            _amount(one.ours, one.unit),
            _amount(one.other, one.unit),
            _ratio(one),
            _goal(one),
            WORDS[one.is_met],
            one.note,
        )
    return grid


def document(
    measurements: Sequence[Measurement], left_out: dict[str, str], peer: dict[str, str], *, quick: bool
) -> dict[str, Any]:
    """All that was measured, as JSON values; no names or paths of this machine.

    Args:
        measurements: in order.
        left_out: comparisons that could not be made, and why.
        peer: versions in the peer's environment.
        quick: whether inputs were small.
    """
    return {
        "format": FORMAT,
        "quick": quick,
        "machine": machine(),
        "versions": {"ours": versions(), "peer": peer},
        "measurements": [one.to_dict() for one in measurements],
        "left_out": left_out,
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, and how busy they were over the last minutes."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": usable,
        "system": platform.system(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def versions() -> dict[str, str]:
    """Of this Python, cellkit and what its speed depends on."""
    found = {"python": platform.python_version(), "cellkit": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _amount(values: tuple[float, ...], unit: str) -> str:
    return f"{statistics.median(values):.3g} {unit}" if values else ""


def _ratio(one: Measurement) -> str:
    if not one.other:
        return ""
    values = one.values
    return f"{one.median:.2f} ({min(values):.2f}-{max(values):.2f})"


def _goal(one: Measurement) -> str:
    if one.goal is None:
        return ""
    unit = f" {one.unit}" if one.goal.kind == "value" else ""
    return f"{SIGNS[one.goal.kind]} {one.goal.limit:g}{unit}"
