"""Folder layouts of annotated images, recognised by themselves."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from cellkit.data.coco import CocoLabels, read_coco
from cellkit.data.coco_folders import coco_alone, coco_by_key, coco_dataset, find_coco
from cellkit.data.dataset import Dataset, Pair, files_in, folders_in, image_key, merge, stem_of
from cellkit.data.folders import (
    LABEL_FOLDERS,
    LABEL_MARKS,
    OBJECT_FOLDERS,
    OTHER_MARKS,
    find_beside,
    find_folders,
    find_mask_files,
    find_object_folders,
    find_objects,
    find_sequences,
    frame_folder,
    frame_key,
    image_folder,
    label_ref,
    sequence,
    unmarked,
)
from cellkit.data.hdf5 import find_hdf5, labels_in_hdf5
from cellkit.data.outlines import OutlineFile, outline_key, outline_suffix
from cellkit.data.outlines_folders import LAYOUT as OUTLINES
from cellkit.data.outlines_folders import find_outlines, outlines_alone
from cellkit.data.truth import LabelRef, Truth
from cellkit.errors import InputError, NoInputError, UsageError
from cellkit.io.keys import HDF5_SUFFIXES, split_dataset

__all__ = ["LAYOUTS", "Dataset", "LabelRef", "Pair", "Truth", "find_pairs", "find_truth", "read_names", "select"]

LAYOUTS = (
    "images/ + labels/ (or masks/)",
    "NAME_img + NAME_masks",
    "NAME + NAME_masks, NAME_cp_masks or NAME_seg.npy",
    "ID/images + ID/masks with one file per object",
    "01/ + 01_GT/SEG",
    "COCO .json + images",
    "HDF5 with images and labels",
    OUTLINES,
    "pairs.csv with the columns image,labels",
)
PAIRS_FILE = "pairs.csv"
LOSSY_SUFFIXES = (".jpg", ".jpeg")
DEPTH = 3  # folders below the one named in which datasets are looked for


def find_pairs(root: str, *, pairs: str | None = None) -> Dataset:
    """Find annotated images.

    Args:
        root: folder in one of :data:`LAYOUTS`, or a folder of such folders; or an HDF5, COCO or pairs file.
        pairs: CSV file with the columns ``image`` and ``labels``, relative to itself, that takes precedence.

    Returns:
        the pairs in natural order, and the files that were left over.

    Raises:
        NoInputError: no layout is recognised, or no image has an annotation.
        InputError: a file that names the pairs cannot be read, or names a file that is not there.
    """
    if pairs is not None:
        return read_pairs(Path(pairs))
    path = Path(root)
    if not path.exists():
        raise NoInputError(root, "it does not exist", "check the path of the annotated images")
    dataset = find_in_folder(path, DEPTH) if path.is_dir() else _find_in_file(path)
    if dataset is None:
        raise NoInputError(root, "no annotated images are recognised", "known: " + "; ".join(LAYOUTS))
    if not dataset.pairs:
        left = len(dataset.unpaired_images), len(dataset.unpaired_labels)
        problem = f"no image belongs to an annotation: {dataset.layout} with {left[0]} images, {left[1]} annotations"
        raise NoInputError(root, problem, "give both the same names")
    return dataset


def select(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The pairs with these names, in the order of the dataset.

    Args:
        dataset: where to look.
        names: keys, or names of image files with or without folder and suffix.

    Raises:
        UsageError: a name fits no pair, or two.
    """
    known: dict[str, set[str]] = {}
    for pair in dataset.pairs:
        for name in {pair.key, pair.image, Path(pair.image).name, stem_of(split_dataset(pair.image)[0])}:
            known.setdefault(name, set()).add(pair.key)
    chosen: set[str] = set()
    for name in names:
        keys = known.get(name) or known.get(Path(name).name) or set()
        if len(keys) != 1:
            problem = f"{name!r} is no annotated image" if not keys else f"{name!r} fits {', '.join(sorted(keys))}"
            raise UsageError("list of images", problem, f"one of {len(dataset.pairs)}, e.g. {dataset.pairs[0].key}")
        chosen |= keys
    return dataclasses.replace(dataset, pairs=tuple(pair for pair in dataset.pairs if pair.key in chosen))


