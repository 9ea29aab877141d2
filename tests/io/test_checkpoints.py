import errno
import os
import pickle
import zipfile
from dataclasses import replace

import pytest
import torch

from cellkit.config import NetworkSpec, Preprocessing, RepresentationSpec
from cellkit.errors import ModelError, OutputError
from cellkit.io import checkpoints
from cellkit.io.checkpoints import Checkpoint, load_checkpoint, model_path, save_checkpoint
from cellkit.io.labels import read_history
from cellkit.provenance import Record

GIVE = "(give a bundled model's name or a file that cellkit wrote)"


def checkpoint(**changes):
    generator = torch.Generator().manual_seed(0)
    item = Checkpoint(
        network=NetworkSpec(name="style-unet", channels=3, widths=(8, 16)),
        representation=RepresentationSpec(name="flow", settings={"steps": 100}),
        preprocessing=Preprocessing(channels=3, colour="rgb", percentiles=(2, 98.5), diameter=30.0),
        weights={
            "conv.weight": torch.randn(8, 3, 3, 3, generator=generator),
            "bn.running_var": torch.rand(8, generator=generator),
            "bn.num_batches_tracked": torch.tensor(2**40),
        },
        history=(Record(verb="pretrain", arguments={"steps": 10, "data": "größe"}),),
        card={"licence": "CC0", "scores": {"ap_dsb": 0.5}, "limits": ["small"]},
        training={"step": 7, "optimiser": {"state": {0: {"exp_avg": torch.ones(3)}}, "betas": (0.9, 0.99)}},
    )
    return replace(item, **changes)


TENSORS = ("weights", "training", "extra", "contrast")


def facts(item):
    return {name: value for name, value in vars(item).items() if name not in TENSORS}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.ckpt"


def test_what_is_saved_is_loaded(path):
    item = checkpoint()
    save_checkpoint(path, item)
    found = load_checkpoint(path, training=True)
    assert facts(found) == facts(item)
    assert list(found.weights) == list(item.weights)
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in item.weights.items())
    assert found.training["step"] == 7
    assert found.training["optimiser"]["betas"] == (0.9, 0.99)
    assert torch.equal(found.training["optimiser"]["state"][0]["exp_avg"], torch.ones(3))
    assert load_checkpoint(path).training is None
    assert read_history(path) == item.history
    assert list(path.parent.iterdir()) == [path]


def test_half_weights_come_back_as_float32(path, tmp_path):
    item = checkpoint()
    item.weights["large"] = torch.tensor([1.0, 1e6])
    item.weights["big.weight"] = torch.rand(100_000)
    save_checkpoint(path, item, half=True)
    found = load_checkpoint(path).weights
    for name, tensor in item.weights.items():
        expected = tensor if name in ("large", "bn.num_batches_tracked") else tensor.half().float()
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], expected)
    save_checkpoint(tmp_path / "full.ckpt", item)
    assert path.stat().st_size < 0.6 * (tmp_path / "full.ckpt").stat().st_size


def test_a_view_is_saved_without_what_it_is_a_view_of(path):
    save_checkpoint(path, checkpoint(weights={"a": torch.rand(1_000_000)[:10]}, training=None))
    assert path.stat().st_size < 20_000


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_leaves_the_old_file(path, monkeypatch, number):
    save_checkpoint(path, checkpoint())
    before = path.read_bytes()

    def refuse(descriptor):
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match="could not be written"):
        save_checkpoint(path, checkpoint(training=None))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_what_was_trained_beside_the_network_and_crops_of_styles_travel_along(path):
    crops = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    save_checkpoint(path, checkpoint(extra={"alpha": torch.tensor(-1.5)}, contrast={"style1": crops}), half=True)
    found = load_checkpoint(path)
    assert found.extra == {"alpha": torch.tensor(-1.5)}
    assert found.extra["alpha"].dtype == torch.float32
    assert torch.equal(found.contrast["style1"], crops)


