"""cellkit convert of weights that others trained: a model, a table, and errors of one line."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch

from cellkit.io.checkpoints import load_checkpoint

WIDTH = 8
HINT = "the model has not"


def norm(name, channels):
    ones = {f"{name}.{part}": torch.ones(channels) for part in ("weight", "bias", "running_mean", "running_var")}
    return ones | {f"{name}.num_batches_tracked": torch.tensor(3)}


def resnet18():
    """torchvision's names, with blocks an eighth as wide."""
    state = {"conv1.weight": torch.rand(WIDTH, 3, 7, 7)} | norm("bn1", WIDTH)
    inputs = WIDTH
    for layer in range(1, 5):
        width = WIDTH * 2 ** (layer - 1)
        for block in range(2):
            own = f"layer{layer}.{block}"
            for conv, enter in ((1, inputs), (2, width)):
                state |= {f"{own}.conv{conv}.weight": torch.rand(width, enter, 3, 3)} | norm(f"{own}.bn{conv}", width)
            if inputs != width:
                state |= {f"{own}.downsample.0.weight": torch.rand(width, inputs, 1, 1)}
                state |= norm(f"{own}.downsample.1", width)
            inputs = width
    return state | {"fc.weight": torch.rand(1000, inputs), "fc.bias": torch.rand(1000)}


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    torch.save(resnet18(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


def test_a_table_says_what_became_of_each_weight(cellkit, tmp_path, weights):
    model = tmp_path / "model.ckpt"
    done = cellkit("convert", weights, "-o", model)
    assert done.code == 0
    head, *rows = [line.split("\t") for line in done.text.splitlines()]
    assert head == ["status", "name", "note"]
    assert ["mapped", "backbone.bottom_up.res3.0.shortcut.weight", "16 x 8 x 1 x 1"] in rows
    assert ["dropped", "fc.weight", "a classifier or projection, which the model has not"] in rows
    assert ["random", "roi_heads.box_predictor.0.cls_score.bias", "not in the file"] in rows
    counts = {status: sum(row[0] == status for row in rows) for status in ("mapped", "dropped", "random")}
    assert counts["mapped"] == len(resnet18()) - 2
    assert counts["dropped"] == 2
    assert done.err.splitlines() == [
        f"cellkit convert: ResNet trained on ImageNet, resnet-18: {counts['mapped']} weights mapped, 2 dropped, "
        f"{counts['random']} of the model begin at random",
        f"cellkit convert: {model}: finds nothing before it is fine-tuned",
    ]
    stem = load_checkpoint(model).weights["backbone.bottom_up.stem.conv1.weight"]
    assert torch.equal(stem, resnet_stem(weights))


def resnet_stem(path):
    return torch.load(path, weights_only=True)["conv1.weight"]


def test_a_line_of_json_for_each_weight(cellkit, tmp_path, weights):
    done = cellkit("convert", weights, "-o", tmp_path / "model.ckpt", "--json", "-q")
    assert (done.code, done.err) == (0, "")
    rows = [json.loads(line) for line in done.text.splitlines()]
    assert {"status": "dropped", "name": "fc.bias", "note": f"a classifier or projection, which {HINT}"} in rows


def test_the_model_is_one_of_ours(cellkit, tmp_path, weights, crops):
    model = tmp_path / "model.ckpt"
    assert cellkit("convert", weights, "-o", model, "-q").code == 0
    facts = json.loads(cellkit("info", model, "--json").text)
    assert facts["network"]["settings"]["trunk"] == "resnet-18"
    assert facts["card"]["source"] == "resnet18.pth"
    assert facts["history"][0]["verb"] == "convert"
    image = crops / "images" / "2dd3356f2dcf470a.png"
    done = cellkit("predict", image, "-m", model, "-o", tmp_path / "a.h5", "--set", "most=5", "-q")
    assert (done.code, done.err) == (0, "")


def test_run_again_it_does_nothing_and_another_file_is_not_overwritten(cellkit, tmp_path, weights):
    model = tmp_path / "model.ckpt"
    assert cellkit("convert", weights, "-o", model, "-q").code == 0
    before = model.stat().st_mtime_ns
    again = cellkit("convert", weights, "-o", model)
    assert (again.code, again.text, again.err) == (0, "", f"cellkit convert: {model}: up to date\n")
    torch.save(resnet18(), weights)
    other = cellkit("convert", weights, "-o", model, "-q")
    repair = "add --on-exists overwrite, or choose another -o"
    assert (other.code, model.stat().st_mtime_ns) == (2, before)
    assert other.err == f"cellkit convert: error: {model}: was made by other settings or of another input ({repair})\n"
    assert cellkit("convert", weights, "-o", model, "-q", "--on-exists", "overwrite").code == 0
    assert model.stat().st_mtime_ns != before


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_malicious_pickle_is_not_run(cellkit, tmp_path):
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": {"a": Malicious(tmp_path / "made")}}))
    done = cellkit("convert", tmp_path / "evil.pkl", "-o", tmp_path / "model.ckpt", "-q")
    problem = "names posix.system, which could run code; nothing was loaded (give a .pkl of NumPy arrays alone)"
    assert (done.code, done.err) == (5, f"cellkit convert: error: {tmp_path / 'evil.pkl'}: {problem}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pkl"]


def test_deformable_convolutions_are_refused(cellkit, tmp_path, weights):
    torch.save(resnet18() | {"backbone.bottom_up.res3.0.conv2_offset.weight": torch.zeros(1)}, weights)
    done = cellkit("convert", weights, "-o", tmp_path / "model.ckpt", "-q")
    problem = "has deformable convolutions (conv2_offset), which these networks do not compute"
    assert (done.code, done.err.count("\n")) == (5, 1)
    assert problem in done.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-o", "{}/model.tif"), "holds weights, which become a model (name it FILE.ckpt)"),
        (("-o", "{}/"), "holds weights, which become a model (name it FILE.ckpt)"),
        (("-o", "{}/model.ckpt", "--to", "coco"), "--to: is for labels, not for weights (leave it out)"),
        (("-o", "{}/model.ckpt", "--keep-fraction", "0.1"), "--keep-fraction: is for labels, not for weights"),
        (("-o", "{}/nowhere/model.ckpt"), "nowhere"),
    ],
)
def test_what_cannot_be_meant(cellkit, tmp_path, weights, arguments, text):
    done = cellkit("convert", weights, *(part.format(tmp_path) for part in arguments), "-q")
    assert done.code == 2
    assert text in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "model.ckpt").exists()
