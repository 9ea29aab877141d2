"""predict | postprocess | evaluate through pipes, against the slowest of the three alone."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Bench, Goal, Measurement, cellkit_command, timed
from benchmarks.models import model
from benchmarks.samples import SMALL, TILES, pairs

NAME = "pipes"
GOAL = Goal("cost", 1.2)
ROUNDS = 2
COPIES = 8  # of every image, so that starting Python is a small part


def measure(bench: Bench) -> Iterator[Measurement]:
    """Whole processes, start of Python included on both sides."""
    keys = tuple(dict.fromkeys(SMALL + TILES))
    images, truth = _folders(bench, keys[:2] if bench.quick else keys)
    name, words = model(bench.scratch)
    stages = {
        "predict": [*cellkit_command(), "predict", str(images), "-m", name, "-o", "-", "--device", "cpu", "-q"],
        "postprocess": [*cellkit_command(), "postprocess", "-", "-o", "-", "-q"],
        "evaluate": [*cellkit_command(), "evaluate", str(truth), "-", "--json", "-q"],
    }
    piped, slowest, names = [], [], []
    for _ in range(bench.rounds(ROUNDS)):
        alone = _alone(stages, bench.scratch)
        piped.append(timed(lambda: _pipe(list(stages.values())))())
        names.append(max(alone, key=alone.__getitem__))
        slowest.append(alone[names[-1]])
    count = len(list(images.iterdir()))
    yield Measurement(
        comparison=NAME,
        case=f"{count} images",
        ours=tuple(piped),
        other=tuple(slowest),
        goal=GOAL,
        note=f"{words}; slowest alone: {', '.join(sorted(set(names)))}",
    )


def _folders(bench: Bench, keys: tuple[str, ...]) -> tuple[Path, Path]:
    """Grey images and their labels, each several times, in folders of their own."""
    images, truth = bench.scratch / "pipe-images", bench.scratch / "pipe-labels"
    images.mkdir()
    truth.mkdir()
    labels = bench.data / "dsb2018" / "labels"
    for pair in pairs(bench.data, keys):
        if pair.read().pixels.shape[0] == 1:
            for copy in range(COPIES):
                shutil.copy(pair.image, images / f"{pair.key}-{copy}.png")
                shutil.copy(labels / f"{pair.key}.png", truth / f"{pair.key}-{copy}.png")
    return images, truth


def _alone(stages: dict[str, list[str]], folder: Path) -> dict[str, float]:
    """Seconds of each stage alone, from file to file."""
    seconds, source = {}, Path("/dev/null")
    for name, command in stages.items():
        target = folder / f"{name}.out"
        with source.open("rb") as stdin, target.open("wb") as stdout:
            seconds[name] = timed(
                lambda c=command, i=stdin, o=stdout: subprocess.run(c, stdin=i, stdout=o, check=True)  # type: ignore[misc]
            )()
        source = target
    return seconds


def _pipe(commands: list[list[str]]) -> None:
    """All at once, each reading what the one before it writes.

    Raises:
        CalledProcessError: one of them failed.
    """
    processes: list[subprocess.Popen[bytes]] = []
    source: int | None = subprocess.DEVNULL
    for number, command in enumerate(commands):
        last = number == len(commands) - 1
        process = subprocess.Popen(command, stdin=source, stdout=subprocess.DEVNULL if last else subprocess.PIPE)
        if processes and processes[-1].stdout is not None:
            processes[-1].stdout.close()  # the reader has it; so a reader that stops ends the writer too
        processes.append(process)
        source = process.stdout.fileno() if process.stdout is not None else None
    codes = [process.wait() for process in processes]
    for code, command in zip(codes, commands, strict=True):
        if code:
            raise subprocess.CalledProcessError(code, command)
