"""cellkit info: models, outputs, images, the installation."""

from __future__ import annotations

import json

import numpy as np
import tifffile
import torch

from cellkit import __version__
from cellkit.config import NetworkSpec
from cellkit.networks import build


def test_installation(cellkit):
    facts = json.loads(cellkit("info", "--json").text)
    assert (facts["cellkit"], facts["torch"]) == (__version__, torch.__version__)
    assert facts["device"]
    assert facts["models"]["nuclei"].endswith("nuclei.ckpt")
    assert f"cellkit: {__version__}\n" in cellkit("info").text


def test_bundled_model_has_a_card(cellkit):
    facts = json.loads(cellkit("info", "nuclei", "--json").text)
    assert facts["representation"]["name"] == "flow"
    network = build(NetworkSpec.from_dict(facts["network"]))
    assert facts["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert facts["network"]["outputs"] == 3


def test_checkpoint(cellkit, model):
    done = cellkit("info", model)
    assert (done.code, done.err) == (0, "")
    assert f"file: {model}\n" in done.text
    assert "  widths: 4, 8\n" in done.text


def test_output_tells_the_commands_that_made_it(cellkit, tmp_path, crops, model):
    image = crops / "images" / "2cfa61bef6542dd3.png"
    for output in ("a.h5", "b.tif"):
        verb = "predict" if output == "a.h5" else "segment"
        assert cellkit(verb, image, "-o", tmp_path / output, "--diameter", "40", "-q").code == 0
        (record,) = json.loads(cellkit("info", tmp_path / output, "--json").text)["history"]
        assert (record["verb"], record["model"], record["arguments"]) == (verb, "nuclei", {"diameter": 40.0})
        assert record["input_digest"]
    assert json.loads(cellkit("info", tmp_path / "a.h5", "--json").text)["maps"] == ["2cfa61bef6542dd3"]
    text = cellkit("info", tmp_path / "b.tif").text
    assert "axes: YX\n" in text
    assert "history:\n  1.\n    verb: segment\n" in text


def test_image(cellkit, tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((2, 5, 6), np.uint16), photometric="minisblack", metadata={"axes": "CYX"}
    )
    facts = json.loads(cellkit("info", tmp_path / "a.tif", "--json").text)
    assert (facts["axes"], facts["shape"], facts["dtype"], facts["history"]) == ("CYX", [2, 5, 6], "uint16", [])


def test_what_it_cannot_tell_about(cellkit, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    done = cellkit("info", tmp_path / "notes.txt")
    assert done.code == 5
    assert done.err == (
        f"cellkit info: error: {tmp_path / 'notes.txt'}: neither an image nor an output of cellkit "
        "(give an image, a prediction, labels or a checkpoint)\n"
    )
    unknown = cellkit("info", "nucleii")
    assert unknown.code == 5
    assert "did you mean nuclei?" in unknown.err
    missing = cellkit("info", tmp_path / "no.tif")
    assert missing.code == 5
    assert missing.err.count("\n") == 1
