import h5py
import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from cellkit.data.truth import LabelFile, MaskFiles, StackedLabels, encode, flatten, paint
from cellkit.errors import InputError
from cellkit.io.label_hdf5 import encode_hdf5
from cellkit.io.labels import LabelImage, write_labels
from cellkit.ops.run_lengths import decode


@pytest.fixture
def crossing_worms():
    """Masks (3, 30, 40): a long worm crossed by a short one, and a small one inside the long one."""
    masks = np.zeros((3, 30, 40), bool)
    masks[0, 10:18, 2:38] = True
    masks[1, 4:26, 20:24] = True
    masks[2, 12:14, 5:8] = True
    return masks


def test_the_smallest_object_is_on_top(crossing_worms):
    truth = flatten(encode(crossing_worms), (30, 40))
    np.testing.assert_array_equal(truth.labels == 3, crossing_worms[2])
    np.testing.assert_array_equal(truth.labels == 2, crossing_worms[1])
    np.testing.assert_array_equal(truth.labels > 0, crossing_worms.any(0))
    assert truth.labels.dtype == np.int32


def test_overlapping_objects_stay_whole_and_are_counted(crossing_worms):
    truth = flatten(encode(crossing_worms), (30, 40))
    assert truth.overlapping == 8 * 4 + 2 * 3
    np.testing.assert_array_equal([decode(mask) for mask in truth.masks], crossing_worms)


def test_empty_masks_are_dropped_without_a_gap(crossing_worms):
    crossing_worms[0] = False
    truth = flatten(encode(crossing_worms), (30, 40))
    assert len(truth.masks) == 2
    np.testing.assert_array_equal(np.unique(truth.labels), [0, 1, 2])


def test_no_object_at_all(empty_field):
    truth = flatten([], empty_field.shape)
    np.testing.assert_array_equal(truth.labels, empty_field)
    assert (truth.masks, truth.overlapping) == ((), 0)


def test_mask_files_equal_their_masks(tmp_path, crossing_worms):
    paths = []
    for i, mask in enumerate(crossing_worms):
        paths.append(str(tmp_path / f"{i}.png"))
        iio.imwrite(paths[-1], mask.astype(np.uint8) * 255)
    truth = MaskFiles("worms", tuple(paths)).read((30, 40))
    np.testing.assert_array_equal(truth.labels, flatten(encode(crossing_worms), (30, 40)).labels)


def test_alpha_of_a_mask_does_not_count(tmp_path, crossing_worms):
    rgba = np.zeros((30, 40, 4), np.uint8)
    rgba[..., 3] = 255
    rgba[crossing_worms[0], 1] = 200
    iio.imwrite(tmp_path / "m.png", rgba)
    found = MaskFiles("m", (str(tmp_path / "m.png"),)).read()
    np.testing.assert_array_equal(found.labels, crossing_worms[0])


def test_another_size_than_the_image_is_refused(tmp_path, crossing_worms):
    path = str(tmp_path / "m.png")
    iio.imwrite(path, crossing_worms[0].astype(np.uint8))
    for reference in (MaskFiles("m", (path,)), LabelFile(path)):
        with pytest.raises(InputError) as caught:
            reference.read((30, 41))
        assert str(caught.value) == f"{path}: the labels have 30 x 40 pixels, the image has 30 x 41 (pair them anew)"


