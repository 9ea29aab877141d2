"""Layouts that folder and file names alone tell: each function looks for one and returns None when it is not there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from cellkit.data.dataset import Dataset, Pair, files_in, folders_in, image_key, merge, natural, stem_of
from cellkit.data.seg_npy import SegFile
from cellkit.data.truth import LabelFile, LabelRef, MaskFiles
from cellkit.io.keys import split_dataset

LABEL_FOLDERS = ("labels", "masks", "label", "mask")
OBJECT_FOLDERS = ("worms", "instances", "objects", "masks")
ANNOTATION_FOLDERS = ("annotations",)
LABEL_MARKS = ("_masks", "_cp_masks", "_seg", "_mask", "_labels", "_label")  # in the order of preference
OTHER_MARKS = ("_flows", "_cp_outlines", "_cp_output", "_dP", "_rois")  # what Cellpose writes beside its masks
IMAGE_MARKS = ("_img", "_image")
SEG_FILE = "_seg.npy"
SEQUENCE = re.compile(r"\d{2,}")
TRUTH_FOLDERS = ("_GT", "_ST")  # gold and silver truth of the Cell Tracking Challenge
OBJECT = re.compile(r"(.+?)[_-](\d+)")
FRAME = re.compile(r"t(\d+)")
FRAME_LABELS = re.compile(r"man_seg_?(\d+)")
SEQUENCE_TRUTH = re.compile(r"(\d{2,})(?:_GT|_ST)")
FRAME_FOLDER = "SEG"


def label_ref(name: str) -> LabelRef:
    """The annotation in a file, by its name: a label image, ``FILE.h5::/dataset`` or a NAME_seg.npy of Cellpose."""
    if name.endswith(SEG_FILE):
        return SegFile(name)
    file, dataset = split_dataset(name)
    return LabelFile(file, dataset)


def unmarked(stem: str) -> str:
    """NAME of NAME_masks and the like."""
    mark = next((m for m in sorted(LABEL_MARKS, key=len, reverse=True) if stem.endswith(m)), "")
    return stem[: len(stem) - len(mark)] or stem


def frame_key(stem: str) -> str | None:
    """Key of the frame t013 that man_seg013 of the Cell Tracking Challenge annotates."""
    match = FRAME_LABELS.fullmatch(stem)
    return f"t{match[1]}" if match else None


def find_folders(root: Path) -> Dataset | None:
    """images/ + labels/ (or masks/) with a label image of the same name for each image."""
    labels = next((root / name for name in LABEL_FOLDERS if (root / name).is_dir()), None)
    if labels is None or not (root / "images").is_dir():
        return None
    return _match(files_in(root / "images"), files_in(labels, labels=True), f"images/ + {labels.name}/")


def find_beside(root: Path) -> Dataset | None:
    """NAME_img + NAME_masks, or NAME + NAME_masks, NAME_cp_masks or NAME_seg.npy, in one folder."""
    files = [path for path in files_in(root, labels=True) if not stem_of(path).endswith(OTHER_MARKS)]
    marked = [path for path in files if stem_of(path).endswith(LABEL_MARKS)]
    images = [path for path in files if path not in set(marked) and path.suffix.lower() != ".npy"]
    if not marked or not images:
        return None
    styled = any(stem_of(path).endswith(IMAGE_MARKS) for path in images)
    found = _match(images, marked, "NAME_img + NAME_masks" if styled else "NAME + " + _marks(marked))
    return found if found.pairs else None


def _marks(labels: Sequence[Path]) -> str:
    used = {mark for path in labels for mark in LABEL_MARKS if stem_of(path) == unmarked(stem_of(path)) + mark}
    return ", ".join("NAME_seg.npy" if mark == "_seg" else f"NAME{mark}" for mark in LABEL_MARKS if mark in used)


def _match(images: Sequence[Path], labels: Sequence[Path], layout: str) -> Dataset:
    """Pair by name: the same stem, or NAME[_img] and NAME_masks and the like."""
    by_stem = {stem_of(path): path for path in reversed(labels)}
    pairs, used = [], set()
    for image in images:
        fitting = [by_stem[name] for name in _label_names(stem_of(image)) if name in by_stem]
        if fitting:
            pairs.append(Pair(key=image_key(image), image=str(image), labels=label_ref(str(fitting[0]))))
            used.update(fitting)
    return _dataset(layout, pairs, images, (str(path) for path in labels if path not in used))


def _label_names(stem: str) -> list[str]:
    bases = [stem, *(stem.removesuffix(mark) for mark in IMAGE_MARKS if stem.endswith(mark))]
    return [base + mark for base in bases for mark in ("", *LABEL_MARKS)]


def _dataset(layout: str, pairs: Sequence[Pair], images: Sequence[Path], left: Iterable[str]) -> Dataset:
    paired = {pair.image for pair in pairs}
    return Dataset(
        layout=layout,
        pairs=tuple(pairs),
        unpaired_images=tuple(str(path) for path in images if str(path) not in paired),
        unpaired_labels=tuple(left),
    )


def find_objects(root: Path) -> Dataset | None:
    """images/ + worms/ (instances/, objects/, masks/) with files NAME_1, NAME_2, ... or a folder NAME/ per image."""
    if not (root / "images").is_dir():
        return None
    images = files_in(root / "images")
    for name in OBJECT_FOLDERS:
        if (root / name).is_dir():
            groups = _groups(root / name, {stem_of(image) for image in images})
            if groups:
                return _object_dataset(f"images/ + {name}/ with one file per object", images, groups)
    return None


def _groups(folder: Path, stems: set[str]) -> dict[str, list[Path]]:
    """Files per image; nothing when files have the names of images, as label images have."""
    groups = {path.name: files_in(path) for path in folders_in(folder) if path.name in stems}
    if groups:
        return groups
    groups = defaultdict(list)
    for path in files_in(folder):
        stem = stem_of(path)
        match = OBJECT.fullmatch(stem)
        if stem in stems or not match:
            return {}
        groups[match[1]].append(path)
    return groups if stems & groups.keys() else {}


def find_mask_files(root: Path, names: set[str]) -> dict[str, LabelRef]:
    """One file per object, of images whose names are known: NAME_1, NAME_2, ... or a folder NAME/ or NAME/masks/.

    Args:
        root: folder of the files, or one with worms/ (instances/, objects/, masks/) in it.
        names: stems of the images.

    Returns:
        by name; nothing when there are none.
    """
    for folder in (root, *(root / name for name in OBJECT_FOLDERS)):
        groups = _groups(folder, names) if folder.is_dir() else {}
        if groups:
            inner = {name: folder / name / "masks" for name in groups}
            files = {name: files_in(inner[name]) if inner[name].is_dir() else paths for name, paths in groups.items()}
            return {name: _mask_files(paths) for name, paths in files.items()}
    return {}


def _object_dataset(layout: str, images: Sequence[Path], groups: dict[str, list[Path]]) -> Dataset:
    pairs = [
        Pair(key=image_key(image), image=str(image), labels=_mask_files(groups[stem]))
        for image in images
        if (stem := stem_of(image)) in groups
    ]
    stems = {stem_of(image) for image in images}
    left = (str(path) for stem, paths in groups.items() if stem not in stems for path in paths)
    return _dataset(layout, pairs, images, left)


def _mask_files(paths: Sequence[Path]) -> MaskFiles:
    return MaskFiles(f"{paths[0].parent} ({len(paths)} masks)" if paths else "no masks", tuple(map(str, paths)))


def find_object_folders(root: Path) -> Dataset | None:
    """ID/images with one image and ID/masks with one file per object (2018 Data Science Bowl)."""
    pairs, unpaired = [], []
    for folder in folders_in(root):
        if not (folder / "images").is_dir():
            continue
        images = files_in(folder / "images")
        if len(images) != 1:
            continue
        masks = files_in(folder / "masks") if (folder / "masks").is_dir() else []
        if any(stem_of(path) == stem_of(images[0]) for path in masks):
            continue  # a label image of the same name: a folder of its own
        if masks:
            pairs.append(Pair(key=image_key(images[0]), image=str(images[0]), labels=_mask_files(masks)))
        else:
            unpaired.append(str(images[0]))
    if not pairs:
        return None
    return Dataset(
        layout="ID/images + ID/masks with one file per object", pairs=tuple(pairs), unpaired_images=tuple(unpaired)
    )


def find_sequences(root: Path) -> Dataset | None:
    """01/ + 01_GT/SEG of the Cell Tracking Challenge; the folder named may be 01/ itself."""
    folders = [root] if SEQUENCE.fullmatch(root.name) else folders_in(root)
    parts = []
    for folder in folders:
        truths = (folder.parent / f"{folder.name}{end}" / FRAME_FOLDER for end in TRUTH_FOLDERS)
        truth = next((path for path in truths if path.is_dir()), None)
        if truth is not None and SEQUENCE.fullmatch(folder.name):
            parts.append((folder.name, sequence(folder, truth)))
    return merge("01/ + 01_GT/SEG", parts) if parts else None


def frame_folder(root: Path) -> Path | None:
    """01_GT/SEG, where the folder named is 01_GT or that one itself; else None."""
    folder = root if root.name == FRAME_FOLDER else root / FRAME_FOLDER
    return folder if folder.is_dir() and SEQUENCE_TRUTH.fullmatch(folder.absolute().parent.name) else None


def image_folder(frames: Path) -> Path | None:
    """The images 01/ of the truth 01_GT/SEG, if they are there."""
    truth = frames.absolute().parent
    match = SEQUENCE_TRUTH.fullmatch(truth.name)
    images = truth.parent / match[1] if match else None
    return images if images is not None and images.is_dir() else None


def sequence(folder: Path, truth: Path) -> Dataset:
    """The frames of 01/ and their labels in 01_GT/SEG."""
    images = files_in(folder)
    frames = {int(match[1]): path for path in images if (match := FRAME.fullmatch(stem_of(path)))}
    pairs, left = [], []
    for path in files_in(truth):
        match = FRAME_LABELS.fullmatch(stem_of(path))
        image = frames.get(int(match[1])) if match else None
        if image is None:
            left.append(str(path))
        else:
            pairs.append(Pair(key=image_key(image), image=str(image), labels=LabelFile(str(path))))
    return _dataset("01/ + 01_GT/SEG", sorted(pairs, key=lambda pair: natural(pair.image)), images, left)
