"""What most often ruins fine-tuning, looked for in the labelled images before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.data.dataset import Pair
from cellkit.data.diameter import diameter_of
from cellkit.data.shot_lint_unlabelled import unlabelled_cells
from cellkit.data.truth import Truth
from cellkit.errors import InputError
from cellkit.io.images import ReadOptions
from cellkit.ops.measuring import Cells, cells_of
from cellkit.ops.run_lengths import runs_of_masks
from cellkit.ops.runs import Neighbours, runs_of
from cellkit.overlap import ordered_map

Kind: TypeAlias = Literal[
    "unreadable", "empty", "binary", "pieces", "tiny", "unlabelled", "few", "sizes", "channels"
]  # of findings
Integers: TypeAlias = NDArray[np.int64]

WORKERS = 4  # threads that read and look
ALL = "shots"  # in place of a key: all of them together
PIECE = 0.1  # of an object must lie apart from its largest piece: crumbs of a pen do no harm
CLASSES = 3  # labels that a mask of classes has at most: cell; inner part and border; with background
FULL = (255, 65535)  # what image editors write for "white"
TINY = 0.02  # of the median area of the objects of an image
FEW = 10  # cells in all
SIZES = 2.5  # largest diameter of a shot over the smallest: cells of both cannot be near the working diameter
NAMED = 3  # keys in a message


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong with the shots, or seems to be.

    Attributes:
        key: of the image; :data:`ALL` where it concerns all together.
        kind: for those who want to leave some out.
        message: what was found, one clause.
        repair: what to do about it.
        fatal: nothing can be trained like this.
    """

    key: str
    kind: Kind
    message: str
    repair: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.key}: {self.message} ({self.repair})"


@dataclass(frozen=True, kw_only=True)
class _Shot:
    """What is kept of one labelled image.

    Attributes:
        key: of the image.
        cells: how many.
        diameter: median in pixels, or None without cells.
        channels: of the image.
        findings: about it alone.
    """

    key: str
    cells: int
    diameter: float | None
    channels: int
    findings: tuple[Finding, ...]

    @property
    def is_binary(self) -> bool:
        """Whether its labels do not tell cells apart, so that neither number nor size mean anything."""
        return any(finding.kind == "binary" for finding in self.findings)


def lint(pairs: Sequence[Pair], options: ReadOptions | None = None) -> tuple[Finding, ...]:
    """Look for what ruins fine-tuning, image by image and then over all; nothing is raised for it.

    Args:
        pairs: the labelled images.
        options: how images are read.

    Returns:
        at most one finding of each kind per image, in the order of the images; then those about all. Where no image
        holds a cell that is the only word about it, and fatal; so is an image that cannot be read, or has another
        shape than its labels.
    """
    looked = list(ordered_map(lambda pair: _look(pair, options or ReadOptions()), pairs, WORKERS))
    shots = [found for found in looked if isinstance(found, _Shot)]
    findings = [finding for found in looked for finding in (found.findings if isinstance(found, _Shot) else (found,))]
    if not any(shot.cells for shot in shots):
        findings = [finding for finding in findings if finding.kind != "empty"]
    return (*findings, *_together(shots))


def _look(pair: Pair, options: ReadOptions) -> _Shot | Finding:
    try:
        image = pair.read(options)
        pixels = image.pixels[:, :, :]
        truth = pair.labels.read((pixels.shape[1], pixels.shape[2]))
    except InputError as error:
        message = f"{error.subject}: {error.problem}"
        return Finding(
            key=pair.key, kind="unreadable", message=message, repair=error.repair or "replace the file", fatal=True
        )
    return _Shot(
        key=pair.key,
        cells=len(np.unique(truth.labels[truth.labels > 0])),
        diameter=diameter_of(truth.labels),
        channels=len(pixels),
        findings=tuple(_alone(pair.key, pixels, truth)),
    )