def test_bad_mask_files_are_named(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for name, problem in [("text.png", "is not an image"), ("gone.png", "does not exist")]:
        with pytest.raises(InputError, match=f"{name}: {problem}"):
            MaskFiles("masks", (str(tmp_path / name),)).read()
    with pytest.raises(InputError) as caught:
        MaskFiles("no masks", ()).read()
    assert str(caught.value) == "no masks: there is no mask, and no image that tells the size (name the images too)"


def test_coloured_labels_are_refused(tmp_path):
    # red and green may hold nuclei and cells: which is meant cannot be guessed
    iio.imwrite(tmp_path / "l.png", np.zeros((9, 9, 3), np.uint8) + np.uint8([0, 1, 2]))
    with pytest.raises(InputError):
        LabelFile(str(tmp_path / "l.png")).read()


def test_stacked_labels_name_what_is_wrong(tmp_path):
    path = str(tmp_path / "a.h5")
    with h5py.File(path, "w") as file:
        file["labels"] = np.full((2, 3, 4), -1, np.int16)
        file["soft"] = np.full((2, 3, 4), 0.5, np.float32)
        file["complex"] = np.zeros((2, 3, 4), complex)
    for reference, text in [
        (
            StackedLabels(path, "/labels", 0),
            f"{path}::/labels[0]: labels outside 0 to 2147483647 (number the objects anew)",
        ),
        (
            StackedLabels(path, "/soft", 1),
            f"{path}::/soft[1]: holds fractions or NaN, not labels (whole numbers are needed, 0 for background)",
        ),
        (
            StackedLabels(path, "/complex", 0),
            f"{path}::/complex[0]: labels of type complex128 (whole numbers are needed, 0 for background)",
        ),
        (
            StackedLabels(path, "/gone", 1),
            f"{path}::/gone[1]: the labels cannot be read (replace the file; it may be truncated)",
        ),
    ]:
        with pytest.raises(InputError) as caught:
            reference.read()
        assert str(caught.value) == text


def test_an_empty_mask_file_is_left_out_with_a_warning(tmp_path, crossing_worms, caplog):
    crossing_worms[1] = False
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path, mask in zip(paths, crossing_worms, strict=True):
        iio.imwrite(path, mask.astype(np.uint8) * 255)
    truth = MaskFiles("worms", tuple(paths)).read()
    assert len(truth.masks) == truth.labels.max() == 2
    assert [r.getMessage() for r in caplog.records] == [f"worms: 1 mask without a pixel is left out, e.g. {paths[1]}"]


def test_no_mask_at_all_is_an_empty_image():
    truth = MaskFiles("no masks", ()).read((30, 40))
    np.testing.assert_array_equal(truth.labels, np.zeros((30, 40)))
    assert truth.masks == ()


def test_painting_keeps_the_numbers_of_empty_masks(crossing_worms):
    crossing_worms[0] = False
    truth = paint(encode(crossing_worms), (30, 40))
    np.testing.assert_array_equal(np.unique(truth.labels), [0, 2, 3])
    assert len(truth.masks) == 3


def test_pixel_size_and_scores_of_our_label_images(tmp_path, two_touching_cells):
    ours = LabelImage(key="a", labels=two_touching_cells, pixel_size=0.65, scores=np.float32([0.5, 0.75]))
    write_labels(tmp_path / "a.tif", ours)
    write_labels(tmp_path / "a.png", ours)
    (tmp_path / "a.h5").write_bytes(encode_hdf5(ours))
    for name in ("a.tif", "a.png", "a.h5"):
        truth = LabelFile(str(tmp_path / name)).read()
        assert truth.pixel_size == 0.65
        np.testing.assert_array_equal(truth.scores, np.float32([0.5, 0.75]))


def test_pixel_size_of_tiff_files_of_other_tools(tmp_path, two_touching_cells):
    labels = two_touching_cells.astype(np.uint16)
    tifffile.imwrite(tmp_path / "ome.ome.tif", labels, metadata={"axes": "YX", "PhysicalSizeX": 0.325})
    tifffile.imwrite(tmp_path / "imagej.tif", labels, imagej=True, resolution=(4, 4), metadata={"unit": "um"})
    tifffile.imwrite(tmp_path / "tags.tif", labels, resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    tifffile.imwrite(tmp_path / "screen.tif", labels, resolution=(72, 72), resolutionunit="INCH")
    iio.imwrite(tmp_path / "really_png.png", labels)
    (tmp_path / "really_png.png").rename(tmp_path / "really_png.tif")
    sizes = {path.stem: LabelFile(str(path)).read().pixel_size for path in tmp_path.iterdir()}
    expected = {"ome.ome": 0.325, "imagej": 0.25, "tags": 0.5, "screen": None, "really_png": None}
    assert sizes == pytest.approx(expected)


def test_pixel_size_of_masks_and_stacks(tmp_path, crossing_worms):
    for index, mask in enumerate(crossing_worms):
        options = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"} if index else {}
        tifffile.imwrite(tmp_path / f"{index}.tif", mask.astype(np.uint8), **options)
    masks = MaskFiles("worms", tuple(str(tmp_path / f"{index}.tif") for index in range(3)))
    assert masks.read().pixel_size == pytest.approx(0.5)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["labels"] = crossing_worms.astype(np.uint8)
        file["labels"].attrs["pixel_size"] = 0.3
    assert StackedLabels(str(tmp_path / "a.h5"), "/labels", 0).read().pixel_size == 0.3
    assert masks.read().annotations is None


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("gaps", np.uint16([[0, 7], [4000, 7]])),
        ("bytes", np.uint8([[0, 7], [255, 7]])),
        ("32 bits", np.uint32([[0, 7], [70_000, 7]])),
        ("signed", np.int32([[0, 7], [70_000, 7]])),
        ("boolean", np.array([[False, True], [True, True]])),
        ("whole floats", np.float32([[0, 7], [300, 7]])),
        ("empty", np.zeros((2, 2), np.uint16)),
    ],
)
def test_labels_of_every_kind(tmp_path, name, labels):
    shallow = labels.dtype.itemsize <= 2  # bytes; PNG has no more
    references = [LabelFile(stored(tmp_path / f"a{suffix}", labels)) for suffix in (".tif", ".npy", ".h5")]
    references += [LabelFile(stored(tmp_path / "a.png", labels))] if shallow else []
    references.append(StackedLabels(stored(tmp_path / "b.h5", np.stack([labels] * 2)), "/labels", 1))
    for reference in references:
        truth = reference.read((2, 2))
        np.testing.assert_array_equal(truth.labels, labels.astype(np.int64))
        assert truth.labels.dtype == np.int32


