"""Peak resident memory of a command and all that it starts, read from /proc."""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from pathlib import Path

PROC = Path("/proc")
INTERVAL = 0.1  # seconds between looks; the kernel keeps each process's peak, so only its last moments can be missed
KIB = 1024


def peak_of(command: list[str]) -> tuple[float, int]:
    """Run a command to its end.

    Returns:
        Seconds, and bytes: the largest sum, over the processes alive at once, of their own peaks. Of one process it
        is its peak; of several an upper limit.

    Raises:
        CalledProcessError: it failed.
    """
    begun, peak = time.perf_counter(), 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        peak = max(peak, sum(_peak(pid) for pid in _tree(process.pid)))
        time.sleep(INTERVAL)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - begun, peak


def _tree(root: int) -> list[int]:
    """A process and its descendants."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for folder in PROC.iterdir():
        if folder.name.isdecimal():
            children[_parent(int(folder.name))].append(int(folder.name))
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting.extend(children[found[-1]])
    return found


def _parent(pid: int) -> int:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:  # it has ended
        return -1
    return int(text.rpartition(")")[2].split()[1])  # the name of the program may hold spaces and brackets


def _peak(pid: int) -> int:
    """Bytes; 0 when the process has ended."""
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * KIB for line in lines if line.startswith("VmHWM:")), 0)
