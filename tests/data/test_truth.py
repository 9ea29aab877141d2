import h5py
import imageio.v3 as iio
import numpy as np
import pytest

from cellkit.data.truth import LabelFile, MaskFiles, StackedLabels, encode, flatten, read_mask
from cellkit.errors import InputError
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
    np.testing.assert_array_equal(read_mask(str(tmp_path / "m.png")), crossing_worms[0])


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
            read_mask(str(tmp_path / name))
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
        file["soft"] = np.zeros((2, 3, 4), np.float32)
    for reference, text in [
        (
            StackedLabels(path, "/labels", 0),
            f"{path}::/labels[0]: labels outside 0 to 2147483647 (number the objects anew)",
        ),
        (
            StackedLabels(path, "/soft", 1),
            f"{path}::/soft[1]: labels of type float32 (whole numbers are needed, 0 for background)",
        ),
        (
            StackedLabels(path, "/gone", 1),
            f"{path}::/gone[1]: the labels cannot be read (replace the file; it may be truncated)",
        ),
    ]:
        with pytest.raises(InputError) as caught:
            reference.read()
        assert str(caught.value) == text
