"""What folders, files, patterns and datasets are taken to mean."""

from __future__ import annotations

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile

from cellkit.errors import InputError, NoInputError, UsageError
from cellkit.io.images import ReadOptions
from cellkit.io.labels import LabelImage, write_labels
from cellkit.io.sources import Source, find_sources, find_together, from_files
from cellkit.provenance import digest_of

PNG = imagecodecs.png_encode(np.arange(63, dtype=np.uint8).reshape(7, 9))


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)


def keys(*inputs, **options):
    return [source.key for source in find_sources([str(path) for path in inputs], **options)]


def test_folder_in_natural_order_without_what_tools_made(tmp_path):
    make(tmp_path, "t10.png", "t2.png", "t1.PNG", "Zähler 1.png", "a.b.png")
    make(tmp_path, "t2_masks.png", "t2_cp_masks.png", "t2_flows.png", ".hidden.png", ".t3.png.77.part", "._t2.png")
    (tmp_path / "failed.tsv").write_text("")
    (tmp_path / "t2_seg.npy").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    make(tmp_path / "inside", "deep.png")
    assert keys(tmp_path) == ["Zähler 1", "a.b", "t1", "t2", "t10"]
    assert keys(tmp_path, recursive=True) == ["Zähler 1", "a.b", "t1", "t2", "t10", "deep"]


def test_labels_and_predictions_of_ours_are_no_input(tmp_path, two_touching_cells):
    make(tmp_path, "a.png")
    image = LabelImage(key="b", labels=two_touching_cells, scores=None, pixel_size=None, history=(), source="b")
    for name in ("b.tif", "c.png", "d.h5"):
        write_labels(tmp_path / name, image)
    assert keys(tmp_path) == ["a"]


def test_named_files_are_taken_as_they_are(tmp_path):
    make(tmp_path, "b_masks.png", "a.png")
    assert keys(tmp_path / "b_masks.png", tmp_path / "a.png") == ["b_masks", "a"]