def test_files_without_the_newer_parts_are_read(path):
    save_checkpoint(path, checkpoint())
    content = torch.load(path, weights_only=True)
    del content["extra"], content["contrast"]
    torch.save(content, path)
    found = load_checkpoint(path)
    assert (found.extra, found.contrast) == ({}, {})
    torch.save(content | {"contrast": {"style1": "no tensor"}}, path)
    assert error_of(path) == "has no valid 'contrast' " + GIVE


def test_what_could_not_be_loaded_again_is_not_kept(path):
    with pytest.raises(OutputError) as caught:
        save_checkpoint(path, checkpoint(training={"code": RunsCode("never")}))
    assert str(caught.value).startswith(f"{path}: does not read back as it was written: holds Python objects")
    assert not path.exists()


class RunsCode:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def error_of(path, **options):
    with pytest.raises(ModelError) as caught:
        load_checkpoint(path, **options)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_does_not_run(path, tmp_path, protocol):
    path.write_bytes(pickle.dumps(RunsCode(tmp_path / "made"), protocol))
    problem = "is a Python pickle, which could run code, and no cellkit checkpoint; it was not opened"
    assert error_of(path) == f"{problem} {GIVE}"
    assert not (tmp_path / "made").exists()


def test_a_pickle_in_a_checkpoint_does_not_run(path, tmp_path):
    torch.save({"format": "cellkit checkpoint", "card": RunsCode(tmp_path / "made")}, path)
    problem = "holds Python objects that could run code, and no cellkit checkpoint; they were not loaded"
    assert error_of(path) == f"{problem} {GIVE}"
    assert not (tmp_path / "made").exists()


def test_a_text_pickle_does_not_run(path, tmp_path):
    path.write_bytes(pickle.dumps(RunsCode(tmp_path / "made"), 0))
    assert error_of(path) == f"is no cellkit checkpoint {GIVE}"
    assert not (tmp_path / "made").exists()


def test_files_that_are_no_checkpoint(path, tmp_path):
    assert error_of(path) == f"there is no such file {GIVE}"
    assert error_of(tmp_path) == f"is a folder, not a file {GIVE}"
    path.write_bytes(b"")
    assert error_of(path) == f"is empty {GIVE}"
    path.write_text("a text file")
    assert error_of(path) == f"is no cellkit checkpoint {GIVE}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")
    assert error_of(path) == f"is no cellkit checkpoint {GIVE}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"garbage")
    assert error_of(path) in (
        f"is no cellkit checkpoint, or damaged {GIVE}",
        "holds Python objects that could run code, and no cellkit checkpoint; they were not loaded " + GIVE,
    )
    for content in ({"weights": {}}, [1, 2], torch.ones(3)):
        torch.save(content, path)
        assert error_of(path) == f"is no cellkit checkpoint {GIVE}"


