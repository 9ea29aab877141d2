"""Every layout of predictions against every layout of truths: one key per image on both sides."""

import json

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from cellkit.cli.inputs import label_images
from cellkit.data.layouts import find_truth
from cellkit.data.predicted import find_predicted
from cellkit.errors import InputError, NoInputError
from cellkit.io.label_hdf5 import LabelWriter
from cellkit.io.labels import LabelImage

NAMES = ("A01", "t1.b c")
SIZE = (12, 16)
LABELS = np.zeros(SIZE, np.uint8)
LABELS[2:6, 3:9] = 1
LABELS[7:10, 3:9] = 2
POLYGONS = [[[3, 2, 9, 2, 9, 6, 3, 6]], [[3, 7, 9, 7, 9, 10, 3, 10]]]


def write(path, labels=LABELS):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith("_seg.npy"):
        np.save(path, {"masks": labels}, allow_pickle=True)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, labels)
    else:
        iio.imwrite(path, labels)
    return path


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def coco_of(names, **changes):
    """A COCO file in which images are numbered from 40; both objects are in each."""
    return {
        "images": [{"id": 40 + i, "file_name": f"{n}.tif", "height": 12, "width": 16} for i, n in enumerate(names)],
        "annotations": [
            {"id": 2 * i + j + 1, "image_id": 40 + i, "category_id": 7, "segmentation": segmentation}
            for i in range(len(names))
            for j, segmentation in enumerate(POLYGONS)
        ],
        "categories": [{"id": 7, "name": "cell"}],
        **changes,
    }


def coco_file(root):
    return write_json(root / "truth.json", coco_of(NAMES))


def coco_folder(root):
    for name in NAMES:
        write(root / "images" / f"{name}.tif")
    write_json(root / "annotations" / "truth.json", coco_of(NAMES))
    return root


def label_files(root):
    for name in NAMES:
        write(root / f"{name}.tif")
    return root


def marked_label_files(root):
    for name in NAMES:
        write(root / f"{name}_cp_masks.png")
    return root


def cellpose_files(root):
    for name in NAMES:
        write(root / f"{name}_seg.npy")
        write(root / f"{name}_flows.tif")
    return root


def two_folders(root):
    for name in NAMES:
        write(root / "images" / f"{name}_img.tif")
        write(root / "labels" / f"{name}_masks.tif")
    return root


def beside(root):
    for name in NAMES:
        write(root / f"{name}_img.png")
        write(root / f"{name}_masks.png")
    return root


def write_objects(pattern):
    for name in NAMES:
        for label in (1, 2):
            path = pattern.parent / pattern.name.format(label)
            path = type(path)(str(path).replace("NAME", name))
            write(path, (LABELS == label).astype(np.uint8) * 255)


def objects(root):
    for name in NAMES:
        write(root / "images" / f"{name}.tif")
    write_objects(root / "worms" / "NAME_{}.png")
    return root


def objects_without_images(root):
    write_objects(root / "instances" / "NAME-{}.png")
    return root


def object_folders(root):
    for name in NAMES:
        write(root / name / "images" / f"{name}.png")
    write_objects(root / "NAME" / "masks" / "of_{}.png")
    return root


def object_folders_without_images(root):
    write_objects(root / "NAME" / "masks" / "of_{}.png")
    return root


def grouped_hdf5(root):
    root.mkdir()
    with h5py.File(root / "set.h5", "w") as file:
        for name in NAMES:
            file[f"labels/{name}"] = LABELS
    return root / "set.h5"


def our_hdf5(root):
    root.mkdir()
    with LabelWriter(root / "set.h5") as writer:
        for name in NAMES:
            writer.write(LabelImage(key=name, labels=LABELS.astype(np.int32)))
    return root / "set.h5"


def table(root):
    for name in NAMES:
        write(root / "raw" / f"{name}.png")
        write(root / "found" / f"of {name}.png")
    rows = "".join(f"raw/{name}.png,found/of {name}.png\n" for name in NAMES)
    (root / "pairs.csv").write_text("image,labels\n" + rows)
    return root / "pairs.csv"


TRUTHS = (
    coco_file,
    coco_folder,
    label_files,
    marked_label_files,
    cellpose_files,
    two_folders,
    beside,
    objects,
    object_folders,
    grouped_hdf5,
    our_hdf5,
    table,
)
PLAIN = (label_files, marked_label_files, our_hdf5)  # read as label images as they are
WITHOUT_TRUTH = (objects_without_images, object_folders_without_images)  # only names tell them


