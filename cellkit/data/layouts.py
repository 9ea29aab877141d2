"""Folder layouts of annotated images, recognised by themselves."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from cellkit.data.coco import read_coco
from cellkit.data.dataset import Dataset, Pair, files_in, folders_in, image_key, merge, natural, stem_of
from cellkit.data.folders import (
    ANNOTATION_FOLDERS,
    find_beside,
    find_folders,
    find_object_folders,
    find_objects,
    find_sequences,
    frame_key,
    label_ref,
    unmarked,
)
from cellkit.data.hdf5 import find_hdf5, labels_in_hdf5
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
    "pairs.csv with the columns image,labels",
)
PAIRS_FILE = "pairs.csv"
DEPTH = 3  # folders below the one named in which datasets are looked for
IMAGE_FOLDER = "images"


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
    dataset = _find_in_folder(path, DEPTH) if path.is_dir() else _find_in_file(path)
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
        root: any of :data:`LAYOUTS`; or a folder of label files, or one label file.

    Raises:
        NoInputError: there is none.
        InputError: as :func:`find_pairs`.
    """
    path = Path(split_dataset(root)[0])
    if not path.exists():
        raise NoInputError(root, "it does not exist", "check the path of the annotations")
    if not path.is_dir():
        return _truth_in_file(root)
    found = _find_in_folder(path, DEPTH)
    if found is not None and found.pairs:
        return {pair.key: pair.labels for pair in found.pairs}
    labels = {_truth_key(file): label_ref(str(file)) for file in files_in(path, labels=True)}
    if not labels:
        raise NoInputError(root, "no labels are recognised", "label images; or " + "; ".join(LAYOUTS))
    return labels


def _truth_in_file(root: str) -> dict[str, LabelRef]:
    path = Path(split_dataset(root)[0])
    suffix = path.suffix.lower()
    if suffix == ".json":
        coco = read_coco(path)
        if coco is None:
            raise InputError(root, "the JSON is no COCO file", "it needs images and annotations")
        return {image_key(Path(name).name): labels for name, labels in coco.items()}
    if suffix == ".csv":
        return {pair.key: pair.labels for pair in read_pairs(path).pairs}
    if suffix in HDF5_SUFFIXES and "::" not in root:
        return labels_in_hdf5(path)
    return {_truth_key(path): label_ref(root)}


def _truth_key(path: Path) -> str:
    return frame_key(stem_of(path)) or unmarked(stem_of(path))


def _find_in_folder(root: Path, depth: int) -> Dataset | None:
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
        if (dataset := _find_in_folder(folder, depth - 1)) is not None and dataset.pairs
    ]
    layouts = sorted({dataset.layout for _, dataset in parts})
    if len(parts) < 2:
        return parts[0][1] if parts else None
    return merge(f"{len(parts)} folders of {' and '.join(layouts)}", parts)


def _find_in_file(path: Path) -> Dataset | None:
    if path.suffix.lower() == ".json":
        return _coco_dataset(path)
    if path.suffix.lower() == ".csv":
        return read_pairs(path)
    return find_hdf5(path) if path.suffix.lower() in HDF5_SUFFIXES else None


def _find_coco(root: Path) -> Dataset | None:
    """COCO files in the folder or in its annotations/."""
    folders = [root, *(root / name for name in ANNOTATION_FOLDERS)]
    files = [path for folder in folders if folder.is_dir() for path in folder.glob("*.json")]
    found = [
        (path.stem, part) for path in sorted(files, key=natural) if (part := _coco_dataset(path, root)) is not None
    ]
    if len(found) < 2:
        return found[0][1] if found else None
    merged = merge(found[0][1].layout, found)
    paired = {pair.image for pair in merged.pairs}
    left = dict.fromkeys(path for path in merged.unpaired_images if path not in paired)
    return dataclasses.replace(merged, unpaired_images=tuple(left))


def _coco_dataset(path: Path, root: Path | None = None) -> Dataset | None:
    coco = read_coco(path)
    if coco is None:
        return None
    root = root or path.parent
    searched = [root / IMAGE_FOLDER, root, *folders_in(root)]
    found: dict[str, Path] = {}
    for name in coco:
        places = (folder / part for folder in searched for part in (name, Path(name).name))
        there = next((place for place in places if place.is_file()), None)
        if there is not None:
            found[name] = there
    pairs = [Pair(key=image_key(place), image=str(place), labels=coco[name]) for name, place in found.items()]
    listed = {place.resolve() for place in found.values()}
    beside = sorted({place.parent for place in found.values()}, key=natural)
    return Dataset(
        layout="COCO .json + images",
        pairs=tuple(sorted(pairs, key=lambda pair: natural(pair.image))),
        unpaired_images=tuple(str(p) for folder in beside for p in files_in(folder) if p.resolve() not in listed),
        unpaired_labels=tuple(labels.name for name, labels in coco.items() if name not in found),
    )


def _find_hdf5_files(root: Path) -> Dataset | None:
    files = [path for path in files_in(root) if path.suffix.lower() in HDF5_SUFFIXES]
    found = [(stem_of(path), dataset) for path in files if (dataset := find_hdf5(path)) is not None]
    return merge(found[0][1].layout, found) if found else None


DETECTORS: tuple[Callable[[Path], Dataset | None], ...] = (
    _find_coco,
    find_objects,  # keeps overlapping objects, so it goes before flat label images
    find_folders,
    find_object_folders,
    find_sequences,
    find_beside,
    _find_hdf5_files,
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
    return Pair(key=image_key(places[0]), image=places[0], labels=label_ref(places[1]))