def test_a_checkpoint_cut_anywhere(path):
    save_checkpoint(path, checkpoint())
    data = path.read_bytes()
    for length in (4, 100, len(data) // 2, len(data) - 30, len(data) - 1):
        path.write_bytes(data[:length])
        assert error_of(path) == "is truncated (copy it again)"


def test_a_changed_byte_is_noticed(path):
    save_checkpoint(path, checkpoint(weights={"a": torch.zeros(1000)}))
    data = bytearray(path.read_bytes())
    data[data.index(bytes(2000)) + 1000] = 1
    path.write_bytes(data)
    assert error_of(path) == "is damaged: a checksum is wrong (copy it again)"


def changed(path, **changes):
    save_checkpoint(path, checkpoint())
    torch.save(torch.load(path, weights_only=True) | changes, path)


def spec(kind, **changes):
    return {"network": NetworkSpec, "preprocessing": Preprocessing}[kind]().to_dict() | changes


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format_version": 2}, "is of format 2; this cellkit reads up to 1 (upgrade cellkit)"),
        ({"format_version": "1"}, f"is no cellkit checkpoint {GIVE}"),
        ({"network": "unet"}, f"has no valid 'network' {GIVE}"),
        (
            {"network": spec("network", name="gigunet")},
            "has the network name 'gigunet', unknown to this cellkit; "
            "it knows unet, style-unet, mini-unet, fcrn, light-unet, batch-unet, batch-unet-transposed, detector "
            "(upgrade cellkit)",
        ),
        (
            {"network": spec("network", widths=[8, "16"])},
            "has the network widths (8, '16'), unknown to this cellkit (upgrade cellkit)",
        ),
        (
            {"network": spec("network", channels=True)},
            "has the network channels True, unknown to this cellkit (upgrade cellkit)",
        ),
        (
            {"preprocessing": spec("preprocessing", percentiles=[1.0])},
            "has the preprocessing percentiles (1.0,), unknown to this cellkit (upgrade cellkit)",
        ),
        (
            {"preprocessing": spec("preprocessing", diameter="30")},
            "has the preprocessing diameter '30', unknown to this cellkit (upgrade cellkit)",
        ),
        (
            {"representation": {"name": "flow", "settings": 3}},
            "has the representation settings 3, unknown to this cellkit (upgrade cellkit)",
        ),
        ({"weights": {}}, f"has no valid 'weights' {GIVE}"),
        ({"weights": {"a": 1.0}}, f"has no valid 'weights' {GIVE}"),
        ({"card": None}, f"has no valid 'card' {GIVE}"),
        ({"history": "{"}, f"has no valid 'history' {GIVE}"),
    ],
)
def test_what_is_not_as_the_format_says(path, changes, text):
    changed(path, **changes)
    assert error_of(path) == text


def test_fields_of_a_newer_cellkit(path):
    changed(path, network=spec("network", depth=5))
    text = error_of(path)
    assert text.startswith("has a 'network' that this cellkit does not know: ")
    assert text.endswith("'depth' (upgrade cellkit)")


def test_a_model_without_state_for_resuming(path):
    save_checkpoint(path, checkpoint(training=None))
    expected = "holds no state of training to resume from (start anew with these weights)"
    assert error_of(path, training=True) == expected


@pytest.fixture
def models(tmp_path, monkeypatch):
    bundled, own = tmp_path / "weights", tmp_path / "own"
    for folder, names in ((bundled, ("nuclei", "cyto")), (own, ("nuclei", "mine"))):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.ckpt").write_text("weights")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(checkpoints, "BUNDLED", bundled)
    monkeypatch.delenv("CELLKIT_MODELS", raising=False)
    return tmp_path


def test_where_a_model_is(models, monkeypatch):
    assert model_path("nuclei") == models / "weights" / "nuclei.ckpt"
    monkeypatch.setenv("CELLKIT_MODELS", str(models / "own"))
    assert model_path("nuclei") == models / "own" / "nuclei.ckpt"
    assert model_path("cyto") == models / "weights" / "cyto.ckpt"
    (models / "work" / "nuclei").mkdir()
    assert model_path("nuclei") == models / "own" / "nuclei.ckpt"
    (models / "work" / "cyto").write_text("a file here")
    assert str(model_path("cyto")) == "cyto"
    assert model_path(str(models / "own" / "mine.ckpt")) == models / "own" / "mine.ckpt"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nucleus", "there is no model or file of this name (did you mean nuclei?)"),
        ("zzz", "there is no model or file of this name (models: cyto, nuclei)"),
        ("nuclei.ckpt", f"there is no such file {GIVE}"),
        ("in/nuclei", f"there is no such file {GIVE}"),
        ("../weights", f"is a folder, not a model {GIVE}"),
    ],
)
def test_an_unknown_model_names_what_there_is(models, name, text):
    with pytest.raises(ModelError) as caught:
        model_path(name)
    assert str(caught.value) == f"{name}: {text}"
