"""Look over the images of a shot experiment: python recipes/scellseg_target.py POOL TEST OUT [NAME=VALUE...]

Refuses images that are in both, by file name or by content. Writes OUT/pool.txt and OUT/test.txt (paths of the images),
OUT/diameter.txt (median over the pool, for the base) and OUT/settings.json: images and NAME=VALUE. A second run that
finds other settings there is refused: what is in OUT would not be comparable.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cellkit.data.dataset import Pair
from cellkit.data.diameter import diameter_of
from cellkit.data.layouts import find_pairs
from cellkit.errors import CellkitError, InputError, NoInputError, UsageError
from cellkit.io.images import digest_of_source
from cellkit.provenance import digest_of


def look_over(pool: str, test: str, folder: Path, settings: Sequence[str] = ()) -> None:
    """Check the images and write what the recipe needs to know of them.

    Args:
        pool: labelled images to draw shots from, in any layout.
        test: labelled images to score on.
        folder: where to write; made where it is not there.
        settings: ``NAME=VALUE`` of the experiment.

    Raises:
        NoInputError: there are no labelled images, or the pool holds no cell.
        InputError: an image or its labels cannot be read.
        UsageError: an image is in both, or the folder belongs to another experiment.
    """
    shots, held = find_pairs(pool).pairs, find_pairs(test).pairs
    digests = {pair.image: digest_of_source(pair.image) for pair in (*shots, *held)}
    check_apart(shots, held, digests)
    diameter = diameter_of_all(shots, pool)
    folder.mkdir(parents=True, exist_ok=True)
    now = dict(text.split("=", 1) for text in settings)
    now |= {name: _digest(pairs, digests) for name, pairs in (("images of the pool", shots), ("test images", held))}
    check_settings(folder / "settings.json", now)
    for name, pairs in (("pool", shots), ("test", held)):
        (folder / f"{name}.txt").write_text("".join(f"{pair.image}\n" for pair in pairs), encoding="utf-8")
    (folder / "diameter.txt").write_text(f"{diameter:.2f}\n", encoding="utf-8")


def check_apart(shots: Sequence[Pair], held: Sequence[Pair], digests: dict[str, str]) -> None:
    """Refuse an image that is learned from and scored on.

    Raises:
        UsageError: an image of the pool has the name or the content of a test image.
    """
    names = {Path(pair.image).name: pair.image for pair in shots}
    contents = {digests[pair.image]: pair.image for pair in shots}
    for pair in held:
        same = names.get(Path(pair.image).name) or contents.get(digests[pair.image])
        if same is not None:
            problem = f"it is in the pool too, as {same}"
            raise UsageError(pair.image, problem, "never score on images that may be learned from: take one away")


def diameter_of_all(pairs: Sequence[Pair], name: str) -> float:
    """Median over images of the diameter of their cells, in pixels.

    Raises:
        NoInputError: no image holds a cell.
        InputError: labels cannot be read.
    """
    found = [diameter_of(pair.labels.read().labels) for pair in pairs]
    known = [diameter for diameter in found if diameter is not None]
    if not known:
        raise NoInputError(name, "no image holds a labelled cell", "outline some cells first")
    return float(np.median(known))


def check_settings(path: Path, now: dict[str, str]) -> None:
    """Compare with the settings of earlier runs, or keep these for later ones.

    Raises:
        InputError: those of earlier runs cannot be read.
        UsageError: they were others.
    """
    if not path.exists():
        path.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(path, "cannot be read", "remove its folder to begin anew") from error
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            problem = f"the runs beside it had other settings: {name} {before.get(name)}, now {now.get(name)}"
            raise UsageError(path, problem, "choose another OUT, or remove its folder to begin anew")


def _digest(pairs: Sequence[Pair], digests: dict[str, str]) -> str:
    return digest_of("\n".join(sorted(digests[pair.image] for pair in pairs)).encode())


if __name__ == "__main__":
    try:
        look_over(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    except CellkitError as error:
        sys.exit(f"scellseg_target: error: {error}")
