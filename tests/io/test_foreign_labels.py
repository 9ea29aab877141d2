"""Label images that other tools made, and files that hold none."""

import io
import struct
import zlib

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile

from cellkit.errors import InputError
from cellkit.io.labels import read_labels


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32, np.uint64, np.int64, np.float32])
def test_tiff_of_other_tools(tmp_path, crowded_field, dtype):
    path = tmp_path / "x y.z.tif"
    tifffile.imwrite(path, crowded_field.astype(dtype))
    found = read_labels(str(path))
    np.testing.assert_array_equal(found.labels, crowded_field)
    assert (found.key, found.scores, found.pixel_size, found.history) == ("x y.z", None, None, ())
    assert found.count == 36


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_png_of_other_tools(tmp_path, two_touching_cells, bits):
    labels = np.minimum(two_touching_cells, 2**bits - 1)
    scale = 255 // (2**bits - 1) if bits < 8 else 1
    data = imagecodecs.png_encode((labels * scale).astype(np.uint16 if bits == 16 else np.uint8))
    if bits < 8:
        data = shallow_png(labels, bits)
    (tmp_path / "a.png").write_bytes(data)
    np.testing.assert_array_equal(read_labels(str(tmp_path / "a.png")).labels, labels)


def shallow_png(labels, bits):
    """A grey PNG of less than 8 bits per pixel, by hand: no writer here makes one."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    planes = (labels[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    packed = np.packbits(planes.reshape(len(labels), -1).astype(np.uint8), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], bits, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_planes_with_axes_of_length_one(tmp_path, two_touching_cells):
    for shaped in (two_touching_cells[None], two_touching_cells[None, ..., None]):
        np.save(tmp_path / "a.npy", shaped)
        found = read_labels(str(tmp_path / "a.npy"))
        assert found.key == "a"
        np.testing.assert_array_equal(found.labels, two_touching_cells)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def tiff(array, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


COLOUR = np.ones((20, 30, 3), np.uint8)
NO_COLOURS = "is a colour image, not labels (save the labels as one grey channel)"
BAD = {
    "empty": (b"", "is empty (make it again, or copy it again)"),
    "text": (b"just text", "is no label image (give TIFF, PNG, HDF5 or .npy)"),
    "negative": (npy(np.full((3, 3), -2)), "holds negative numbers (-2) (labels begin at 1, 0 is background)"),
    "fractions": (
        npy(np.full((3, 3), 0.5)),
        "holds fractions or NaN, not labels (save the labels as uint16 or uint32)",
    ),
    "nan": (npy(np.full((3, 3), np.nan)), "holds fractions or NaN, not labels (save the labels as uint16 or uint32)"),
    "large": (npy(np.full((3, 3), 2**31)), "holds labels above 2147483647 (2147483648) (number the cells from 1)"),
    "complex": (
        npy(np.ones((3, 3), complex)),
        "holds no whole numbers (complex128) (save the labels as uint16 or uint32)",
    ),
    "no pixels": (npy(np.ones((0, 3))), "has no pixels (0 x 3) (make it again)"),
    "stack": (npy(np.ones((5, 20, 30), int)), "is 3-D (5 x 20 x 30), not a 2-D label image (give one plane per file)"),
    "line": (npy(np.ones(5, int)), "is 1-D (5), not a 2-D label image (give one plane per file)"),
    "colour npy": (npy(COLOUR), NO_COLOURS),
    "colour tiff": (tiff(COLOUR, photometric="rgb"), NO_COLOURS),
    "planar tiff": (tiff(COLOUR.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), NO_COLOURS),
    "palette tiff": (
        tiff(COLOUR[..., 0], photometric="palette", colormap=np.zeros((3, 256), np.uint16)),
        NO_COLOURS,
    ),
    "colour png": (
        imagecodecs.png_encode(COLOUR),
        "is a colour or palette image, not labels (save the labels as one grey channel)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_holds_no_labels_is_one_line(tmp_path, name):
    data, text = BAD[name]
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    for given in (None, data):
        with pytest.raises(InputError) as caught:
            read_labels(str(path), given)
        assert str(caught.value) == f"{path}: {text}"


def test_python_objects_are_not_loaded(tmp_path):
    np.save(tmp_path / "a_seg.npy", np.array({"masks": 1}, dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be decoded"):
        read_labels(str(tmp_path / "a_seg.npy"))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"none\.tif: there is no such file \(check the path\)"):
        read_labels(str(tmp_path / "none.tif"))
    with pytest.raises(InputError, match=r"is a folder, not a file \(name a file in it\)"):
        read_labels(str(tmp_path))


def test_foreign_tiff_cut_anywhere_is_an_error():
    for options in ({}, {"compression": "zlib", "tile": (16, 16)}, {"rowsperstrip": 4}):
        data = tiff(np.arange(40 * 50, dtype=np.uint16).reshape(40, 50), **options)
        for length in range(0, len(data), 37):
            with pytest.raises(InputError):
                read_labels("a.tif", data[:length])


def test_hdf5_of_other_tools(tmp_path, two_touching_cells):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["exported/nuclei"] = two_touching_cells.astype(np.uint8)
        file["scores"] = np.ones(3)
        file.attrs["format"] = "of another tool"
    np.testing.assert_array_equal(read_labels(str(path)).labels, two_touching_cells)
    np.testing.assert_array_equal(read_labels(f"{path}::/exported/nuclei").labels, two_touching_cells)
    np.testing.assert_array_equal(read_labels(str(path), dataset="exported/nuclei").labels, two_touching_cells)
    with pytest.raises(InputError) as caught:
        read_labels(f"{path}::/none")
    assert str(caught.value).endswith("has no dataset '/none' (name one: ::/exported/nuclei, ::/scores)")


def test_hdf5_in_which_no_dataset_is_meant(tmp_path, two_touching_cells):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["one"] = file["two"] = two_touching_cells
    with pytest.raises(InputError, match=r"holds no dataset 'labels' \(name one: ::/one, ::/two\)"):
        read_labels(str(path))
    with h5py.File(path, "w"):
        pass
    with pytest.raises(InputError, match=r"holds no dataset 'labels' \(it holds no dataset at all\)"):
        read_labels(str(path))


def test_data_in_other_files_is_not_read(tmp_path, two_touching_cells):
    (tmp_path / "raw").write_bytes(two_touching_cells.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "labels",
            two_touching_cells.shape,
            np.int32,
            external=[(str(tmp_path / "raw"), 0, two_touching_cells.nbytes)],
        )
    with pytest.raises(InputError, match=r"the data of 'labels' lies in other files \(copy the data into the file\)"):
        read_labels(str(tmp_path / "a.h5"))
