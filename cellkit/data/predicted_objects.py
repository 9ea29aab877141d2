"""Objects that a detector predicted, as they lie in files: for ``postprocess``, and as labels that are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.data.annotations import Annotations, numbers_by_name
from cellkit.data.dataset import files_in
from cellkit.data.truth import LabelRef, Truth, check_shape, paint
from cellkit.errors import InputError, NoInputError
from cellkit.io.detections import KIND, ObjectPrediction, keys_of, kind_of, read_object
from cellkit.io.keys import HDF5_SUFFIXES, key_of
from cellkit.io.maps import AGAIN
from cellkit.ops.detections import Detections
from cellkit.ops.run_lengths import MaskRuns, RunLength, encode_runs, runs_of_masks

Numbers: TypeAlias = Mapping[str, int]
NO_NUMBERS: Numbers = MappingProxyType({})
DAMAGED = "damaged"  # HDF5
FIRST_CATEGORY = 1  # of COCO files; those of predictions begin at 0


def counts_of_masks(runs: MaskRuns, count: int, shape: tuple[int, int]) -> tuple[bytes, ...]:
    """Compressed run lengths of the masks of so many objects on (H, W), as prediction files have them."""
    return tuple(bytes(mask["counts"]) for mask in encode_runs(runs, count, shape))


def run_lengths_of(prediction: ObjectPrediction) -> list[RunLength]:
    """The masks of a prediction as COCO and pycocotools have them."""
    size = list(prediction.shape)
    return [{"size": size, "counts": counts} for counts in prediction.masks]


def detections_of(prediction: ObjectPrediction) -> Detections:
    """The objects of a prediction.

    Raises:
        InputError: a mask is damaged, or leaves the image.
    """
    return Detections(
        shape=prediction.shape,
        boxes=prediction.boxes,
        scores=prediction.scores,
        categories=prediction.categories,
        masks=_runs(prediction),
    )


def _runs(prediction: ObjectPrediction) -> MaskRuns:
    """The runs of all masks, checked."""
    try:
        runs = runs_of_masks(run_lengths_of(prediction))
    except (ValueError, IndexError, OverflowError) as error:
        raise InputError(prediction.source, f"a mask is damaged: {error}", AGAIN) from error
    ends = runs.starts + runs.lengths
    if runs.starts.size and (runs.starts.min() < 0 or ends.max() > prediction.shape[0] * prediction.shape[1]):
        raise InputError(prediction.source, "a mask is damaged: it leaves the image", AGAIN)
    return runs


@dataclass(frozen=True, eq=False)
class HeldObjects:
    """Objects that came through a stream.

    Attributes:
        prediction: as it came.
        member: of the stream.
        numbers: of the categories in the truth, by their names; see :func:`truth_of`.
    """

    prediction: ObjectPrediction
    member: str
    numbers: Numbers = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The member of the stream."""
        return self.member

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """See :class:`cellkit.data.truth.LabelRef`."""
        return truth_of(self.prediction, self.name, shape, self.numbers)


@dataclass(frozen=True, eq=False)
class ObjectLabels:
    """The objects of one image of a prediction file.

    Attributes:
        path: the file.
        key: of the image in it.
        numbers: of the categories in the truth, by their names; see :func:`truth_of`.
    """

    path: Path
    key: str
    numbers: Numbers = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """``FILE.h5: KEY``, for messages."""
        return f"{self.path}: {self.key}"

    @property
    def prediction(self) -> ObjectPrediction:
        """Read from the file.

        Raises:
            InputError: as :func:`cellkit.io.detections.read_object`.
        """
        return read_object(self.path, self.key)

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """See :class:`cellkit.data.truth.LabelRef`."""
        return truth_of(self.prediction, self.name, shape, self.numbers)


@dataclass(frozen=True, eq=False)
class DamagedObjects:
    """A prediction file among others that cannot be read; it is called by its name, as that of one image is.

    Attributes:
        path: the file.
        error: what is wrong with it.
    """

    path: Path
    error: InputError

    @property
    def name(self) -> str:
        """The file."""
        return str(self.path)

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """Raises InputError."""
        raise self.error


