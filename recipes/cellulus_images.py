"""Lay out the images of a recipe: python recipes/cellulus_images.py DATA OUT [NAME=VALUE...]

Writes OUT/learn (links to the images to learn from, without any label), OUT/test (those to score on), OUT/test.txt
(their names), OUT/size.txt (typical diameter of an object in pixels), OUT/told.txt (the same, or 'each': of each image
as estimated from it) and OUT/settings.json. Known here are names=FILE (images to learn from; else all of DATA, also
those without labels), test=DATA (other images to score on), test_names=FILE, size=PX or size=each (else estimated from
the images to learn from, and 'each' where their sizes differ, as 'cellkit pretrain' does) and labels=yes: OUT/labels
gets the labels of the images to learn from, and an image that is learned from may not be scored on. All other
NAME=VALUE are kept in settings.json; a second run that finds other ones, or other images, is refused.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from scellseg_split import write_labels
from scellseg_target import check_apart, check_settings

from cellkit.data.dataset import Dataset, Pair, image_key
from cellkit.data.layouts import find_pairs, read_names, select
from cellkit.errors import CellkitError, UsageError
from cellkit.io.images import Image, digest_of_source
from cellkit.io.keys import split_dataset, suffix_of
from cellkit.io.sources import find_sources
from cellkit.provenance import digest_of

EACH = "each"  # image has its own size of objects, as of 'cellkit pretrain --object-size'
OWN = ("names", "test", "test_names", "size", "labels")


def lay_out(data: str, folder: Path, values: Mapping[str, str]) -> None:
    """Write the folders, all or none; of a second run only look whether it is the same.

    Args:
        data: annotated images in any layout.
        folder: where to write; made where it is not there.
        values: see the module; an empty value counts as none.

    Raises:
        NoInputError: there are no annotated images.
        InputError: an image or its labels cannot be read, or labels do not fit 16 bits.
        UsageError: a name in a list fits no image, the folder belongs to other images or settings, the images do not
            tell how large their objects are, or labels are learned from and an image is in both parts.
    """
    given = {name: value for name, value in values.items() if value}
    learn, held = chosen(data, given)
    digests = {path: digest_of_source(path) for path in {*learn.values(), *(pair.image for pair in held)}}
    pairs = [pair for pair in find_pairs(data).pairs if learn.get(pair.key) == pair.image]
    if given.get("labels") == "yes":
        check_apart(pairs, held, digests)
    settings = {name: value for name, value in values.items() if name not in OWN}
    settings |= {"object size": given.get("size", "estimated")}
    parts = {"images to learn from": learn.values(), "images to score on": [pair.image for pair in held]}
    settings |= {
        name: digest_of(" ".join(sorted(digests[path] for path in part)).encode()) for name, part in parts.items()
    }
    if folder.exists():
        check_settings(folder / "settings.json", settings)
        return
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was cut off
    part.mkdir(parents=True)
    check_settings(part / "settings.json", settings)
    known = {pair.key: pair for pair in pairs}
    place(part / "learn", {key: known.get(key, path) for key, path in learn.items()})
    place(part / "test", {pair.key: pair for pair in held})
    if given.get("labels") == "yes":
        place_labels(part / "labels", pairs)
    (part / "test.txt").write_text("".join(f"{pair.key}\n" for pair in held), encoding="utf-8")
    size, told = sizes(part / "learn", given.get("size"))
    (part / "size.txt").write_text(f"{size}\n", encoding="utf-8")
    (part / "told.txt").write_text(f"{told}\n", encoding="utf-8")
    os.rename(part, folder)


def chosen(data: str, given: Mapping[str, str]) -> tuple[dict[str, str], list[Pair]]:
    """Images to learn from by key, and annotated images to score on.

    Raises:
        NoInputError: there are no annotated images.
        UsageError: a name in a list fits no image.
    """
    found = find_pairs(data)
    learn = {pair.key: pair.image for pair in _listed(found, given.get("names")).pairs}
    if "names" not in given and given.get("labels") != "yes":
        for path in found.unpaired_images:
            key = image_key(path)
            learn[key if key not in learn else f"{Path(path).absolute().parent.name}_{key}"] = path
    held = find_pairs(given["test"]) if "test" in given else found
    return learn, list(_listed(held, given.get("test_names")).pairs)


def _listed(found: Dataset, names: str | None) -> Dataset:
    return select(found, read_names(names)) if names else found


def place(folder: Path, images: Mapping[str, Pair | str]) -> None:
    """Links to image files under their keys; what is no file of its own is written as TIFF.

    Args:
        folder: is made.
        images: a pair, or the path of an image without labels, by key.

    Raises:
        InputError: an image cannot be read.
    """
    folder.mkdir()
    for key, item in images.items():
        path = item if isinstance(item, str) else item.image
        file, dataset = split_dataset(path)
        if isinstance(item, Pair) and (dataset is not None or item.plane is not None):
            _write(folder / f"{key}.tif", item.read())
        else:
            os.symlink(Path(file).resolve(), folder / (key + suffix_of(file)))


def _write(path: Path, image: Image) -> None:
    pixels: Any = np.asarray(image.pixels[...])
    if image.rgb:
        tifffile.imwrite(path, np.moveaxis(pixels, 0, -1), photometric="rgb", metadata={"axes": "YXS"})
    else:
        tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": "CYX"})


def place_labels(folder: Path, pairs: Sequence[Pair]) -> None:
    """Labels as 16-bit TIFF under the keys of their images; where objects overlap, one is on top.

    Raises:
        InputError: they cannot be read, or do not fit 16 bits.
    """
    folder.mkdir()
    for pair in pairs:
        image = pair.read()
        labels = pair.labels.read((image.pixels.shape[1], image.pixels.shape[2])).labels
        write_labels(folder / f"{pair.key}.tif", labels, pair.labels.name)


def sizes(folder: Path, given: str | None) -> tuple[str, str]:
    """Typical diameter in pixels of the objects of a folder of images, and what to tell of it.

    Args:
        folder: of images.
        given: pixels, ``each``, or None: as ``cellkit pretrain --method oce`` decides it.

    Returns:
        pixels; the same or ``each``.

    Raises:
        UsageError: the images do not tell.
        InputError: an image cannot be read.
    """
    if given is not None and given != EACH:
        return given, given
    from cellkit.cli.unlabelled import VARIED  # these import torch
    from cellkit.stages.pretraining_unlabelled import estimated_size

    try:
        found = estimated_size(find_sources([str(folder)]))
    except UsageError as error:
        raise UsageError("OBJECT_SIZE", error.problem, error.repair) from error
    size = str(round(found.diameter, 1))
    return size, EACH if given == EACH or found.high > VARIED * found.low else size


if __name__ == "__main__":
    try:
        lay_out(sys.argv[1], Path(sys.argv[2]), dict(text.split("=", 1) for text in sys.argv[3:]))
    except CellkitError as error:
        sys.exit(f"cellulus_images: error: {error}")