def stored(path, labels):
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["labels"] = labels
    elif path.suffix == ".npy":
        np.save(path, labels)
    elif path.suffix == ".png":
        iio.imwrite(path, labels.astype(np.uint8) if labels.dtype == bool else labels)
    else:
        tifffile.imwrite(path, labels)
    return str(path)


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".h5"])
@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (
            np.int16([[0, -1]]),
            "holds negative numbers (-1) (labels begin at 1, 0 is background; "
            "pixels of which nothing is known are for pretrain and finetune --method supported)",
        ),
        (np.int16([[-1, -2]]), "holds negative numbers (-2) (labels begin at 1, 0 is background)"),
        (np.float32([[0, 0.5]]), "holds fractions or NaN, not labels (save the labels as uint16 or uint32)"),
        (np.float32([[0, np.nan]]), "holds fractions or NaN, not labels (save the labels as uint16 or uint32)"),
        (np.uint32([[0, 2**31]]), "holds labels above 2147483647 (2147483648) (number the cells from 1)"),
        (np.zeros((4, 5, 3), np.uint8), "is a colour image, not labels (save the labels as one grey channel)"),
        (np.zeros((5, 6, 7), np.uint8), "is 3-D (5 x 6 x 7), not a 2-D label image (give one plane per file)"),
    ],
)
def test_labels_that_are_none(tmp_path, suffix, labels, text):
    path = stored(tmp_path / f"a{suffix}", labels)
    with pytest.raises(InputError) as caught:
        LabelFile(path).read()
    assert str(caught.value) == f"{path}: {text}"


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".h5"])
def test_pixels_of_which_nothing_is_known(tmp_path, suffix):
    path = stored(tmp_path / f"a{suffix}", np.int16([[0, -1], [5, 7]]))
    truth = LabelFile(path, unknown=True).read((2, 2))
    assert truth.labels.tolist() == [[0, -1], [5, 7]]
    assert truth.labels.dtype == np.int32
    below = stored(tmp_path / f"b{suffix}", np.float32([[0, -1], [-3, 7]]))
    with pytest.raises(InputError) as caught:
        LabelFile(below, unknown=True).read()
    problem = "holds negative numbers (-3) (labels begin at 1, 0 is background, -1 where nothing is known)"
    assert str(caught.value) == f"{below}: {problem}"
