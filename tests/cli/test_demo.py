"""cellkit demo: the bundled images, end to end."""

from __future__ import annotations

import imageio.v3 as iio

from cellkit.cli import showing
from cellkit.io.labels import read_labels


def use(crops, monkeypatch) -> None:
    """Take small parts of the samples: all of them take half a minute."""
    monkeypatch.setattr(showing, "SAMPLES", crops)


def test_labels_picture_and_table(cellkit, tmp_path, crops, monkeypatch):
    use(crops, monkeypatch)
    done = cellkit("demo", "-o", tmp_path / "demo")
    assert (done.code, done.err) == (0, "")
    assert sorted(path.stem for path in (tmp_path / "demo" / "labels").iterdir()) == [
        path.stem for path in sorted((crops / "images").iterdir())
    ]
    assert all(read_labels(str(path)).count > 0 for path in (tmp_path / "demo" / "labels").iterdir())
    assert iio.imread(tmp_path / "demo" / "overlay.png").ndim == 3
    lines = done.text.splitlines()
    assert lines[0].split()[:3] == ["image", "n_true", "n_predicted"]
    assert lines[5].split()[0] == "mean"
    assert float(lines[5].split()[3]) > 0.5
    assert f"picture: {tmp_path / 'demo' / 'overlay.png'} (found: amber, true: green)" in lines


def test_quiet_and_again(cellkit, tmp_path, crops, monkeypatch):
    use(crops, monkeypatch)
    for _ in range(2):
        done = cellkit("demo", "-o", tmp_path / "demo", "-q")
        assert (done.code, done.err, done.out) == (0, "", b"")


def test_output_that_cannot_be_written(cellkit, tmp_path):
    (tmp_path / "file").write_text("")
    done = cellkit("demo", "-o", tmp_path / "file" / "demo")
    assert done.code == 2
    assert done.err.count("\n") == 1
