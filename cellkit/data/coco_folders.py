"""COCO files as data sets: beside their images in a folder, or alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cellkit.data.coco import CocoFile, read_coco
from cellkit.data.dataset import Dataset, Pair, files_in, folders_in, image_key, merge, natural
from cellkit.data.folders import ANNOTATION_FOLDERS
from cellkit.data.truth import LabelRef
from cellkit.errors import InputError

IMAGE_FOLDER = "images"


def find_coco(root: Path) -> Dataset | None:
    """COCO files in the folder or in its annotations/."""
    found = [(path.stem, part) for path in coco_files(root) if (part := coco_dataset(path, root)) is not None]
    if len(found) < 2:
        return found[0][1] if found else None
    merged = merge(found[0][1].layout, found)
    paired = {pair.image for pair in merged.pairs}
    left = dict.fromkeys(path for path in merged.unpaired_images if path not in paired)
    return dataclasses.replace(merged, unpaired_images=tuple(left))


def coco_files(root: Path) -> list[Path]:
    """JSON files in a folder or in its annotations/, whatever they hold, in natural order."""
    folders = [root, *(root / name for name in ANNOTATION_FOLDERS)]
    return sorted((path for folder in folders if folder.is_dir() for path in folder.glob("*.json")), key=natural)


def coco_dataset(path: Path, root: Path | None = None) -> Dataset | None:
    """The images that a COCO file names and that are in ``root``, by default the folder of the file; None: no COCO."""
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
    keys = _coco_keys(coco)
    pairs = [Pair(key=keys[name], image=str(place), labels=coco[name]) for name, place in found.items()]
    listed = {place.resolve() for place in found.values()}
    beside = sorted({place.parent for place in found.values()}, key=natural)
    return Dataset(
        layout="COCO .json + images",
        pairs=tuple(sorted(pairs, key=lambda pair: natural(pair.image))),
        unpaired_images=tuple(str(p) for folder in beside for p in files_in(folder) if p.resolve() not in listed),
        unpaired_labels=tuple(labels.name for name, labels in coco.items() if name not in found),
    )


def coco_alone(path: Path) -> dict[str, LabelRef]:
    """The annotations of the one COCO file in a folder without its images, by key; nothing where there is none.

    Raises:
        InputError: there are several.
    """
    found = [(file.stem, coco) for file in coco_files(path) if (coco := read_coco(file, "truth")) is not None]
    if len(found) > 1:
        raise InputError(path, f"it has {len(found)} COCO files and no images", "name one of them")
    return {key: labels for _, coco in found for key, labels in coco_by_key(coco).items()}


def coco_by_key(coco: CocoFile) -> dict[str, LabelRef]:
    """The annotations of a COCO file by the keys of their images."""
    keys = _coco_keys(coco)
    return {keys[name]: labels for name, labels in coco.items()}


def _coco_keys(coco: CocoFile) -> dict[str, str]:
    """Key of each image; where file names occur in several folders, the folder comes before all of them.

    Raises:
        InputError: two images have one key.
    """
    keys = {name: image_key(Path(name).name) for name in coco}
    if len(set(keys.values())) < len(keys):
        keys = {name: f"{Path(name).parent.name}_{key}".removeprefix("_") for name, key in keys.items()}
    names: dict[str, str] = {}
    for name, key in keys.items():
        if names.setdefault(key, name) != name:
            raise InputError(coco.path, f"{names[key]} and {name} would both be called {key}", "rename one")
    return keys