def read_names(path: str) -> list[str]:
    """The names in a list file such as train.txt: one per line; empty lines and those after ``#`` are skipped.

    Raises:
        InputError: the file cannot be read or is no text.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "the list of images cannot be read", "a text file, one name per line") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def find_truth(root: str) -> dict[str, LabelRef]:
    """Annotations alone, by the key of their image: for ``evaluate``.

    Args:
        root: any of :data:`LAYOUTS`; or a folder of label files, one label file, or a COCO file without its images.

    Returns:
        by key; those of COCO files have their crowds, and may be boxes alone.

    Raises:
        NoInputError: there is none.
        InputError: as :func:`find_pairs`; or two files annotate one image.
    """
    path = Path(split_dataset(root)[0])
    if not path.exists():
        raise NoInputError(root, "it does not exist", "check the path of the annotations")
    if not path.is_dir():
        return _truth_in_file(root)
    found = find_in_folder(path, DEPTH)
    if found is not None and found.pairs:
        return {pair.key: _scored(pair.labels) for pair in found.pairs}
    labels = _frames(path) or _objects_beside_images(path) or labels_in_folder(path) or outlines_alone(path)
    labels = labels or coco_alone(path)
    if not labels:
        raise NoInputError(root, "no labels are recognised", "label images; or " + "; ".join(LAYOUTS))
    return labels


def find_images(root: str) -> dict[str, str]:
    """Images of annotations that :func:`find_truth` finds, by the same keys: to draw scores upon.

    Args:
        root: as for :func:`find_truth`; of labels/, worms/ or 01_GT/SEG the images beside them are taken.

    Returns:
        path, or ``FILE.h5::/dataset``, by key; nothing where the layout has no images. Stacks of images are left out.

    Raises:
        InputError: as :func:`find_pairs`.
    """
    path = Path(split_dataset(root)[0])
    if not path.exists() or path != Path(root):
        return {}
    dataset = find_in_folder(path, DEPTH) if path.is_dir() else _find_in_file(path)
    if (dataset is None or not dataset.pairs) and path.is_dir():
        dataset = _images_beside(path)
    return {pair.key: pair.image for pair in dataset.pairs if pair.plane is None} if dataset is not None else {}


def labels_in_folder(folder: Path) -> dict[str, LabelRef]:
    """The label files of a folder by key, without flows and the like; NAME before NAME_masks before NAME_seg.npy.

    JPEG cannot hold labels: such pictures are passed over, unless there is nothing else.

    Raises:
        InputError: two files annotate one image, and neither comes before the other.
    """
    files = files_in(folder, labels=True)
    chosen: dict[str, Path] = {}
    for file in [file for file in files if file.suffix.lower() not in LOSSY_SUFFIXES] or files:
        key = truth_key(file)
        if stem_of(file).endswith(OTHER_MARKS) or (key in chosen and _rank(chosen[key]) < _rank(file)):
            continue
        if key in chosen and _rank(chosen[key]) == _rank(file):
            raise InputError(file, f"{chosen[key].name} annotates {key} too", "take one of them away")
        chosen[key] = file
    found: dict[str, LabelRef] = {}
    for key, file in chosen.items():
        found |= _labels_in_container(file) or {key: label_ref(str(file))}
    return found


def _rank(file: Path) -> int:
    stem = stem_of(file)
    return next((place for place, mark in enumerate(LABEL_MARKS, 1) if stem == unmarked(stem) + mark), 0)


def _labels_in_container(file: Path) -> dict[str, LabelRef]:
    """Label images of an HDF5 file; nothing when it is no such file or has none."""
    try:
        return labels_in_hdf5(file) if file.suffix.lower() in HDF5_SUFFIXES else {}
    except (InputError, NoInputError):
        return {}  # reading it says what is wrong, and costs no other file


def _scored(labels: LabelRef) -> LabelRef:
    return dataclasses.replace(labels, purpose="truth") if isinstance(labels, CocoLabels) else labels


def _frames(path: Path) -> dict[str, LabelRef]:
    """01_GT/SEG by the names of its images, where they are there too."""
    folder = frame_folder(path)
    if folder is None:
        return {}
    named = {label.name: key for key, label in _pairs_of_frames(folder).items()}
    return {named.get(str(file)) or truth_key(file): label_ref(str(file)) for file in files_in(folder)}


def _pairs_of_frames(folder: Path) -> dict[str, LabelRef]:
    images = image_folder(folder)
    return {pair.key: pair.labels for pair in sequence(images, folder).pairs} if images is not None else {}


def _objects_beside_images(path: Path) -> dict[str, LabelRef]:
    """worms/ with one file per object, whose images lie in images/ beside it."""
    images = path.absolute().parent / "images"
    if path.absolute().name not in OBJECT_FOLDERS or not images.is_dir():
        return {}
    stems = {stem_of(image): image_key(image) for image in files_in(images)}
    return {stems[name]: labels for name, labels in find_mask_files(path, set(stems)).items()}


def _images_beside(path: Path) -> Dataset | None:
    """The data set to which 01_GT/SEG, labels/ or worms/ belong."""
    frames = frame_folder(path)
    images = image_folder(frames) if frames is not None else None
    if frames is not None:
        return sequence(images, frames) if images is not None else None
    beside = path.absolute().name in {*LABEL_FOLDERS, *OBJECT_FOLDERS}
    return find_in_folder(path.absolute().parent, 0) if beside else None


def _truth_in_file(root: str) -> dict[str, LabelRef]:
    path = Path(split_dataset(root)[0])
    suffix = path.suffix.lower()
    if suffix == ".json":
        coco = read_coco(path, "truth")
        if coco is None:
            raise InputError(root, "the JSON is no COCO file", "it needs images and annotations")
        return coco_by_key(coco)
    if suffix == ".csv":
        return {pair.key: pair.labels for pair in read_pairs(path).pairs}
    if suffix in HDF5_SUFFIXES and "::" not in root:
        return labels_in_hdf5(path)
    if outline_suffix(path.name):
        return {outline_key(root): OutlineFile(root)}
    return {truth_key(path): label_ref(root)}


def truth_key(path: Path) -> str:
    """The key of the image that a label file annotates: t013 of man_seg013, NAME of NAME_masks."""
    return frame_key(stem_of(path)) or unmarked(stem_of(path))


def find_in_folder(root: Path, depth: int) -> Dataset | None:
    """The first layout that has pairs in a folder, or in folders up to ``depth`` below it; None when there is none."""
    if (root / PAIRS_FILE).is_file():
        return read_pairs(root / PAIRS_FILE)
    found = [dataset for detect in DETECTORS if (dataset := detect(root)) is not None]
    found.sort(key=lambda dataset: not dataset.pairs)  # stable: the first layout that has pairs
    if found:
        return dataclasses.replace(found[0], also=tuple(dataset.layout for dataset in found[1:]))
    return _find_below(root, depth) if depth > 0 else None


def _find_below(root: Path, depth: int) -> Dataset | None:
    parts = [
        (folder.name, dataset)
        for folder in folders_in(root)
        if (dataset := find_in_folder(folder, depth - 1)) is not None and dataset.pairs
    ]
    layouts = sorted({dataset.layout for _, dataset in parts})
    if len(parts) < 2:
        return parts[0][1] if parts else None
    return merge(f"{len(parts)} folders of {' and '.join(layouts)}", parts)


def _find_in_file(path: Path) -> Dataset | None:
    if path.suffix.lower() == ".json":
        return coco_dataset(path)
    if path.suffix.lower() == ".csv":
        return read_pairs(path)
    return find_hdf5(path) if path.suffix.lower() in HDF5_SUFFIXES else None


def _find_hdf5_files(root: Path) -> Dataset | None:
    files = [path for path in files_in(root) if path.suffix.lower() in HDF5_SUFFIXES]
    found = [(stem_of(path), dataset) for path in files if (dataset := find_hdf5(path)) is not None]
    return merge(found[0][1].layout, found) if found else None


DETECTORS: tuple[Callable[[Path], Dataset | None], ...] = (
    find_coco,
    find_objects,  # keeps overlapping objects, so it goes before flat label images
    find_folders,
    find_object_folders,
    find_sequences,
    find_beside,
    _find_hdf5_files,
    find_outlines,
)


def read_pairs(path: Path) -> Dataset:
    """The pairs in a CSV file with the columns ``image`` and ``labels``; relative paths start from the file.

    Raises:
        InputError: the file cannot be read, lacks a column, names a missing file (with the line) or a key twice.
        NoInputError: it has no rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, "the table of pairs cannot be read", "CSV text with the columns image,labels") from error
    if not {"image", "labels"} <= set(columns):
        raise InputError(path, f"its columns are {', '.join(columns) or 'none'}", "it needs the columns image,labels")
    pairs = [_pair_of_row(path, line, row) for line, row in rows]
    if not pairs:
        raise NoInputError(path, "it names no pairs", "one line per image below the line image,labels")
    parts = [(Path(pair.image).parent.name, Dataset(layout="", pairs=(pair,))) for pair in pairs]
    dataset = merge(path.name, parts)
    keys = [pair.key for pair in dataset.pairs]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise InputError(path, f"two images would be called {twice}", "rename one")
    return dataset


def _pair_of_row(path: Path, line: int, row: dict[str, str | None]) -> Pair:
    places = []
    for column in ("image", "labels"):
        name = (row.get(column) or "").strip()
        file, dataset = split_dataset(name)
        place = path.parent / file
        if not name or not place.is_file():
            problem = f"{column} {name} is not there" if name else f"there is no {column}"
            raise InputError(f"{path}, line {line}", problem, "paths are relative to the table")
        places.append(f"{place}::{dataset}" if dataset is not None else str(place))
    drawn = outline_suffix(places[1])
    labels = OutlineFile(places[1], places[0]) if drawn else label_ref(places[1])
    return Pair(key=image_key(places[0]), image=places[0], labels=labels)