@pytest.mark.parametrize("truth_layout", TRUTHS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("layout", TRUTHS + WITHOUT_TRUTH, ids=lambda layout: layout.__name__)
def test_one_key_on_both_sides(tmp_path, truth_layout, layout):
    truth_root = str(truth_layout(tmp_path / "truth"))
    root = str(layout(tmp_path / "found"))
    truth, found = find_truth(truth_root), find_predicted(root, truth_root)
    assert sorted(truth) == sorted(NAMES)
    if layout in PLAIN:
        assert found is None
        named = [item.key.removesuffix("_cp_masks") for item in label_images([root])]
        assert sorted(named) == sorted(find_truth(root)) == sorted(NAMES)
        return
    assert sorted(found) == sorted(NAMES)
    for name in NAMES:
        expected = truth[name].read(SIZE).labels
        np.testing.assert_array_equal(found[name].read(expected.shape).labels, expected)


@pytest.mark.parametrize("layout", [coco_file, coco_folder], ids=lambda layout: layout.__name__)
def test_results_take_the_names_of_the_truth(tmp_path, layout):
    truth_root = str(layout(tmp_path / "truth"))
    results = [
        {"image_id": 41, "category_id": 7, "segmentation": segmentation, "score": 0.5} for segmentation in POLYGONS
    ]
    path = write_json(tmp_path / "found" / "results.json", results)
    for root in (path, path.parent):
        found = find_predicted(str(root), truth_root)
        assert list(found) == list(find_truth(truth_root))
        np.testing.assert_array_equal(found[NAMES[1]].read(SIZE).labels, LABELS)
        assert found[NAMES[1]].read().annotations.scores.tolist() == [0.5, 0.5]
        assert not found[NAMES[0]].read(SIZE).labels.any()


def test_truth_known_already_is_not_looked_for(tmp_path):
    path = write_json(tmp_path / "found.json", coco_of(NAMES))
    truth = find_truth(str(coco_file(tmp_path / "truth")))
    assert set(find_predicted(str(path), "gone", truth)) == set(NAMES)


def test_results_of_more_images_than_the_folder_has(tmp_path):
    truth = coco_folder(tmp_path / "truth")
    (truth / "images" / f"{NAMES[0]}.tif").unlink()
    results = [{"image_id": i, "category_id": 7, "bbox": [1, 1, 2, 2], "score": 1} for i in (40, 41)]
    found = find_predicted(str(write_json(tmp_path / "results.json", results)), str(truth))
    assert list(found) == [NAMES[1]]


def test_results_of_one_of_two_files(tmp_path):
    truth = coco_folder(tmp_path / "truth")
    other = coco_of(["z"])
    other["images"][0]["id"] = other["annotations"][0]["image_id"] = other["annotations"][1]["image_id"] = 90
    write(truth / "images" / "z.tif")
    write_json(truth / "annotations" / "val.json", other)
    results = [{"image_id": 90, "category_id": 7, "bbox": [1, 1, 2, 2], "score": 1}]
    path = write_json(tmp_path / "results.json", results)
    assert list(find_predicted(str(path), str(truth))) == ["z"]
    write_json(path, [results[0] | {"image_id": 91}])
    with pytest.raises(InputError, match="1 of 1 results are of images that the truth does not have"):
        find_predicted(str(path), str(truth))
    write_json(path, [])
    with pytest.raises(InputError) as caught:
        find_predicted(str(path), str(truth))
    assert str(caught.value) == (
        f"{path}: its images may be those of truth.json and val.json (name the COCO file of the truth)"
    )


def test_results_need_a_truth_with_numbers(tmp_path):
    path = write_json(tmp_path / "results.json", [])
    with pytest.raises(InputError) as caught:
        find_predicted(str(path), str(label_files(tmp_path / "truth")))
    assert str(caught.value) == (
        f"{path}: a list of results names images by number, and the truth is no COCO file that has numbers "
        "(give the COCO file as truth, or predictions with images and annotations)"
    )


def test_a_truth_as_prediction_of_itself(tmp_path):
    content = coco_of(NAMES)
    content["annotations"][0]["iscrowd"] = 1
    path = str(write_json(tmp_path / "truth.json", content))
    found = find_predicted(path, path)[NAMES[0]].read().annotations
    assert found.scores.tolist() == [1.0]
    assert found.ids.tolist() == [2]
    assert find_truth(path)[NAMES[0]].read().annotations.ids.tolist() == [2, 1]


def test_boxes_may_be_predicted(tmp_path):
    boxes = [{"id": 1, "image_id": 40, "category_id": 7, "bbox": [1, 2, 3, 4]}]
    path = str(write_json(tmp_path / "boxes.json", coco_of(NAMES, annotations=boxes)))
    assert find_predicted(path, path)["A01"].read(SIZE).annotations.boxes.tolist() == [[1, 2, 3, 4]]


def test_json_files_that_are_no_predictions(tmp_path):
    truth = str(coco_file(tmp_path / "truth"))
    path = write_json(tmp_path / "found" / "other.json", {"labels": []})
    with pytest.raises(InputError) as caught:
        find_predicted(str(path), truth)
    assert str(caught.value) == (
        f"{path}: the JSON is neither a list of results nor a COCO file (a list, or images and annotations)"
    )
    assert find_predicted(str(path.parent), truth) is None
    write_json(tmp_path / "found" / "a.json", [])
    assert list(find_predicted(str(path.parent), truth)) == list(NAMES)
    write_json(tmp_path / "found" / "b.json", [])
    with pytest.raises(InputError) as caught:
        find_predicted(str(path.parent), truth)
    assert str(caught.value) == f"{path.parent}: it has 2 files of predictions: a.json, b.json (name one of them)"


@pytest.fixture
def sequences(tmp_path):
    """Two sequences of two data sets, a frame of each annotated; all frames have results."""
    for place in ("X/01", "X/02", "Y/01"):
        for frame in ("013", "014"):
            write(tmp_path / f"{place}/t{frame}.tif")
            write(tmp_path / f"{place}_RES/mask{frame}.tif", LABELS * (2 if place == "X/02" else 1))
        write(tmp_path / f"{place}_GT/SEG/man_seg013.tif")
    return tmp_path


@pytest.mark.parametrize("root", ["X", "X/01_RES", "X/02_RES"])
@pytest.mark.parametrize("truth_root", ["X/01_GT", "X/01_GT/SEG", "X/01", "Y"])
def test_results_of_a_sequence(sequences, root, truth_root):
    arguments = str(sequences / root), str(sequences / truth_root)
    if root == "X/02_RES":
        with pytest.raises(NoInputError) as caught:
            find_predicted(*arguments)
        assert str(caught.value) == (
            f"{sequences / root}: its results 02_RES are of no frame that the truth has (01_RES belongs to 01_GT)"
        )
        return
    found = find_predicted(*arguments)
    assert {key: labels.name for key, labels in found.items()} == {
        "t013": str(sequences / "X/01_RES/mask013.tif")  # of the frames without truth nothing is asked
    }


def test_results_of_several_sequences(sequences):
    def predicted(root, truth_root):
        found = find_predicted(str(sequences / root), str(sequences / truth_root))
        return {key: str(labels.name).removeprefix(f"{sequences}/") for key, labels in found.items()}

    assert predicted("X", "X") == {"01_t013": "X/01_RES/mask013.tif", "02_t013": "X/02_RES/mask013.tif"}
    assert predicted("X/02_RES", "X") == {"02_t013": "X/02_RES/mask013.tif"}
    assert predicted(".", "Y") == {"t013": "Y/01_RES/mask013.tif"}
    assert predicted(".", ".") == {
        "01_t013": "X/01_RES/mask013.tif",
        "02_t013": "X/02_RES/mask013.tif",
        "t013": "Y/01_RES/mask013.tif",
    }


def test_results_in_a_folder_of_any_name(sequences):
    for frame in ("0013", "0014"):
        write(sequences / "mine" / f"mask{frame}.tif")
    root = str(sequences / "mine")
    assert list(find_predicted(root, str(sequences / "X" / "01_GT"))) == ["t013"]
    with pytest.raises(NoInputError, match="its results mine are of no frame"):
        find_predicted(root, str(sequences / "X"))  # of which sequence is not said


def test_label_files_of_frames_are_plain(sequences):
    for name in ("t013.tif", "t014.tif"):
        write(sequences / "labels" / name)
    assert find_predicted(str(sequences / "labels"), str(sequences / "X" / "01_GT")) is None


def test_images_are_no_predictions_of_the_truth_beside_them(sequences):
    assert find_predicted(str(sequences / "X" / "01"), str(sequences / "X" / "01_GT")) is None


def test_label_images_called_as_results_are_plain(tmp_path):
    for folder in ("truth", "found"):
        write(tmp_path / folder / "mask001.tif")
    write(tmp_path / "truth" / "t001.tif")
    assert find_predicted(str(tmp_path / "found"), str(tmp_path / "truth")) is None


def test_what_is_left_to_the_reader_of_label_images(tmp_path):
    truth = str(label_files(tmp_path / "truth"))
    (tmp_path / "broken.h5").write_bytes(b"text")
    for root in ("-", "gone", f"{tmp_path}/set.h5::/labels", f"{tmp_path}/broken.h5", f"{truth}/A01.tif"):
        assert find_predicted(root, truth) is None
    (tmp_path / "empty").mkdir()
    assert find_predicted(str(tmp_path / "empty"), truth) is None


def test_pictures_beside_label_images_change_nothing(tmp_path):
    truth = str(label_files(tmp_path / "truth"))
    for folder in (label_files(tmp_path / "plain"), cellpose_files(tmp_path / "cellpose")):
        write(folder / "A01.jpg")
        write(folder / "overview.jpg")
    assert find_predicted(str(tmp_path / "plain"), truth) is None
    assert list(find_predicted(str(tmp_path / "cellpose"), truth)) == list(NAMES)


def test_labels_without_image_are_predictions_too(tmp_path):
    truth = str(label_files(tmp_path / "truth"))
    for layout, image in ((two_folders, "images/A01_img.tif"), (beside, "A01_img.png")):
        root = layout(tmp_path / layout.__name__)
        (root / image).unlink()
        found = find_predicted(str(root), truth)
        assert list(found) == list(NAMES)
        np.testing.assert_array_equal(found["A01"].read().labels, LABELS)


def test_one_file_against_one_file_needs_no_common_name(tmp_path):
    truth = str(write(tmp_path / "a.tif"))
    assert list(find_predicted(str(write(tmp_path / "b_seg.npy")), truth)) == ["a"]


def test_stacks_are_paired_plane_by_plane(tmp_path):
    for name in ("truth", "found"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["labels"] = np.stack([LABELS] * 2)
    found = find_predicted(str(tmp_path / "found.h5"), str(tmp_path / "truth.h5"))
    assert list(found) == list(find_truth(str(tmp_path / "truth.h5"))) == ["truth_t000", "truth_t001"]


def test_predictions_without_truth_keep_their_names(tmp_path):
    truth = str(label_files(tmp_path / "truth"))
    path = write_json(tmp_path / "found.json", coco_of(["other", NAMES[1], NAMES[0]]))
    assert list(find_predicted(str(path), truth)) == [*NAMES, "other"]


def test_two_predictions_of_one_image(tmp_path):
    truth = str(label_files(tmp_path / "truth"))
    path = write_json(tmp_path / "found.json", coco_of(["A01", "A01_masks"]))
    with pytest.raises(InputError) as caught:
        find_predicted(str(path), truth)
    assert str(caught.value) == f"{path}: A01_masks.tif: a second prediction of A01 (give one prediction per image)"


def test_a_file_without_labels_says_so(tmp_path):
    with h5py.File(tmp_path / "found.h5", "w") as file:
        file["raw"] = np.zeros((3, 3))
    with pytest.raises(NoInputError, match="there are no labels in it"):
        find_predicted(str(tmp_path / "found.h5"), str(label_files(tmp_path / "truth")))


@pytest.mark.parametrize(
    ("truth", "root", "plain"),
    [
        ("bbbc010", "bbbc010/labels", True),
        ("bbbc010/labels", "bbbc010", False),
        ("bbbc010/labels", "bbbc010/worms", False),
        ("dsb2018_raw", "dsb2018_raw/stage1_train", False),
        ("livecell", "livecell/annotations.json", False),
        ("coco/instances.json", "coco", False),
    ],
)
def test_real_folders(data, truth, root, plain):
    found = find_predicted(str(data / root), str(data / truth))
    known = find_truth(str(data / truth))
    assert (found is None) == plain
    assert set(find_truth(str(data / root)) if plain else found) == set(known)
    if not plain:
        key = next(iter(found))
        assert found[key].read().labels.shape == known[key].read().labels.shape