def test_missing_or_broken_file_fails_when_it_is_read(tmp_path):
    (tmp_path / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\n and then nothing")
    make(tmp_path, "good.png")
    missing, broken, good = find_sources([str(tmp_path / name) for name in ("none.tif", "broken.h5", "good.png")])
    with pytest.raises(InputError, match=r"none\.tif: does not exist \(check the name\)"):
        list(missing.images())
    with pytest.raises(InputError, match=r"broken\.h5: cannot be decoded"):
        list(broken.images())
    assert [image.pixels.shape for image in good.images()] == [(1, 7, 9)]


def test_pattern_that_the_shell_left_alone(tmp_path):
    make(tmp_path, "a10.png", "a9.png", "a9_masks.png", "b.png", "x/a1.png")
    assert keys(f"{tmp_path}/a*.png") == ["a9", "a10"]
    assert keys(f"{tmp_path}/**/a*.png") == ["a9", "a10", "a1"]
    make(tmp_path, "odd[1].png")
    assert keys(tmp_path / "odd[1].png") == ["odd[1]"]


def test_nothing_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(NoInputError) as caught:
        find_sources([str(tmp_path)])
    assert str(caught.value).startswith(f"{tmp_path}: no image matches (looked for .btf .h5")
    assert str(caught.value).endswith(".tif .tiff, not in folders inside)")
    with pytest.raises(NoInputError, match="no image matches"):
        find_sources([f"{tmp_path}/*.tif"])
    with pytest.raises(NoInputError, match="no input: no image matches"):
        find_sources([])


def test_two_sources_of_one_name(tmp_path):
    make(tmp_path, "a/x.png", "b/x.tif")
    with pytest.raises(UsageError) as caught:
        find_sources([str(tmp_path / "a"), str(tmp_path / "b")])
    assert str(caught.value) == (
        f"{tmp_path}/b/x.tif: its output would be called 'x', as that of {tmp_path}/a/x.png "
        "(rename one, or run them one after the other into two folders)"
    )


def test_images_that_are_learned_from_together_may_have_one_name(tmp_path):
    for folder in ("sstem", "emps"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            tifffile.imwrite(tmp_path / folder / f"{number}.tif", np.zeros((8, 8), np.uint8))
    both = [str(tmp_path / "sstem"), str(tmp_path / "emps")]
    assert [source.key for source in find_together(both)] == ["sstem_0", "sstem_1", "emps_0", "emps_1"]
    assert [source.key for source in find_together(both[:1])] == ["0", "1"]
    files = [str(tmp_path / folder / "0.tif") for folder in ("sstem", "emps")]
    assert [source.key for source in find_together(files)] == ["sstem_0", "emps_0"]
    with pytest.raises(UsageError, match="its output would be called 'sstem_0'"):
        find_together([both[0], both[0]])
    (tmp_path / "none").mkdir()
    with pytest.raises(NoInputError, match="none: no image matches"):
        find_together([*both, str(tmp_path / "none")])


@pytest.mark.parametrize("labels", ["labels", "masks"])
def test_dataset_root_gives_its_images(tmp_path, labels):
    make(tmp_path, "images/a.png", f"{labels}/a.png", "overview.png")
    assert keys(tmp_path) == ["a"]
    assert keys(tmp_path, recursive=True) == ["a"]


def test_images_folder_alone(tmp_path):
    make(tmp_path, "images/a.png")
    (tmp_path / "annotations.json").write_text("{}")
    assert keys(tmp_path) == ["a"]


def test_marked_images_lose_their_mark(tmp_path):
    make(tmp_path, "1_img.png", "1_masks.png", "2_img.png", "2_masks.png", "_img.png")
    assert keys(tmp_path) == ["1", "2", "_img"]
    assert keys(tmp_path / "2_img.png") == ["2"]


def test_one_sequence_of_the_cell_tracking_challenge(tmp_path):
    make(tmp_path, "01/t01.png", "01/t00.png", "01_GT/SEG/man_seg01.png", "01_ST/SEG/man_seg01.png", "01_RES/m.png")
    assert keys(tmp_path) == ["t00", "t01"]
    assert keys(tmp_path / "01") == ["t00", "t01"]


def test_two_sequences_are_told_apart(tmp_path):
    make(tmp_path, "01/t00.png", "02/t00.png", "02/t01.png", "01_GT/SEG/man_seg00.png")
    assert keys(tmp_path) == ["01_t00", "02_t00", "02_t01"]


def test_data_science_bowl_as_published(tmp_path):
    make(tmp_path, "stage1_train/b7/images/b7.png", "stage1_train/b7/masks/1.png", "stage1_train/a1/images/a1.png")
    assert keys(tmp_path) == ["a1", "b7"]
    assert keys(tmp_path / "stage1_train") == ["a1", "b7"]
    assert keys(tmp_path / "stage1_train" / "b7") == ["b7"]


def test_datasets_of_one_file(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["b"] = file["a/raw10"] = file["a/raw9"] = np.zeros((5, 7))
        file["labels"] = np.zeros((5, 7), int)
    path = str(tmp_path / "f.h5")
    sources = find_sources([path])
    assert [source.key for source in sources] == ["f_a_raw9", "f_a_raw10", "f_b"]
    assert sources[0].path == f"{path}::/a/raw9"
    assert [image.key for image in sources[0].images()] == ["f_a_raw9"]
    assert keys(f"{path}::/b") == ["f"]
    assert keys(path, options=ReadOptions(dataset="b")) == ["f"]


def test_images_beside_labels_in_one_file_keep_their_names(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name in ("x1", "x2"):
            file[f"images/{name}"] = file[f"labels/{name}"] = np.zeros((5, 7))
    assert keys(tmp_path) == ["x1", "x2"]


def test_frames_carry_the_key_of_their_source(tmp_path):
    tifffile.imwrite(tmp_path / "f_img.ome.tif", np.zeros((2, 5, 7), np.uint8), metadata={"axes": "TYX"})
    (source,) = find_sources([str(tmp_path)])
    assert source.key == "f"
    assert [image.key for image in source.images()] == ["f_t000", "f_t001"]


def test_source_from_bytes():
    source = Source(key="a", path="a.png", data=PNG)
    (image,) = source.images()
    assert image.pixels.shape == (1, 7, 9)
    assert image.digest == source.digest() == digest_of(PNG)


@pytest.mark.parametrize("mark", ["\n", "\r\n", "\0"])
def test_list_of_files(tmp_path, mark):
    names = ["a 1.png", "ü/b.png", "c.png"]
    (tmp_path / "list").write_bytes((mark.join(names) + mark).encode())
    assert from_files(str(tmp_path / "list")) == names


def test_list_of_files_that_is_none(tmp_path):
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(NoInputError, match=r"empty: lists no file \(write one path per line\)"):
        from_files(str(tmp_path / "empty"))
    with pytest.raises(InputError, match=r"none: cannot be read: No such file or directory \(name a text file"):
        from_files(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("folder", "count", "first"),
    [
        ("dsb2018", 601, None),
        ("dsb2018_raw", 4, "01d44a26f6680c42ba94c9bc6339228579a95d0e2695b149b7cc0c9592b21baf"),
        ("livecell", 15, "A172_Phase_C7_1_00d20h00m_4"),
        ("ctc/Fluo-N2DH-GOWT1", 4, "t01"),
        ("usiigaci", 11, None),
        ("bbbc010", 22, "A01"),
        ("scellseg_styles/style1", 5, "126"),
        ("coco", 100, None),
        ("monuseg", 8, None),
    ],
)
def test_real_collections(data, folder, count, first):
    found = keys(data / folder)
    assert len(found) == count
    assert first is None or found[0] == first
    assert not any(key.endswith(("_img", "_masks")) for key in found)
