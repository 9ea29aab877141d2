"""The peer's side of a comparison: a Python of another environment, driven by lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

SCRIPT = Path(__file__).with_name("cellpose_peer.py")
PATIENCE = 10.0  # seconds for the process to end after its input was closed
SHOWN_LINES = 8  # of what the peer wrote to stderr before it stopped


class PeerError(Exception):
    """The peer failed or stopped; the message is its own."""


class Peer:
    """A long-lived process; arrays go through .npy files in a folder, the rest through its stdin and stdout.

    Args:
        python: interpreter of the peer's environment.
        folder: for arrays and the peer's stderr.
        script: what it runs.
    """

    def __init__(self, python: str | Path, folder: Path, script: Path = SCRIPT) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.errors = folder / "stderr.txt"
        environment = os.environ | {"CELLPOSE_LOCAL_MODELS_PATH": str(folder / "models"), "PYTHONUNBUFFERED": "1"}
        environment.pop("PYTHONPATH", None)  # packages of ours are none of its
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [str(python), str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                cwd=folder,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def request(self, **message: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
        """Send one message and wait for its answer.

        Raises:
            PeerError: the peer says so, or is gone.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            last = self.errors.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
            raise PeerError("the peer stopped:\n" + "\n".join(last))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def prepare(self, task: str, arrays: Iterable[NDArray[Any]], **options: Any) -> None:  # noqa: ANN401 - JSON values
        """Hand a task its input; what it does with it now is not timed."""
        paths = []
        for number, array in enumerate(arrays):
            path = self.folder / f"{task}-{number}.npy"
            np.save(path, array)
            paths.append(str(path))
        self.request(do="prepare", task=task, arrays=paths, options=options)

    def run(self, task: str) -> float:
        """Run a prepared task; seconds that it took there."""
        return float(self.request(do="run", task=task)["seconds"])

    def results(self, task: str) -> list[NDArray[Any]]:
        """What the last run of a task gave."""
        return [np.load(path) for path in self.request(do="results", task=task)["arrays"]]

    def versions(self) -> dict[str, str]:
        """Of the peer and what it stands on."""
        return dict(self.request(do="versions")["versions"])

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it is gone already, and what was not sent with it
                self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