def _alone(key: str, pixels: NDArray[Any], truth: Truth) -> Iterator[Finding]:
    """What one image tells by itself."""
    labels = np.maximum(truth.labels, 0)  # pixels of which nothing is known are no object
    cells = cells_of(labels)
    if not len(cells):
        yield Finding(key=key, kind="empty", message="holds no labelled cell", repair="label it, or leave it out")
        return
    areas = _whole_areas(cells, truth)
    pieces, rest = _pieces(labels, cells)
    binary = _binary(cells, pieces)
    if binary is not None:
        repair = "give each cell a number of its own"
        yield Finding(key=key, kind="binary", message=binary, repair=repair)
        return  # whatever else could be said of such objects follows from this
    apart = (rest >= PIECE * cells.areas) & (cells.areas == areas)  # not those that others cut, lying upon them
    if apart.any():
        message = f"{_counted(apart, 'object')} in several pieces, e.g. label {cells.ids[apart][0]}"
        repair = "join the pieces, or number them one by one"
        yield Finding(key=key, kind="pieces", message=message, repair=repair)
    median = float(np.median(areas))
    tiny = (areas < TINY * median) & ~cells.touches_border
    if tiny.any():
        message = (
            f"{_counted(tiny, 'object')} far smaller than the others, e.g. label {cells.ids[tiny][0]} of "
            f"{areas[tiny][0]} px where half have {median:.0f} or more"
        )
        yield Finding(key=key, kind="tiny", message=message, repair="erase what are stray pixels")
    forgotten = unlabelled_cells(pixels, truth.labels)
    if forgotten:
        message = f"{forgotten} things far from all {len(cells)} labelled cells look like cells"
        repair = "label all cells, or cut the image down to its labelled part; what is unlabelled counts as background"
        yield Finding(key=key, kind="unlabelled", message=message, repair=repair)


def _counted(flags: NDArray[np.bool_], noun: str) -> str:
    count = int(np.count_nonzero(flags))
    return f"1 {noun} is" if count == 1 else f"{count} {noun}s are"


def _whole_areas(cells: Cells, truth: Truth) -> Integers:
    """(N,) pixels of each object, also of the parts that others cover."""
    if truth.masks is None:
        return cells.areas
    runs = runs_of_masks(truth.masks)
    areas: Integers = np.bincount(runs.owners, runs.lengths, len(truth.masks)).astype(np.int64)
    return areas[cells.ids - 1]


def _pieces(labels: NDArray[np.int32], cells: Cells) -> tuple[Integers, Integers]:
    """Per object: its pieces that are no crumbs, and the pixels beside its largest piece; both (N,)."""
    runs = runs_of(labels)
    count, piece = Neighbours(runs).pieces(runs.values)
    sizes = np.bincount(piece, runs.lengths, count).astype(np.int64)
    owners = np.zeros(count, np.int64)
    owners[piece] = runs.values
    sizes, owners = sizes[owners > 0], np.searchsorted(cells.ids, owners[owners > 0])
    largest = np.zeros(len(cells), np.int64)
    np.maximum.at(largest, owners, sizes)
    large = sizes >= PIECE * largest[owners]
    return np.bincount(owners[large], minlength=len(cells)), cells.areas - largest


def _binary(cells: Cells, pieces: Integers) -> str | None:
    """What is said of labels that tell classes apart, not cells."""
    if len(cells) == 1 and cells.ids[0] in FULL:
        return f"the only label is {cells.ids[0]}: a binary mask does not tell cells apart"
    if len(cells) <= CLASSES and pieces.sum() > 2 * len(cells):
        names = ", ".join(map(str, cells.ids.tolist()))
        return (
            f"{pieces.sum()} separate pieces have the label{'s' if len(cells) > 1 else ''} {names}: a mask of classes"
        )
    return None


def _together(shots: Sequence[_Shot]) -> Iterator[Finding]:
    """What only all images together tell."""
    total = sum(shot.cells for shot in shots)
    if shots and not total:
        message = "none holds a labelled cell"
        yield Finding(key=ALL, kind="empty", message=message, repair="outline some cells first", fatal=True)
    elif shots and total < FEW and not any(shot.is_binary for shot in shots):
        message = f"{total} labelled cell{'s' if total > 1 else ''} in all"
        yield Finding(key=ALL, kind="few", message=message, repair=f"label {FEW} or more, as different as they come")
    sized = sorted((shot.diameter, shot.key) for shot in shots if shot.diameter is not None and not shot.is_binary)
    if sized and sized[-1][0] > SIZES * sized[0][0]:
        (small, one), (large, other) = sized[0], sized[-1]
        message = f"the cells of {one} measure {small:.0f} px across, those of {other} {large:.0f} px"
        yield Finding(key=ALL, kind="sizes", message=message, repair="tune a model for each size")
    counts = Counter(shot.channels for shot in shots)
    if len(counts) > 1:
        parts = [f"{count} in {_named([s.key for s in shots if s.channels == count])}" for count in sorted(counts)]
        message = f"the images differ in channels: {'; '.join(parts)}"
        yield Finding(key=ALL, kind="channels", message=message, repair="choose the same with --channels")


def _named(keys: Sequence[str]) -> str:
    more = len(keys) - NAMED
    return ", ".join(keys[:NAMED]) + (f" and {more} more" if more > 0 else "")
