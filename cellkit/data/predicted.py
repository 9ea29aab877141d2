"""Predictions that are no plain label images: COCO files, results of a sequence, annotated folders, HDF5, detections.

Each is given the key of its truth, so that the same image has one name on both sides whatever the two layouts are.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cellkit.data.coco import CocoFile, CocoLabels, read_coco
from cellkit.data.coco_entries import load_json
from cellkit.data.coco_folders import coco_by_key, coco_files
from cellkit.data.coco_results import image_ids, read_results
from cellkit.data.dataset import files_in, folders_in, stem_of
from cellkit.data.folders import (
    FRAME_LABELS,
    IMAGE_MARKS,
    OTHER_MARKS,
    SEG_FILE,
    SEQUENCE,
    SEQUENCE_TRUTH,
    find_mask_files,
    frame_key,
    label_ref,
    unmarked,
)
from cellkit.data.hdf5 import labels_in_hdf5
from cellkit.data.layouts import LOSSY_SUFFIXES, find_in_folder, find_truth, labels_in_folder, truth_key
from cellkit.data.predicted_objects import are_objects, find_objects, is_objects
from cellkit.data.truth import LabelFile, LabelRef
from cellkit.errors import InputError, NoInputError
from cellkit.io.hdf5 import is_ours
from cellkit.io.keys import HDF5_SUFFIXES, split_dataset
from cellkit.io.labels import LABEL_SUFFIXES

DEPTH = 3  # folders below the one named in which data sets and results are looked for
RESULT_FOLDER = re.compile(r"(\d{2,})_RES")  # of the Cell Tracking Challenge
RESULT_FRAME = re.compile(r"mask_?(\d+)")
FRAME_KEY = re.compile(r"(?:(\d{2,})_)?t(\d+)")
BEGINNING = 4096  # bytes in which the first sign of a JSON is looked for


class Frame(NamedTuple):
    """A frame of the Cell Tracking Challenge: folder of the data set and sequence where they are known, number."""

    folder: Path | None
    sequence: str | None
    number: int


def find_predicted(
    root: str, truth_root: str, truth: Mapping[str, LabelRef] | None = None
) -> dict[str, LabelRef] | None:
    """Predictions by the keys of their truth; None for what is read as label images as they are.

    Known are: a COCO file or a list of results (``.json``, or a folder with one), 01_RES/maskTTT.tif of the Cell
    Tracking Challenge or a folder of such (only frames that the truth has), one file per object, an HDF5 file of
    several label images, what ``predict`` wrote of a detector (``.h5``, or a folder of such), a ``NAME_seg.npy`` or a
    folder with such, and any layout of
    :data:`cellkit.data.layouts.LAYOUTS`. None stands for a folder of TIFF, PNG or our HDF5 files, one such file, a
    stream, and for what is not there.

    Args:
        root: file or folder of the predictions.
        truth_root: file or folder of the truth.
        truth: what :func:`cellkit.data.layouts.find_truth` found there, where it was asked already.

    Returns:
        predictions by key, in the order of the truth; those without a truth come last, under their own key.

    Raises:
        InputError: the JSON is neither results nor COCO, or its images are not those of the truth; two predictions
            of one image; a file that cannot be read.
        NoInputError: no truth; a file without labels; results of other sequences.
    """
    path = Path(split_dataset(root)[0])
    if not path.exists() or str(path) != str(Path(root)):
        return None
    truths = find_truth(truth_root) if truth is None else truth
    found = _in_folder(path, truths) if path.is_dir() else _in_file(path, truths)
    if found is None:
        return None
    if path.is_file() and Path(truth_root).is_file() and len(found) == len(truths) == 1:
        return dict(zip(truths, found.values(), strict=True))
    stems = (stem_of(path), stem_of(truth_root)) if path.is_file() and Path(truth_root).is_file() else ("", "")
    return _aligned(found, truths, stems)


def _in_file(path: Path, truths: Mapping[str, LabelRef]) -> dict[str, LabelRef] | None:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _in_json(path, truths)
    if suffix == ".csv" or path.name.endswith(SEG_FILE):
        return find_truth(str(path))
    if is_objects(path):
        return find_objects([path], category_numbers(truths))
    return labels_in_hdf5(path) if suffix in HDF5_SUFFIXES and not _is_plain(path) else None


def _in_folder(path: Path, truths: Mapping[str, LabelRef]) -> dict[str, LabelRef] | None:
    files = [file for file in files_in(path, labels=True) if file.suffix.lower() not in LOSSY_SUFFIXES]
    if are_objects(files):
        return find_objects(files, category_numbers(truths))
    results = _sequence_results(path, truths)
    if results is not None:
        return results
    here = {} if SEQUENCE.fullmatch(path.absolute().name) else _pairs_in(path, 0, truths)  # 01/ holds images
    objects = here or find_mask_files(path, set(truths))
    if objects:
        return objects
    if files:
        return None if all(map(_is_plain, files)) else labels_in_folder(path)
    found = [file for file in coco_files(path) if _is_list(file) or read_coco(file) is not None]
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise InputError(path, f"it has {len(found)} files of predictions: {names}", "name one of them")
    return _in_json(found[0], truths) if found else _pairs_in(path, DEPTH, truths) or None


def _pairs_in(path: Path, depth: int, truths: Mapping[str, LabelRef]) -> dict[str, LabelRef]:
    """Labels of a data set, also those without an image: the truth knows their names."""
    found = find_in_folder(path, depth)
    if found is None or not found.pairs:
        return {}
    files = [Path(name) for name in found.unpaired_labels if Path(name).is_file()]
    alone: dict[str, LabelRef] = {key: label_ref(str(file)) for file in files if (key := truth_key(file)) in truths}
    return alone | {pair.key: _predicted(pair.labels) for pair in found.pairs}


def _predicted(labels: LabelRef) -> LabelRef:
    return dataclasses.replace(labels, purpose="prediction") if isinstance(labels, CocoLabels) else labels


def category_numbers(truths: Mapping[str, LabelRef]) -> dict[str, int]:
    """Ids of the categories that the COCO files of a truth list, by their names; nothing where there is none."""
    files = dict.fromkeys(ref.file for ref in truths.values() if isinstance(ref, CocoLabels))
    listed = (coco.categories for file in files if (coco := read_coco(file)) is not None)
    return {name: number for categories in listed for number, name in categories.items()}


def _is_plain(file: Path) -> bool:
    """Whether a file is read as a label image as it is."""
    if file.suffix.lower() not in LABEL_SUFFIXES or stem_of(file).endswith(OTHER_MARKS):
        return False
    try:
        return file.suffix.lower() not in HDF5_SUFFIXES or is_ours(file)
    except OSError:
        return True  # damaged: reading it says so


def _aligned(
    found: Mapping[str, LabelRef], truths: Mapping[str, LabelRef], stems: tuple[str, str]
) -> dict[str, LabelRef]:
    """Under the keys of the truth: the same name, but for marks of labels and images, or for the name of the file."""
    plain: dict[str, set[str]] = {}
    for key in truths:
        plain.setdefault(_bare(key, stems[1]), set()).add(key)
    result: dict[str, LabelRef] = {}
    for key, labels in found.items():
        same = plain.get(_bare(key, stems[0]), set())
        name = key if key in truths or len(same) != 1 else next(iter(same))
        if name in result:
            raise InputError(labels.name, f"a second prediction of {name}", "give one prediction per image")
        result[name] = labels
    return {key: result[key] for key in (*truths, *result) if key in result}


def _bare(key: str, stem: str) -> str:
    """A key without what tools append, and without the name of the file whose planes are called by it."""
    key = key.removeprefix(f"{stem}_") if stem else key
    bare = frame_key(key) or unmarked(key)
    mark = next((mark for mark in IMAGE_MARKS if bare.endswith(mark)), "")
    return bare.removesuffix(mark) or bare


def _is_list(path: Path) -> bool:
    """Whether a JSON holds a list, by its first sign."""
    try:
        with path.open("rb") as stream:
            return stream.read(BEGINNING).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    except OSError as error:
        raise InputError(path, f"it cannot be read: {error.strerror}", "check its rights") from error


def _in_json(path: Path, truths: Mapping[str, LabelRef]) -> dict[str, LabelRef]:
    if _is_list(path):
        return _in_results(path, truths)
    coco = read_coco(path, "prediction")
    if coco is None:
        raise InputError(
            path, "the JSON is neither a list of results nor a COCO file", "a list, or images and annotations"
        )
    return coco_by_key(coco.named_as(category_numbers(truths)))


def _in_results(path: Path, truths: Mapping[str, LabelRef]) -> dict[str, LabelRef]:
    """A list of results knows images by number: the COCO file of the truth knows their names."""
    content = load_json(path)
    keys = {(ref.file, ref.image): key for key, ref in truths.items() if isinstance(ref, CocoLabels)}
    files = list(dict.fromkeys(file for file, _ in keys))
    if not files:
        problem = "a list of results names images by number, and the truth is no COCO file that has numbers"
        raise InputError(path, problem, "give the COCO file as truth, or predictions with images and annotations")
    coco = _coco_of(path, image_ids(content), [coco for file in files if (coco := read_coco(file)) is not None])
    images = {
        coco.image_ids[name]: (keys.get((coco.path, name), labels.name), labels.size) for name, labels in coco.items()
    }
    found = read_results(path, images, coco.categories, content)
    return {key: labels for key, labels in found.items() if key in truths}  # the file may list more than the folder has


def _coco_of(path: Path, numbers: set[Hashable], files: Sequence[CocoFile]) -> CocoFile:
    """Which COCO file of the truth a list of results belongs to; the likeliest where none has all its images."""
    fitting = [coco for coco in files if numbers <= set(coco.image_ids.values())]
    if len(fitting) > 1:
        names = " and ".join(coco.path.name for coco in fitting)
        raise InputError(path, f"its images may be those of {names}", "name the COCO file of the truth")
    return fitting[0] if fitting else max(files, key=lambda coco: len(numbers & set(coco.image_ids.values())))


def _sequence_results(root: Path, truths: Mapping[str, LabelRef]) -> dict[str, LabelRef] | None:
    """maskTTT.tif of the frames that the truth has; None when there are no such files, or no such truth."""
    frames = {key: frame for key, ref in truths.items() if (frame := _frame(key, ref)) is not None}
    folders = _result_folders(root.absolute(), DEPTH, frozenset(truths)) if frames else {}
    if not folders:
        return None
    found: dict[str, LabelRef] = {}
    sets = {frame.folder for frame in frames.values()}, {frame[:2] for frame in frames.values()}
    for key, frame in frames.items():
        fitting = [folder for folder in folders if _belongs(frame, folder, *(len(several) > 1 for several in sets))]
        if len(fitting) > 1:
            fitting = [folder for folder in fitting if _belongs(frame, folder, True, True)]
        if len(fitting) == 1 and frame.number in folders[fitting[0]]:
            found[key] = LabelFile(str(folders[fitting[0]][frame.number]))
    if not found:
        names = ", ".join(folder.name for folder in folders)
        raise NoInputError(root, f"its results {names} are of no frame that the truth has", "01_RES belongs to 01_GT")
    return found


def _frame(key: str, ref: LabelRef) -> Frame | None:
    """Where a truth belongs, by its file man_segTTT.tif, else by its key tTTT."""
    place = Path(ref.name).absolute()
    number, sequence = FRAME_LABELS.fullmatch(place.stem), SEQUENCE_TRUTH.fullmatch(place.parent.parent.name)
    if number and sequence:
        return Frame(place.parent.parent.parent, sequence[1], int(number[1]))
    match = FRAME_KEY.fullmatch(key)
    return Frame(None, match[1], int(match[2])) if match else None


def _result_folders(root: Path, depth: int, names: frozenset[str]) -> dict[Path, dict[int, Path]]:
    """Folders of results with their files by number of the frame; files that are called as truths are no such."""
    matches = [(file, RESULT_FRAME.fullmatch(stem_of(file))) for file in files_in(root)]
    frames = {int(match[1]): file for file, match in matches if match and match[0] not in names}
    if frames:
        return {root: frames}
    inner = folders_in(root) if depth > 0 else []
    known = [folder for folder in inner if RESULT_FOLDER.fullmatch(folder.name)] or inner
    return {place: files for folder in known for place, files in _result_folders(folder, depth - 1, names).items()}


def _belongs(frame: Frame, folder: Path, by_set: bool, by_sequence: bool) -> bool:
    """Whether a folder of results is of the sequence of a frame.

    Args:
        frame: of the truth.
        folder: of results.
        by_set: the folder above must be called as that of the truth: there are several data sets.
        by_sequence: the folder must be called NN_RES: there are several sequences.
    """
    match = RESULT_FOLDER.fullmatch(folder.name)
    if match is None:
        return not by_sequence
    same_set = not by_set or frame.folder is None or folder.parent.name == frame.folder.name
    return same_set and frame.sequence in (None, match[1])
