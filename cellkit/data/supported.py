"""The images of supported supervision: which have sparse labels, which pseudo labels, and what both say together."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellkit.data.dataset import Pair
from cellkit.data.diameter import diameter_of
from cellkit.data.folders import IMAGE_MARKS
from cellkit.data.layouts import find_truth
from cellkit.data.predicted import find_predicted
from cellkit.data.sparse_labels import annotated, corrected
from cellkit.data.truth import LabelFile, LabelRef, Truth
from cellkit.io.images import digest_of_source
from cellkit.io.sources import Source
from cellkit.overlap import ordered_map
from cellkit.provenance import digest_of

NO_LABELS: Mapping[str, LabelRef] = {}


@dataclass(frozen=True, kw_only=True)
class AnnotatedLabels:
    """Sparse labels with what is known around them; see :func:`cellkit.data.sparse_labels.annotated`.

    Attributes:
        sparse: labels of some cells.
        reach: of known background, in pixels.
        pseudo: a segmentation, which tells cells that were not outlined from background; or None.
    """

    sparse: LabelRef
    reach: float
    pseudo: LabelRef | None = None

    @property
    def name(self) -> str:
        """That of the sparse labels."""
        return self.sparse.name

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """Read both; -1 where nothing is known. See :class:`cellkit.data.truth.LabelRef`."""
        sparse = self.sparse.read(shape).labels
        pseudo = None if self.pseudo is None else self.pseudo.read(sparse.shape).labels
        return Truth(labels=annotated(sparse, self.reach, pseudo))


@dataclass(frozen=True, kw_only=True)
class CorrectedLabels:
    """Pseudo labels, corrected where cells are labelled; see :func:`cellkit.data.sparse_labels.corrected`.

    Attributes:
        pseudo: a segmentation.
        sparse: labels of some cells.
        reach: of known background, in pixels.
    """

    pseudo: LabelRef
    sparse: LabelRef
    reach: float

    @property
    def name(self) -> str:
        """That of the pseudo labels."""
        return self.pseudo.name

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """Read both; -1 where nothing is known. See :class:`cellkit.data.truth.LabelRef`."""
        pseudo = self.pseudo.read(shape).labels
        return Truth(labels=corrected(pseudo, self.sparse.read(pseudo.shape).labels, self.reach))


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Labels of images, found by name.

    Attributes:
        labels: by the key of the image.
        missed: labels that fit no image.
    """

    labels: Mapping[str, LabelRef]
    missed: int = 0


@dataclass(frozen=True, kw_only=True)
class Halves:
    """What the two halves of a batch are drawn from.

    Attributes:
        sparse: images with a labelled cell.
        pseudo: images with pseudo labels.
        diameter: median over images of the median diameter of their labelled cells in pixels; without labels of their
            pseudo cells; None: there is no cell.
        digests: of each image and its labels: a corrected outline makes another result.
    """

    sparse: tuple[Pair, ...]
    pseudo: tuple[Pair, ...]
    diameter: float | None
    digests: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What one look at labels tells."""

    diameter: float | None
    digest: str


def match_labels(root: str, sources: Sequence[Source]) -> Matched:
    """Find the labels of images by name.

    Args:
        root: file or folder of labels in any layout that :func:`cellkit.data.predicted.find_predicted` and
            :func:`cellkit.data.layouts.find_truth` know. Label images may hold -1.
        sources: the images.

    Raises:
        NoInputError: it does not exist, or holds no labels.
        InputError: two labels of one image; a file that cannot be read.
    """
    # results in a layout of their own are found by what the images are called: there is no truth
    images: dict[str, LabelRef] = {source.key: LabelFile(source.path) for source in sources}
    found = find_predicted(root, sources[0].path, images) or find_truth(root)
    bare = {_bare(key): key for key in images}
    labels: dict[str, LabelRef] = {}
    for key, ref in found.items():
        image = key if key in images else bare.get(_bare(key))
        if image is not None:
            labels[image] = _tolerant(ref)
    return Matched(labels=labels, missed=len(found) - len(labels))


def _bare(key: str) -> str:
    """A key without the marks of images."""
    mark = next((mark for mark in IMAGE_MARKS if key.endswith(mark)), "")
    return key.removesuffix(mark) or key


def _tolerant(ref: LabelRef) -> LabelRef:
    """The same labels, which may say of pixels that nothing is known of them."""
    return dataclasses.replace(ref, unknown=True) if isinstance(ref, LabelFile) else ref


def halves(
    sources: Sequence[Source],
    reach: float,
    *,
    sparse: Mapping[str, LabelRef] = NO_LABELS,
    pseudo: Mapping[str, LabelRef] = NO_LABELS,
) -> Halves:
    """Sort images into the halves of a batch; labels are read once to see whether there are cells.

    Args:
        sources: images, in order.
        reach: pixels from labelled cells within which background is known.
        sparse: labels of some cells, by key of the image.
        pseudo: labels of a segmentation, by key of the image.

    Raises:
        InputError: labels or an image cannot be read, or two labels of an image differ in shape.
    """
    seen, found = _looks(sources, sparse), _looks(sources, pseudo)
    first, second = [], []
    for source in sources:
        few, all_ = sparse.get(source.key), pseudo.get(source.key)
        if few is not None and seen[source.key].diameter is not None:
            first.append(_pair(source, AnnotatedLabels(sparse=few, reach=reach, pseudo=all_)))
        if all_ is not None:
            labels = all_ if few is None else CorrectedLabels(pseudo=all_, sparse=few, reach=reach)
            second.append(_pair(source, labels))
    return Halves(
        sparse=tuple(first),
        pseudo=tuple(second),
        diameter=_typical(seen) or _typical(found),
        digests=tuple(_digests(sources, seen, found)),
    )


def _pair(source: Source, labels: LabelRef) -> Pair:
    return Pair(key=source.key, image=source.path, labels=labels, channels=source.options.channels)


def _looks(sources: Sequence[Source], refs: Mapping[str, LabelRef]) -> dict[str, _Look]:
    """One look at the labels of each of the images that has some."""
    keys = [source.key for source in sources if source.key in refs]
    looks = ordered_map(lambda key: _look(refs[key]), keys, len(os.sched_getaffinity(0)))
    return dict(zip(keys, looks, strict=True))


def _look(ref: LabelRef) -> _Look:
    labels = ref.read().labels
    return _Look(diameter=diameter_of(labels), digest=digest_of(labels.tobytes()))


def _typical(looks: Mapping[str, _Look]) -> float | None:
    diameters = [look.diameter for look in looks.values() if look.diameter is not None]
    return float(np.median(diameters)) if diameters else None


def _digests(sources: Sequence[Source], *looks: Mapping[str, _Look]) -> Iterator[str]:
    for source in sources:
        labels = [part[source.key].digest if source.key in part else "-" for part in looks]
        if set(labels) != {"-"}:
            yield " ".join([source.key, digest_of_source(source.path), *labels])
