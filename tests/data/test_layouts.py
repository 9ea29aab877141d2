import json
from pathlib import Path

import h5py
import imageio.v3 as iio
import numpy as np
import pytest

from cellkit.data.layouts import find_images, find_pairs, find_truth, labels_in_folder, read_names, select
from cellkit.errors import InputError, NoInputError, UsageError
from cellkit.io.sources import find_sources

LABELS = np.zeros((12, 16), np.uint8)
LABELS[2:6, 3:9] = 1
LABELS[7:10, 3:9] = 2


def put(root, *names):
    """Write an image, or labels where the name says so."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("_seg.npy"):
            np.save(path, {"masks": LABELS}, allow_pickle=True)
            continue
        is_mask = any(word in name for word in ("mask", "label", "worms", "seg"))
        iio.imwrite(path, LABELS if is_mask else LABELS * 100)


def keys(dataset):
    return [pair.key for pair in dataset.pairs]


def read_all(dataset):
    """All pairs fit together and have two objects."""
    for pair in dataset.pairs:
        pixels = pair.read().pixels
        np.testing.assert_array_equal(pair.labels.read(pixels.shape[1:]).labels, LABELS)
    return len(dataset.pairs)


@pytest.mark.parametrize("folder", ["labels", "masks"])
def test_two_folders(tmp_path, folder):
    put(tmp_path, "images/t10.png", "images/t2.png", "images/alone.png", f"{folder}/t2.png", f"{folder}/t10.tif")
    put(tmp_path, f"{folder}/stray.png", "images/.hidden.png")
    dataset = find_pairs(str(tmp_path))
    assert dataset.layout == f"images/ + {folder}/"
    assert keys(dataset) == ["t2", "t10"]
    assert dataset.unpaired_images == (str(tmp_path / "images" / "alone.png"),)
    assert dataset.unpaired_labels == (str(tmp_path / folder / "stray.png"),)
    assert read_all(dataset) == 2


def test_labels_in_their_folder_may_be_marked(tmp_path):
    put(tmp_path, "images/a.png", "labels/a_masks.png", "images/b.b é.png", "labels/b.b é_cp_masks.png")
    assert keys(find_pairs(str(tmp_path))) == ["a", "b.b é"]


def test_img_and_masks(tmp_path):
    put(tmp_path, "x_img.png", "x_masks.png", "y_img.png", "z_masks.png", "x_flows.tif")
    dataset = find_pairs(str(tmp_path))
    assert dataset.layout == "NAME_img + NAME_masks"
    assert keys(dataset) == ["x"]
    assert dataset.unpaired_images == (str(tmp_path / "y_img.png"),)
    assert dataset.unpaired_labels == (str(tmp_path / "z_masks.png"),)
    assert read_all(dataset) == 1


def test_cellpose_names(tmp_path):
    put(tmp_path, "a.png", "a_masks.png", "b.tif", "b_cp_masks.tif", "c.png", "c_seg.npy", "b_flows.tif", "d.png")
    dataset = find_pairs(str(tmp_path))
    assert dataset.layout == "NAME + NAME_masks, NAME_cp_masks, NAME_seg.npy"
    assert keys(dataset) == ["a", "b", "c"]
    assert dataset.unpaired_images == (str(tmp_path / "d.png"),)
    assert read_all(dataset) == 3


def test_one_file_per_object_in_a_folder_per_image(tmp_path):
    train = tmp_path / "train"
    put(train, "id1/images/id1.png", "id2/images/id2.png")
    (train / "id1" / "masks").mkdir()
    for name, index in (("one", 1), ("two", 2)):
        iio.imwrite(train / "id1" / "masks" / f"{name}.png", (LABELS == index).astype(np.uint8) * 255)
    for root in (train, tmp_path):
        dataset = find_pairs(str(root))
        assert dataset.layout == "ID/images + ID/masks with one file per object"
        assert keys(dataset) == ["id1"]
        assert read_all(dataset) == 1
    assert dataset.unpaired_images == (str(train / "id2" / "images" / "id2.png"),)


@pytest.mark.parametrize("pattern", ["worms/A01_{}.png", "masks/A01-{}.png", "masks/A01/{}.png"])
def test_one_file_per_object_beside_images(tmp_path, pattern):
    put(tmp_path, "images/A01.tif", "images/B02.tif", "labels/A01.png", "labels/B02.png")
    for index in (1, 2):
        path = tmp_path / pattern.format(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        iio.imwrite(path, (LABELS == index).astype(np.uint8) * 255)
    dataset = find_pairs(str(tmp_path))
    assert dataset.layout.endswith("with one file per object")
    assert dataset.also == ("images/ + labels/",)
    assert keys(dataset) == ["A01"]
    assert dataset.unpaired_images == (str(tmp_path / "images" / "B02.tif"),)
    assert read_all(dataset) == 1


def test_numbered_label_images_are_not_objects(tmp_path):
    put(tmp_path, "images/a_1.png", "images/a_2.png", "images/a.png", "masks/a_1.png", "masks/a_2.png")
    assert find_pairs(str(tmp_path)).layout == "images/ + masks/"


@pytest.mark.parametrize("truth", ["01_GT", "01_ST"])
def test_cell_tracking_challenge(tmp_path, truth):
    put(tmp_path, "01/t000.tif", "01/t007.tif", f"{truth}/SEG/man_seg007.tif", f"{truth}/SEG/man_seg_000_003.tif")
    for root in (tmp_path, tmp_path / "01"):
        dataset = find_pairs(str(root))
        assert dataset.layout == "01/ + 01_GT/SEG"
        assert keys(dataset) == ["t007"]
        assert dataset.unpaired_images == (str(tmp_path / "01" / "t000.tif"),)
        assert dataset.unpaired_labels == (str(tmp_path / truth / "SEG" / "man_seg_000_003.tif"),)
        assert read_all(dataset) == 1
    assert "t007" in find_truth(str(tmp_path / truth / "SEG"))


def test_two_sequences_are_told_apart(tmp_path):
    put(tmp_path, "01/t000.tif", "01_GT/SEG/man_seg000.tif", "02/t000.tif", "02_GT/SEG/man_seg000.tif")
    assert keys(find_pairs(str(tmp_path))) == ["01_t000", "02_t000"]


def test_folders_of_data_sets(tmp_path):
    put(tmp_path, "a/x_img.png", "a/x_masks.png", "b/images/x.png", "b/labels/x.png", "c/other.png")
    dataset = find_pairs(str(tmp_path))
    assert dataset.layout == "2 folders of NAME_img + NAME_masks and images/ + labels/"
    assert keys(dataset) == ["a_x", "b_x"]


@pytest.fixture
def coco(tmp_path):
    put(tmp_path, "images/a.png", "images/b.png")
    images = [{"id": i, "file_name": f"{name}.png", "height": 12, "width": 16} for i, name in enumerate("ac")]
    boxes = [(3, 2, 9, 6), (3, 7, 9, 10)]
    annotations = [
        {"image_id": 0, "iscrowd": 0, "segmentation": [[x, y, right, y, right, bottom, x, bottom]]}
        for x, y, right, bottom in boxes
    ]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return tmp_path


def test_coco(coco):
    for root in (coco, coco / "truth.json"):
        dataset = find_pairs(str(root))
        assert dataset.layout == "COCO .json + images"
        assert keys(dataset) == ["a"]
        assert dataset.unpaired_images == (str(coco / "images" / "b.png"),)
        assert dataset.unpaired_labels == (f"{coco / 'truth.json'}: c.png",)
        assert read_all(dataset) == 1
    assert set(find_truth(str(coco / "truth.json"))) == {"a", "c"}
    assert find_images(str(coco / "truth.json")) == {"a": str(coco / "images" / "a.png")}
    assert {labels.purpose for labels in find_truth(str(coco)).values()} == {"truth"}
    assert {pair.labels.purpose for pair in find_pairs(str(coco)).pairs} == {"training"}
    (coco / "list.json").write_text("[]")
    with pytest.raises(InputError) as caught:
        find_truth(str(coco / "list.json"))
    assert str(caught.value) == f"{coco / 'list.json'}: the JSON is no COCO file (it needs images and annotations)"


def test_hdf5_groups(tmp_path):
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["images/a"], file["images/b"], file["labels/a"], file["labels/c"] = LABELS, LABELS, LABELS, LABELS
    for root in (tmp_path / "set.h5", tmp_path):
        dataset = find_pairs(str(root))
        assert dataset.layout == "HDF5 with images and labels"
        assert keys(dataset) == ["a"]
        assert dataset.unpaired_images == (f"{tmp_path / 'set.h5'}::/images/b",)
        assert dataset.unpaired_labels == (f"{tmp_path / 'set.h5'}::/labels/c",)
        assert read_all(dataset) == 1


def test_hdf5_with_one_image(tmp_path):
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["image"], file["label"] = LABELS * 50, LABELS
    dataset = find_pairs(str(tmp_path / "one.h5"))
    assert keys(dataset) == ["one"]
    assert read_all(dataset) == 1


@pytest.mark.parametrize("shape", [(3, 12, 16), (3, 12, 16, 2), (3, 2, 12, 16)])
def test_hdf5_stacks(tmp_path, shape):
    pixels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file["images"], file["labels"] = pixels, np.stack([LABELS] * 3)
    dataset = find_pairs(str(tmp_path / "stack.h5"))
    assert keys(dataset) == ["stack_t000", "stack_t001", "stack_t002"]
    assert read_all(dataset) == 3
    expected = pixels[1] if len(shape) > 3 else pixels[1][None]
    channels_first = np.moveaxis(expected, -1, 0) if shape[-1] == 2 else expected
    np.testing.assert_array_equal(dataset.pairs[1].read().pixels[:, :, :], channels_first)


@pytest.fixture
def table(tmp_path):
    put(tmp_path, "raw/a.png", "truth/a_labels.png")
    path = tmp_path / "pairs.csv"
    path.write_text("image, labels\nraw/a.png,truth/a_labels.png\n")
    return path


def test_table_of_pairs(table):
    for dataset in (find_pairs(str(table.parent)), find_pairs(str(table)), find_pairs("elsewhere", pairs=str(table))):
        assert dataset.layout == "pairs.csv"
        assert keys(dataset) == ["a"]
        assert read_all(dataset) == 1


def test_table_of_images_with_one_name(table):
    put(table.parent, "other/a.png")
    table.write_text(table.read_text() + "other/a.png,truth/a_labels.png\n")
    assert keys(find_pairs(str(table))) == ["raw_a", "other_a"]


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (
            "image,labels\nraw/a.png,truth/a_labels.png\nraw/b.png,x.png\n",
            InputError,
            "pairs.csv, line 3: image raw/b.png is not there (paths are relative to the table)",
        ),
        (
            "image,labels\nraw/a.png,\n",
            InputError,
            "pairs.csv, line 2: there is no labels (paths are relative to the table)",
        ),
        ("image,mask\n", InputError, "pairs.csv: its columns are image, mask (it needs the columns image,labels)"),
        (
            "image,labels\n",
            NoInputError,
            "pairs.csv: it names no pairs (one line per image below the line image,labels)",
        ),
        (
            "image,labels\n" + 2 * "raw/a.png,truth/a_labels.png\n",
            InputError,
            "pairs.csv: two images would be called raw_a (rename one)",
        ),
    ],
)
def test_errors_of_tables_name_the_line(table, content, error, text):
    table.write_text(content)
    with pytest.raises(error) as caught:
        find_pairs(str(table))
    assert str(caught.value) == f"{table.parent}/{text}"


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError) as caught:
        find_pairs(str(tmp_path), pairs="gone.csv")
    assert str(caught.value) == ("gone.csv: the table of pairs cannot be read (CSV text with the columns image,labels)")


def test_nothing_recognised_names_the_layouts(tmp_path):
    put(tmp_path, "a.png", "b.png")
    with pytest.raises(NoInputError, match=r"no annotated images are recognised \(known: images/ \+ labels/"):
        find_pairs(str(tmp_path))
    with pytest.raises(NoInputError, match="it does not exist"):
        find_pairs(str(tmp_path / "gone"))


def test_folders_without_any_pair_say_so(tmp_path):
    put(tmp_path, "images/a.png", "labels/b.png")
    with pytest.raises(NoInputError) as caught:
        find_pairs(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path}: no image belongs to an annotation: images/ + labels/ with 1 images, 1 annotations "
        "(give both the same names)"
    )


def test_damaged_hdf5_is_named(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"text")
    with pytest.raises(InputError) as caught:
        find_pairs(str(tmp_path / "a.h5"))
    assert str(caught.value) == f"{tmp_path / 'a.h5'}: the file is no readable HDF5 (replace it; it may be truncated)"


def test_select_by_keys_and_file_names(tmp_path):
    put(tmp_path, *(f"images/{name}.png" for name in "abcd"), *(f"labels/{name}.png" for name in "abcd"))
    dataset = find_pairs(str(tmp_path))
    (tmp_path / "train.txt").write_text("# chosen\n\nc\na.png\nimages/d.png\n")
    names = read_names(str(tmp_path / "train.txt"))
    assert names == ["c", "a.png", "images/d.png"]
    assert keys(select(dataset, names)) == ["a", "c", "d"]
    with pytest.raises(UsageError) as caught:
        select(dataset, ["e"])
    assert str(caught.value) == "list of images: 'e' is no annotated image (one of 4, e.g. a)"
    with pytest.raises(InputError, match="the list of images cannot be read"):
        read_names(str(tmp_path / "gone.txt"))


def test_select_refuses_a_name_of_two_images(tmp_path):
    put(tmp_path, "a/x_img.png", "a/x_masks.png", "b/x_img.png", "b/x_masks.png")
    with pytest.raises(UsageError) as caught:
        select(find_pairs(str(tmp_path)), ["x_img.png"])
    assert str(caught.value) == "list of images: 'x_img.png' fits a_x, b_x (one of 2, e.g. a_x)"


def test_truth_alone(tmp_path):
    put(tmp_path, "a_masks.png", "b.png", "c_seg.npy")
    truth = find_truth(str(tmp_path))
    assert set(truth) == {"a", "b", "c"}
    np.testing.assert_array_equal(truth["c"].read().labels, LABELS)
    assert set(find_truth(str(tmp_path / "b.png"))) == {"b"}
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["x"], file["y"], file["soft"] = LABELS, LABELS, np.zeros((3, 3))
    assert set(find_truth(str(tmp_path / "t.h5"))) == {"x", "y"}
    with h5py.File(tmp_path / "ours.h5", "w") as file:
        file["x/labels"], file["y/labels"], file["x/scores"] = LABELS, LABELS, np.zeros(2)
    ours = find_truth(str(tmp_path / "ours.h5"))
    assert set(ours) == {"x", "y"}
    np.testing.assert_array_equal(ours["y"].read().labels, LABELS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoInputError, match="no labels are recognised"):
        find_truth(str(tmp_path / "empty"))
    with pytest.raises(NoInputError, match="it does not exist"):
        find_truth(str(tmp_path / "gone"))


def test_truth_of_a_data_set_has_the_keys_of_its_images(tmp_path):
    put(tmp_path, "x_img.png", "x_masks.png", "y.png", "y_cp_masks.png")
    assert list(find_truth(str(tmp_path))) == [source.key for source in find_sources([str(tmp_path)])] == ["x", "y"]


def test_truth_of_one_sequence_has_the_keys_of_its_images(tmp_path):
    put(tmp_path, "01/t0007.tif", "01_GT/SEG/man_seg007.tif", "01_GT/SEG/man_seg009.tif")
    for root in (tmp_path, tmp_path / "01", tmp_path / "01_GT", tmp_path / "01_GT" / "SEG"):
        truth = find_truth(str(root))
        assert set(truth) - {"t009"} == {"t0007"}
        assert ("t009" in truth) == root.name.startswith(("01_", "SEG"))  # it has no image, but nobody asked for one
        assert find_images(str(root)) == {"t0007": str(tmp_path / "01" / "t0007.tif")}


def test_truth_without_images_of_a_sequence(tmp_path):
    put(tmp_path, "01_GT/SEG/man_seg007.tif")
    assert set(find_truth(str(tmp_path / "01_GT"))) == {"t007"}
    assert find_images(str(tmp_path / "01_GT")) == {}


@pytest.mark.parametrize("name", ["worms", "masks"])
def test_truth_of_one_file_per_object_beside_its_images(tmp_path, name):
    put(tmp_path, "images/A01_img.tif", "images/A02.tif")
    for place in ("A01_img_1", "A01_img_2", "A02_1"):
        path = tmp_path / name / f"{place}.png"
        path.parent.mkdir(exist_ok=True)
        iio.imwrite(path, (LABELS == 1).astype(np.uint8) * 255)
    truth = find_truth(str(tmp_path / name))
    assert {key: len(labels.read().masks) for key, labels in truth.items()} == {"A01": 2, "A02": 1}
    assert set(find_images(str(tmp_path / name))) == {"A01", "A02"}


def test_label_files_of_a_folder(tmp_path):
    put(tmp_path, "a_cp_masks.png", "a_seg.npy", "a_flows.tif", "b_seg.npy", "c_mask.tif", "c_seg.npy")
    with h5py.File(tmp_path / "more.h5", "w") as file:
        file["labels/x"], file["labels/y"] = LABELS, LABELS
    found = labels_in_folder(tmp_path)
    assert {key: Path(labels.name).name for key, labels in found.items()} == {
        "a": "a_cp_masks.png",
        "b": "b_seg.npy",
        "c": "c_seg.npy",
        "x": "more.h5",
        "y": "more.h5",
    }
    (tmp_path / "broken.h5").write_bytes(b"text")  # costs itself alone, when it is read
    assert set(labels_in_folder(tmp_path)) == {"a", "b", "broken", "c", "x", "y"}


def test_pictures_beside_label_files_are_passed_over(tmp_path):
    put(tmp_path, "a_mask.png")
    iio.imwrite(tmp_path / "a_mask.jpg", LABELS)
    assert [Path(labels.name).name for labels in find_truth(str(tmp_path)).values()] == ["a_mask.png"]
    (tmp_path / "a_mask.png").unlink()
    with pytest.raises(InputError, match="is no label image"):
        find_truth(str(tmp_path))["a"].read()


def test_two_label_files_of_one_image(tmp_path):
    put(tmp_path, "a_mask.png", "a_mask.tif")
    with pytest.raises(InputError) as caught:
        find_truth(str(tmp_path))
    assert str(caught.value) == f"{tmp_path / 'a_mask.tif'}: a_mask.png annotates a too (take one of them away)"


def test_truth_of_a_stack_in_hdf5(tmp_path):
    path = tmp_path / "set.h5"
    with h5py.File(path, "w") as file:
        file["labels"] = np.stack([LABELS, LABELS[::-1]])
    truth = find_truth(str(path))
    assert list(truth) == ["set_t000", "set_t001"]
    np.testing.assert_array_equal(truth["set_t001"].read().labels, LABELS[::-1])
    with h5py.File(path, "a") as file:
        file["images"] = np.zeros((2, 12, 16), np.float32)
    assert keys(find_pairs(str(path))) == list(truth)
    assert find_images(str(path)) == {}  # a path does not say which plane


def test_colours_in_hdf5_are_no_stack(tmp_path):
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["labels"] = np.zeros((12, 16, 3), np.uint8)
    with pytest.raises(InputError, match="is a colour image, not labels"):
        find_truth(str(tmp_path / "set.h5"))["set"].read()


def test_images_of_a_truth(tmp_path, table):
    put(tmp_path, "a/images/x_img.png", "a/labels/x_masks.png")
    image = str(tmp_path / "a" / "images" / "x_img.png")
    for root in ("a", "a/labels"):
        assert find_images(str(tmp_path / root)) == {"x": image}
        assert set(find_truth(str(tmp_path / root))) == {"x"}
    assert find_images(str(table)) == {"a": str(tmp_path / "raw" / "a.png")}
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["images/a"], file["labels/a"] = LABELS, LABELS
    assert find_images(str(tmp_path / "set.h5")) == {"a": f"{tmp_path / 'set.h5'}::/images/a"}
    put(tmp_path / "plain", "y_mask.png")
    for root in ("plain", "plain/y_mask.png", "gone", "set.h5::/labels/a"):
        assert find_images(str(tmp_path / root)) == {}


@pytest.mark.parametrize(
    ("folder", "count"),
    [
        ("bbbc010", 22),
        ("bbbc010/labels", 22),
        ("bbbc010/worms", 22),
        ("coco/instances.json", 100),
        ("ctc", 6),
        ("ctc/Fluo-N2DH-GOWT1/01_GT", 4),
        ("dsb2018_raw", 4),
        ("livecell", 15),
        ("livecell/annotations.json", 15),
    ],
)
def test_real_truths_and_their_images_have_the_same_keys(data, folder, count):
    images = find_images(str(data / folder))
    assert set(images) == set(find_truth(str(data / folder)))
    assert len(images) == count
    assert all(Path(image).is_file() for image in images.values())


@pytest.mark.parametrize(
    ("folder", "layout", "images", "objects"),
    [
        ("axon_sem", "images/ + labels/", 6, 3910),
        ("bbbc010", "images/ + worms/ with one file per object", 22, 310),
        ("coco", "COCO .json + images", 100, None),
        ("ctc", "2 folders of 01/ + 01_GT/SEG", 6, 94 + 168),
        ("dic_hela", "images/ + labels/", 35, 301),
        ("dsb2018", "images/ + labels/", 601, None),
        ("dsb2018_raw", "ID/images + ID/masks with one file per object", 4, None),
        ("emps", "images/ + labels/", 39, None),
        ("isbi2012", "images/ + labels/", 10, 1252),
        ("livecell", "COCO .json + images", 15, None),
        ("monuseg", "images/ + labels/", 8, 3150),
        ("scellseg_styles", "7 folders of NAME_img + NAME_masks", 35, None),
        ("sstem", "images/ + labels/", 10, 196),
        ("usiigaci", "NAME_img + NAME_masks", 11, 708),
    ],
)
def test_real_folders_are_recognised(data, folder, layout, images, objects):
    dataset = find_pairs(str(data / folder))
    assert dataset.layout == layout
    assert len(dataset.pairs) == len(set(keys(dataset))) == images
    assert not dataset.unpaired_images
    assert not dataset.unpaired_labels
    chosen = dataset.pairs if objects is not None else dataset.pairs[:2]
    found = 0
    for pair in chosen:
        truth = pair.labels.read()
        found += len(truth.masks) if truth.masks is not None else np.unique(truth.labels[truth.labels > 0]).size
        assert Path(pair.image).is_file()
    assert found == objects if objects is not None else found > 0


def test_real_counts_of_coco_files(data):
    for folder, objects in (("livecell", 3285), ("coco", 746 - 6)):  # six crowds are left out
        references = [pair.labels for pair in find_pairs(str(data / folder)).pairs]
        assert sum(not entry.crowd for reference in references for entry in reference.entries) == objects


def test_real_worms_overlap(data):
    truth = find_pairs(str(data / "bbbc010")).pairs[0].labels.read((520, 696))
    assert truth.overlapping > 0
    assert len(truth.masks) == truth.labels.max() == 15
