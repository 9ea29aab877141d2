"""Drawn outlines beside their images: NAME.zip, NAME_rois.zip or NAME.geojson of NAME."""

from __future__ import annotations

from pathlib import Path

from cellkit.data.dataset import Dataset, Pair, files_in, image_key, natural, stem_of
from cellkit.data.folders import IMAGE_MARKS, LABEL_FOLDERS, LABEL_MARKS, OTHER_MARKS
from cellkit.data.outlines import OutlineFile, is_outlines, outline_key, outline_suffix
from cellkit.data.truth import LabelRef
from cellkit.errors import InputError

LAYOUT = "NAME + NAME.zip (ImageJ ROIs) or NAME.geojson"
OUTLINE_FOLDERS = ("rois", "outlines", "annotations", *LABEL_FOLDERS)


def find_outlines(root: Path) -> Dataset | None:
    """Images and files of outlines in one folder, or images/ + rois/ (outlines/, annotations/, labels/, ...)."""
    inner = next((root / name for name in OUTLINE_FOLDERS if (root / name).is_dir()), None)
    places = [(root, root)]
    if (root / "images").is_dir():
        places = [(root / "images", root / "images"), *([(root / "images", inner)] if inner is not None else [])]
    for images, folder in places:
        found = _matched(_images(images), outline_files(folder))
        if found.pairs:
            return found
    return None


def _images(folder: Path) -> list[Path]:
    return [path for path in files_in(folder) if not stem_of(path).endswith((*LABEL_MARKS, *OTHER_MARKS))]


def _matched(images: list[Path], outlines: dict[str, Path]) -> Dataset:
    pairs, used = [], set()
    for image in images:
        stem = stem_of(image)
        bare = [stem.removesuffix(mark) for mark in IMAGE_MARKS if stem.endswith(mark)]
        file = next((outlines[name] for name in (stem, *bare) if name in outlines), None)
        if file is not None:
            pairs.append(Pair(key=image_key(image), image=str(image), labels=OutlineFile(str(file), str(image))))
            used.add(file)
    paired = {pair.image for pair in pairs}
    return Dataset(
        layout=LAYOUT,
        pairs=tuple(pairs),
        unpaired_images=tuple(str(path) for path in images if str(path) not in paired),
        unpaired_labels=tuple(str(path) for path in outlines.values() if path not in used),
    )


def outline_files(folder: Path) -> dict[str, Path]:
    """The visible files of outlines of a folder by the name of their image, in natural order.

    Raises:
        InputError: two files are of one image, or the folder cannot be read.
    """
    try:
        files = [path for path in folder.iterdir() if outline_suffix(path.name) and not path.name.startswith(".")]
    except OSError as error:
        raise InputError(folder, f"cannot be listed: {error.strerror}", "check its name and rights") from error
    found: dict[str, Path] = {}
    for file in sorted(files, key=natural):
        if not file.is_file() or not is_outlines(file):
            continue
        key = outline_key(file.name)
        if key in found:
            raise InputError(file, f"{found[key].name} has the outlines of {key} too", "take one of them away")
        found[key] = file
    return found


def outlines_alone(folder: Path) -> dict[str, LabelRef]:
    """The files of outlines of a folder without images, by key; nothing where there are none."""
    return {key: OutlineFile(str(file)) for key, file in outline_files(folder).items()}