def truth_of(
    prediction: ObjectPrediction, name: str, shape: tuple[int, int] | None = None, numbers: Numbers = NO_NUMBERS
) -> Truth:
    """Objects as scores take them: all of them, with overlaps, scores, categories and the boxes that were predicted.

    Args:
        prediction: objects of an image.
        name: for messages.
        shape: (H, W) of the image that they must fit, if known.
        numbers: of the categories in the truth, by their names; without them, or without names, they count from 1. A
            name that the truth does not know gets a number that it does not have.

    Raises:
        InputError: they do not fit, or a mask is damaged.
    """
    check_shape(name, prediction.shape, shape)
    runs = _runs(prediction)
    masks = run_lengths_of(prediction)
    boxes = prediction.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    table = _numbers_of(prediction, numbers)
    notes = Annotations(
        ids=np.arange(1, prediction.count + 1),
        areas=np.bincount(runs.owners, runs.lengths, prediction.count).astype(np.float64),
        boxes=boxes,
        scores=prediction.scores.astype(np.float64),
        categories=table[prediction.categories],
        crowd=np.zeros(prediction.count, bool),
        has_boxes=True,
        has_categories=len(prediction.names) > 1,
        names=dict(zip(table.tolist(), prediction.names, strict=False)),
    )
    painted = paint(masks, prediction.shape)
    return replace(painted, annotations=notes, pixel_size=prediction.pixel_size)


def _numbers_of(prediction: ObjectPrediction, numbers: Numbers) -> NDArray[np.int64]:
    """Number of each category in the truth, or from 1."""
    if not numbers or not prediction.names:
        return np.arange(max(len(prediction.names), prediction.categories.max(initial=0) + 1)) + FIRST_CATEGORY
    return np.array(numbers_by_name(prediction.names, numbers), np.int64)


def is_objects(path: Path) -> bool:
    """Whether a file holds the objects that a detector predicted; one that cannot be read does not."""
    return _kind(path) == KIND


def are_objects(files: Sequence[Path]) -> bool:
    """Whether files hold the objects that a detector predicted; HDF5 files among them may be damaged."""
    kinds = {_kind(file) for file in files}
    return KIND in kinds and kinds <= {KIND, DAMAGED}


def _kind(path: Path) -> str | None:
    """What an HDF5 file says that it holds, or that it cannot be read; None of other files."""
    if path.suffix.lower() not in HDF5_SUFFIXES:
        return None
    try:
        return kind_of(path, str(path))
    except InputError:
        return DAMAGED


def objects_in(root: str) -> dict[str, LabelRef]:
    """The objects of a prediction file, or of a folder whose image and label files are all such; else nothing.

    Raises:
        NoInputError: such files without an image.
        InputError: as :func:`find_objects`.
    """
    path = Path(root)
    files = files_in(path, labels=True) if path.is_dir() else [path]
    if not are_objects(files):
        return {}
    found = find_objects(files)
    if not found:
        raise NoInputError(root, "holds no image", "predict images into it")
    return found


def find_objects(paths: Sequence[Path], numbers: Numbers = NO_NUMBERS) -> dict[str, LabelRef]:
    """The objects of each image of prediction files, by key; of several files, a damaged one costs itself.

    Args:
        paths: the files.
        numbers: of the categories in the truth, by their names.

    Raises:
        InputError: the only file is damaged, or a second prediction of an image.
    """
    found: dict[str, LabelRef] = {}
    for path in paths:
        for key, labels in _objects_of(path, numbers, alone=len(paths) == 1).items():
            if key in found:
                raise InputError(path, f"a second prediction of {key}", "give one prediction per image")
            found[key] = labels
    return found


def _objects_of(path: Path, numbers: Numbers, *, alone: bool) -> dict[str, LabelRef]:
    try:
        return {key: ObjectLabels(path, key, numbers) for key in keys_of(path)}
    except InputError as error:
        if alone:
            raise
        return {key_of(str(path)): DamagedObjects(path, error)}
