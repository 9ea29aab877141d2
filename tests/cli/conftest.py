"""Runs command lines in this process: as the console script would, but without starting Python each time."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass

import pytest

from cellkit.cli.app import main


@dataclass
class Done:
    """Exit code and output of one command line."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()


class _Stream(io.TextIOWrapper):
    """Text over bytes that can be read back after the command has closed it."""

    def __init__(self, data: bytes = b"") -> None:
        self.raw_bytes = io.BytesIO(data)
        super().__init__(self.raw_bytes, encoding="utf-8", write_through=True)

    def close(self) -> None:
        self.flush()


@pytest.fixture
def cellkit(monkeypatch):
    """A function from arguments (and stdin) to what the command did."""

    def run(*arguments, stdin: bytes = b"") -> Done:
        out, err = _Stream(), _Stream()
        monkeypatch.setattr(sys, "stdin", _Stream(stdin))
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        try:
            code = main([str(argument) for argument in arguments])
        finally:
            monkeypatch.undo()
        return Done(code=code, out=out.raw_bytes.getvalue(), err=err.raw_bytes.getvalue().decode())

    return run
