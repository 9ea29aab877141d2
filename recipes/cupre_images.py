"""Lay out the target of a few-shot experiment: python recipes/cupre_images.py OUT TARGET CELLS... -- [NAME=VALUE...]

TARGET has labelled images in any layout; CELLS are folders of images that are learned from without labels. Writes
OUT/pool (fractions are drawn from it), OUT/val (tells the course of a fine-tuning; val=0: there is none) and
OUT/test (scored on), each with images/ (links) and labels/ (16-bit TIFF). Known are val=N and test=N (so many images;
else a tenth and a third), train=N (images of the pool at most), test_folder=DIR (labelled images that are the test
instead) and seed=N of the draw. Images with equal bytes count once. All other NAME=VALUE are kept in
OUT/settings.json; a second run that finds other ones, or other images, is refused, and so is a test image that is in
CELLS. models=DIR has models of several targets: those values that make a model are kept there too.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cellulus_images import place, place_labels
from scellseg_target import check_apart, check_settings

from cellkit.data.dataset import Pair
from cellkit.data.layouts import find_pairs
from cellkit.data.splits import draw_shots
from cellkit.errors import CellkitError, UsageError
from cellkit.io.images import digest_of_source
from cellkit.io.sources import find_sources
from cellkit.provenance import digest_of

OWN = ("train", "val", "test", "test_folder", "seed", "models")
OF_MODELS = ("detector", "model of coco", "coco", "moco", "amt", "images of cells")  # what pre-training depends on
VAL, TEST = 10, 3  # one image in so many, where nobody says how many
PARTS = ("pool", "val", "test")


def lay_out(target: str, cells: Sequence[str], folder: Path, values: Mapping[str, str]) -> list[str]:
    """Write the folders, all or none; of a second run only look whether it is the same.

    Args:
        target: labelled images.
        cells: folders of images that are learned from without labels.
        folder: where to write.
        values: see the module; an empty value counts as none.

    Returns:
        a line per part: how many images it has.

    Raises:
        NoInputError: the target has no annotated image, or a folder no image.
        InputError: an image or its labels cannot be read, or labels do not fit 16 bits.
        UsageError: a count is none, too few images are left, the folder belongs to another experiment, or an image to
            score on may be learned from.
    """
    digests: dict[str, str] = {}
    parts = parts_of(target, values, digests)
    for part in ("val", "test"):
        check_apart(parts["pool"], parts[part], digests)
    check_apart(parts["val"], parts["test"], digests)
    learned = {source.digest(): source.path for root in cells for source in find_sources([root])}
    for pair in parts["test"]:
        if digests[pair.image] in learned:
            problem = f"it is in CELLS too, as {learned[digests[pair.image]]}"
            raise UsageError(pair.image, problem, "never score on images that may be learned from: take one away")
    settings = {name: value for name, value in values.items() if name not in OWN}
    settings["images of cells"] = digest_of(" ".join(sorted(learned)).encode())
    _check_models(settings, values)
    for part, pairs in parts.items():
        settings[f"images of {part}"] = digest_of(" ".join(sorted(digests[pair.image] for pair in pairs)).encode())
    if folder.exists():
        check_settings(folder / "settings.json", settings)
    else:
        _write(parts, folder, settings)
    return [f"{part}: {len(pairs)} images" for part, pairs in parts.items()]


def _check_models(settings: Mapping[str, str], values: Mapping[str, str]) -> None:
    """Models that several targets share are made alike.

    Raises:
        UsageError: those that are there were made otherwise.
    """
    if values.get("models"):
        folder = Path(values["models"])
        folder.mkdir(parents=True, exist_ok=True)
        made = {name: settings.get(name, "") for name in OF_MODELS} | {"seed": values.get("seed") or "0"}
        check_settings(folder / "settings.json", made)


def parts_of(target: str, values: Mapping[str, str], digests: dict[str, str]) -> dict[str, list[Pair]]:
    """Images of pool, val and test, drawn one after the other; digests of all are noted by path.

    Raises:
        UsageError: a count is none, or too few images are left.
    """
    rest = _distinct(target, digests)
    every = len(rest)
    seed = _count("seed", values, 0)
    if values.get("test_folder"):
        test = list(_distinct(values["test_folder"], digests).values())
    else:
        test = _drawn(rest, _count("test", values, max(1, every // TEST)), seed)
    val = _drawn(rest, _count("val", values, max(1, every // VAL)), seed)
    pool = _drawn(rest, min(len(rest), _count("train", values, every)), seed)
    if not pool or not test:
        problem = f"{every} labelled images leave none to learn from, or to score on"
        raise UsageError(target, problem, "label more, or lower TEST and VAL")
    return {"pool": pool, "val": val, "test": test}


def _distinct(folder: str, digests: dict[str, str]) -> dict[str, Pair]:
    """Annotated images by their keys, of equal ones the first."""
    found: dict[str, Pair] = {}
    seen = set()
    for pair in find_pairs(folder).pairs:
        digests[pair.image] = digest_of_source(pair.image)
        if digests[pair.image] not in seen:
            seen.add(digests[pair.image])
            found[pair.key] = pair
    return found


def _drawn(rest: dict[str, Pair], count: int, seed: int) -> list[Pair]:
    """So many of the rest, or all, which they are taken from."""
    chosen = draw_shots(list(rest), min(count, len(rest)), seed) if rest and count else []
    return [rest.pop(key) for key in chosen]


def _count(name: str, values: Mapping[str, str], default: int) -> int:
    text = values.get(name) or str(default)
    least = 0 if name in ("seed", "val") else 1
    if not text.isdecimal() or int(text) < least:
        raise UsageError(name.upper(), f"'{text}' is no number of images", f"give a whole number from {least}")
    return int(text)


def _write(parts: Mapping[str, Sequence[Pair]], folder: Path, settings: dict[str, str]) -> None:
    part_folder = folder.with_name(folder.name + ".part")
    shutil.rmtree(part_folder, ignore_errors=True)
    part_folder.mkdir(parents=True)
    for part, pairs in parts.items():
        if pairs:
            (part_folder / part).mkdir()
            place(part_folder / part / "images", {pair.key: pair for pair in pairs})
            place_labels(part_folder / part / "labels", pairs)
    check_settings(part_folder / "settings.json", settings)
    part_folder.rename(folder)


if __name__ == "__main__":
    try:
        words = sys.argv[2:]
        ends = words.index("--") if "--" in words else len(words)
        chosen = dict(word.split("=", 1) for word in words[ends + 1 :])
        for line in lay_out(words[0], words[1:ends], Path(sys.argv[1]), chosen):
            sys.stdout.write(line + "\n")
    except CellkitError as error:
        sys.exit(f"cupre_images: error: {error}")
