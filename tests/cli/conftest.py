"""Runs command lines in this process: as the console script would, but without starting Python each time."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from dataclasses import dataclass

import imageio.v3 as iio
import pytest
import torch

from cellkit.cli.app import main
from cellkit.cli.showing import SAMPLES
from cellkit.config import NetworkSpec, Preprocessing, RepresentationSpec
from cellkit.io.checkpoints import Checkpoint, save_checkpoint
from cellkit.networks import build


@dataclass
class Done:
    """Exit code and output of one command line."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()


class _Terminal(io.BytesIO):
    """Bytes of a terminal."""

    def isatty(self) -> bool:
        return True


class _Stream(io.TextIOWrapper):
    """Text over bytes that can be read back after the command has closed it."""

    def __init__(self, data: bytes = b"", *, terminal: bool = False) -> None:
        self.raw_bytes = _Terminal(data) if terminal else io.BytesIO(data)
        super().__init__(self.raw_bytes, encoding="utf-8", write_through=True)

    def close(self) -> None:
        self.flush()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small images gain nothing by threads, and on a busy machine they wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@contextlib.contextmanager
def preserved_log():
    """What a command sets up for its own process is gone afterwards."""
    log = logging.getLogger("cellkit")
    before = (log.handlers[:], log.level, log.propagate)
    yield
    log.handlers[:], log.level, log.propagate = before


@pytest.fixture
def package_log():
    """The log of the package as it was before the test."""
    with preserved_log():
        yield


@pytest.fixture(scope="session")
def trained(crops):
    """A function that trains a tiny model on the crops: (path, more arguments) -> path."""

    def train(path, *more):
        tiny = ("--set", "crop=32", "--set", "batch=2", "--set", "widths=4,8", "--steps", 4, "--device", "cpu", "-q")
        colour = ("--set", "channels=3", "--set", "colour=rgb")
        with preserved_log():
            assert main([str(a) for a in ("pretrain", crops, "-o", path, *tiny, *colour, *more)]) == 0
        return path

    return train


@pytest.fixture
def cellkit(package_log):
    """A function from arguments (and stdin) to what the command did."""

    def run(*arguments, stdin: bytes = b"", terminal: bool = False) -> Done:
        out, err = _Stream(terminal=terminal), _Stream()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", _Stream(stdin, terminal=terminal))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = main([str(argument) for argument in arguments])
        return Done(code=code, out=out.raw_bytes.getvalue(), err=err.raw_bytes.getvalue().decode())

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny two-channel model with random weights."""
    torch.manual_seed(0)
    spec = NetworkSpec(name="unet", channels=2, outputs=3, widths=(4, 8))
    checkpoint = Checkpoint(
        network=spec,
        representation=RepresentationSpec(name="flow"),
        preprocessing=Preprocessing(channels=2),
        weights=build(spec).state_dict(),
        history=(),
        card={},
        training=None,
    )
    path = tmp_path_factory.mktemp("model") / "tiny.ckpt"
    save_checkpoint(path, checkpoint)
    return path


CROPS = {  # corner of 96 x 96 pixels with a few nuclei in it, of images of different kinds
    "2cfa61bef6542dd3": (200, 300),
    "2dd3356f2dcf470a": (100, 100),  # histology, in colour
    "356d9903d16074f1": (80, 80),
    "56d0da5b663ddd49": (120, 120),
}
SIDE = 96


@pytest.fixture(scope="session")
def crops(tmp_path_factory):
    """A folder with images/ and labels/: small parts of four bundled samples."""
    root = tmp_path_factory.mktemp("crops")
    for part in ("images", "labels"):
        (root / part).mkdir()
        for name, (y, x) in CROPS.items():
            picture = iio.imread(SAMPLES / part / f"{name}.png")
            iio.imwrite(root / part / f"{name}.png", picture[y : y + SIDE, x : x + SIDE])
    return root
