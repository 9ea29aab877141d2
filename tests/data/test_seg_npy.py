import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from cellkit.data.seg_npy import SegFile
from cellkit.errors import InputError

REPAIR = "(save it anew in Cellpose, or export the masks as TIFF)"


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


def write(folder, content, **options):
    """As Cellpose writes it: np.save of a dictionary."""
    path = folder / "a_seg.npy"
    np.save(path, content, allow_pickle=True, **options)
    return SegFile(str(path))


def cellpose(labels):
    return {
        "outlines": labels.astype(np.uint16),
        "masks": labels.astype(np.uint16),
        "chan_choose": [0, 0],
        "ismanual": np.zeros(2, bool),
        "filename": Path("a.png"),
        "flows": [labels.astype(np.uint8), [], None, np.float32(0.4), [np.zeros(3, object)]],
        "diameter": np.float64(28.0),
    }


def test_masks_of_cellpose_are_read(tmp_path, two_touching_cells):
    truth = write(tmp_path, cellpose(two_touching_cells)).read(two_touching_cells.shape)
    np.testing.assert_array_equal(truth.labels, two_touching_cells)
    assert truth.labels.dtype == np.int32


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("module", [b"numpy._core.", b"numpy.core."])
def test_files_of_any_pickle_protocol_and_numpy(tmp_path, two_touching_cells, protocol, module):
    path = write(tmp_path, None).name
    header = Path(path).read_bytes()[:128]
    body = pickle.dumps(np.array({"masks": np.asfortranarray(two_touching_cells)}), protocol=protocol)
    if protocol < 4:  # later protocols store the length of names
        body = body.replace(b"numpy._core.", module)
    Path(path).write_bytes(header + body)
    np.testing.assert_array_equal(SegFile(path).read().labels, two_touching_cells)


def test_code_is_not_run(tmp_path, two_touching_cells):
    proof = tmp_path / "proof"
    seg = write(tmp_path, {"masks": two_touching_cells, "filename": Attack(proof)})
    with pytest.raises(InputError) as caught:
        seg.read()
    assert str(caught.value) == (
        f"{seg.name}: it names {os.system.__module__}.system, which is not admitted: it could run code {REPAIR}"
    )
    assert not proof.exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"outlines": np.zeros((3, 3))}, "there is no label image 'masks' in it"),
        ({"masks": "none"}, "there is no label image 'masks' in it"),
        ({"masks": np.zeros((2, 3, 4), np.uint16)}, "'masks' has 3 dimensions"),
        (np.zeros((3, 3)), "it holds an array, not Cellpose's dictionary"),
    ],
)
def test_other_contents_are_named(tmp_path, content, problem):
    seg = write(tmp_path, content)
    with pytest.raises(InputError) as caught:
        seg.read()
    assert str(caught.value).startswith(f"{seg.name}: {problem} (")


@pytest.mark.parametrize("kept", [0, 5, 60, 130, 200])
def test_a_truncated_file_is_named(tmp_path, two_touching_cells, kept):
    seg = write(tmp_path, cellpose(two_touching_cells))
    Path(seg.name).write_bytes(Path(seg.name).read_bytes()[:kept])
    with pytest.raises(InputError, match=r"a_seg\.npy: .* \(save it anew in Cellpose"):
        seg.read()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError) as caught:
        SegFile(str(tmp_path / "a_seg.npy")).read()
    assert str(caught.value) == f"{tmp_path / 'a_seg.npy'}: the file is not there (check its path)"
