"""Annotated or segmented cells of any layout -> the files of other tools, as bytes."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from cellkit.config import JsonValue
from cellkit.data.annotations import Annotations
from cellkit.data.coco import CocoLabels
from cellkit.data.layouts import find_images, find_truth
from cellkit.data.outlines import OutlineFile
from cellkit.data.predicted_objects import HeldObjects, ObjectLabels, objects_in, truth_of
from cellkit.data.sparse_labels import check_fraction, draw_kept, kept_only
from cellkit.data.truth import LabelFile, LabelRef, Truth
from cellkit.errors import CellkitError, NoInputError, UsageError
from cellkit.io.export_cellpose import encode_seg_npy
from cellkit.io.export_coco import CocoImage
from cellkit.io.export_geojson import FinePolygons, Polygons, encode_geojson, sized_header
from cellkit.io.export_objects import encode_object, object_file
from cellkit.io.histories import stored_history
from cellkit.io.keys import safe_key, split_dataset
from cellkit.io.label_image import LARGEST_UINT16, LabelImage, whole
from cellkit.io.label_png import encode_png
from cellkit.io.labels import write_labels
from cellkit.io.sources import find_sources
from cellkit.ops.contours import Piece, inner_boundary, outlines
from cellkit.ops.polygons import still_drawn
from cellkit.ops.run_lengths import RunLength, decode, encode_labels, pixels_of
from cellkit.overlap import ordered_map
from cellkit.provenance import History, Record, digest_of, to_json
from cellkit.stages.outcomes import Failure

Format: TypeAlias = Literal[
    "tif", "png", "h5", "coco", "roi", "geojson", "geojson.gz", "ctc", "objects", "cellpose", "seg"
]
FORMATS: tuple[Format, ...] = get_args(Format)
FLAT: tuple[Format, ...] = ("tif", "png", "h5", "ctc", "cellpose", "seg")  # a pixel belongs to one object at most
ANNOTATED: tuple[Format, ...] = ("coco",)  # hold boxes and categories of objects, and objects without a pixel
LABEL_IMAGES: tuple[Format, ...] = ("tif", "png", "h5")
SPARSE: tuple[Format, ...] = ("tif", "h5")  # hold -1, of which nothing is known
WORKERS = 2  # threads that read ahead of the count of cells

Parts: TypeAlias = Iterator[tuple[str, bytes]]  # name in the output folder, content

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Cells(LabelImage):
    """The cells of one image.

    Attributes:
        image: file name of the image, or what it would be.
        masks: run lengths of the whole objects, where some overlap or there are notes: ``masks[i]`` is that of label
            ``i + 1``; else None.
        overlapping: pixels that belong to more than one object.
        notes: what the annotation says of each of the masks, for formats that can hold it; else None.
    """

    image: str
    masks: tuple[RunLength, ...] | None = None
    overlapping: int = 0
    notes: Annotations | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """Where the cells of one image are kept.

    Attributes:
        key: name of the image.
        ref: its labels.
        image: its path, or None.
        history: the commands that made labels that are no file.
    """

    key: str
    ref: LabelRef
    image: str | None = None
    history: History = ()


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Which cells of a collection are kept; nothing is known of the others.

    Attributes:
        fraction: of all cells.
        seed: of the draw.
        ids: labels of the kept cells of each image, by key.
        total: cells of the whole collection.
    """

    fraction: float
    seed: int
    ids: Mapping[str, NDArray[np.int64]]
    total: int

    @property
    def count(self) -> int:
        """Cells that are kept."""
        return sum(len(ids) for ids in self.ids.values())


def find_cells(root: str, image: str | None = None, size: tuple[int, int] | None = None) -> list[Found]:
    """All annotated images of a file or folder.

    Args:
        root: the annotations, or what 'predict' wrote of a detector.
        image: their image, or a folder of images of the same names; None: what the layout tells.
        size: (H, W) of the images of drawn outlines, where no image tells it.

    Raises:
        NoInputError, InputError: as :func:`cellkit.data.layouts.find_truth`, or no such image.
    """
    objects = objects_in(root)
    refs = objects or find_truth(root)
    images = _named_images(image, list(refs)) if image is not None else {} if objects else find_images(root)
    return [
        Found(key=key, ref=_readable(ref, images.get(key), size), image=images.get(key)) for key, ref in refs.items()
    ]


def _named_images(image: str, keys: list[str]) -> Mapping[str, str]:
    """Path of the image of each key; of one image for one annotation the names need not be the same."""
    sources = find_sources([image])
    if len(sources) == len(keys) == 1:
        return {keys[0]: sources[0].path}
    return {source.key: source.path for source in sources}


def _readable(ref: LabelRef, image: str | None, size: tuple[int, int] | None) -> LabelRef:
    """Crowds are no cells, and boxes alone no outlines; drawn outlines need the size of their image."""
    if isinstance(ref, OutlineFile):
        return replace(ref, image=image or ref.image, size=size)
    return replace(ref, purpose="training") if isinstance(ref, CocoLabels) else ref


def check_sparse(fraction: float, to: Format) -> None:
    """Refuse what cannot be meant before any work.

    Raises:
        UsageError: no fraction, or a format that cannot say that nothing is known of a pixel.
    """
    check_fraction(fraction)
    if to not in SPARSE:
        problem = f"'{to}' has no value for pixels of which nothing is known"
        raise UsageError("--keep-fraction", problem, "give --to tif or --to h5")


def count_cells(found: Iterable[Found]) -> Iterator[tuple[str, NDArray[np.int32] | None]]:
    """Key and labels of the cells of one image after another, or None: said when the image is converted."""
    return ordered_map(lambda one: (one.key, _ids(one)), found, WORKERS)


def _ids(found: Found) -> NDArray[np.int32] | None:
    try:
        labels = np.unique(_read(found, SPARSE[0])[0].labels)
    except CellkitError:
        return None
    return labels[labels > 0]


def draw_cells(cells: Mapping[str, NDArray[np.int32] | None], fraction: float, seed: int) -> Kept:
    """Draw the cells of a collection that are kept.

    Args:
        cells: labels by key, of all images: see :func:`count_cells`.
        fraction: of all cells together.
        seed: of the draw.

    Raises:
        UsageError: no fraction.
        NoInputError: all can be read, and there is no cell.
    """
    readable = {key: ids for key, ids in cells.items() if ids is not None}
    total = sum(len(ids) for ids in readable.values())
    if not total and len(readable) == len(cells):
        raise NoInputError("--keep-fraction", "there is no labelled cell to keep", "give labels that hold cells")
    return Kept(fraction=fraction, seed=seed, ids=draw_kept(readable, fraction, seed), total=total)


def read_cells(found: Iterable[Found | Failure], to: Format, kept: Kept | None = None) -> Iterator[Cells | Failure]:
    """Read one image after another; one that cannot be read costs itself.

    Args:
        found: the images.
        to: format that will be written.
        kept: the cells that are kept; None: all.
    """
    for one in found:
        if isinstance(one, Failure):
            yield one
            continue
        try:
            yield _cells(one, to) if kept is None else _sparse(_cells(one, to), one.key, kept)
        except CellkitError as error:
            yield Failure(key=one.key, source=one.ref.name, error=error)


def _cells(found: Found, to: Format) -> Cells:
    truth, former = _read(found, to)
    if truth.overlapping and to in FLAT:
        message = "%s: %d pixels belong to several objects; '%s' keeps the smallest of them there"
        logger.warning(message, found.ref.name, truth.overlapping, to)
    digest = digest_of(np.ascontiguousarray(truth.labels).tobytes())
    image = split_dataset(found.image)[0] if found.image else f"{found.key}.png"
    notes = truth.annotations if to in ANNOTATED else None
    return Cells(
        key=safe_key(found.key, found.ref.name),
        source=found.ref.name,
        labels=truth.labels,
        scores=truth.scores if truth.annotations is None else truth.annotations.scores.astype(np.float32),
        pixel_size=truth.pixel_size,
        outlines=truth.outlines,
        history=(*former, Record(verb="convert", arguments={"to": to}, input_digest=digest)),
        image=Path(image).name,
        masks=truth.masks if truth.overlapping or notes is not None else None,
        overlapping=truth.overlapping,
        notes=notes,
    )


def _sparse(cells: Cells, key: str, kept: Kept) -> Cells:
    """Some of the cells of an image; of the pixels of the others nothing is known."""
    ids = kept.ids.get(key, np.zeros(0, np.int64))
    record = cells.history[-1]
    arguments: dict[str, JsonValue] = {
        **record.arguments,
        "keep_fraction": kept.fraction,
        "seed": kept.seed,
        "kept": f"{len(ids)} of {cells.count}",
        "drawn": digest_of(ids.astype("<i8").tobytes()),  # the same of this image may be another draw of all
    }
    history = (*cells.history[:-1], replace(record, arguments=arguments))
    return replace(cells, labels=kept_only(cells.labels, ids), masks=None, overlapping=0, notes=None, history=history)


def _read(found: Found, to: Format) -> tuple[Truth, History]:
    """The annotation, and the commands that made it where it is ours."""
    if isinstance(found.ref, OutlineFile):
        return found.ref.read_with_history()
    if isinstance(found.ref, ObjectLabels | HeldObjects):
        return _objects(found.ref, to)
    if not isinstance(found.ref, LabelFile):
        return found.ref.read(), found.history
    truth = replace(found.ref, unknown=to in LABEL_IMAGES).read()  # a PNG refuses -1 when it is written
    return truth, found.history if found.ref.dataset is not None else stored_history(Path(found.ref.name)) or ()


def _objects(objects: ObjectLabels | HeldObjects, to: Format) -> tuple[Truth, History]:
    """All that a detector found; where a pixel has one object at most, the cells that ``postprocess`` makes of it."""
    prediction = objects.prediction
    if to not in FLAT:
        return truth_of(prediction, objects.name), prediction.history
    from cellkit.stages.postprocessing import flattened  # torch only where there are objects

    cells = flattened(prediction)
    return Truth(labels=whole(cells), scores=cells.scores, pixel_size=cells.pixel_size), prediction.history


def masks_of(cells: Cells) -> tuple[list[int], list[RunLength]]:
    """Labels of all objects, ascending, and their masks, whole where objects overlap."""
    if cells.masks is not None:
        return list(range(1, len(cells.masks) + 1)), list(cells.masks)
    ids, masks = encode_labels(cells.labels)
    return ids.tolist(), masks


def coco_image(cells: Cells) -> CocoImage:
    """The objects of an image as a COCO file has them."""
    labels, masks = masks_of(cells)
    scores = cells.scores
    if scores is not None:
        padded = np.append(scores, np.full(max([*labels, 0]), np.float32(1)))  # labels without a score
        scores = padded[np.array(labels, np.int64) - 1]
    image = CocoImage(name=cells.image, shape=cells.shape, masks=masks, scores=scores, history=cells.history)
    notes = cells.notes
    if notes is None:
        return image
    boxes = notes.boxes if notes.has_boxes else None
    return replace(image, boxes=boxes, categories=notes.categories, names=notes.names)


def polygons_of(cells: Cells) -> tuple[dict[int, Polygons], dict[int, int]]:
    """Polygons along the edges of the pixels, and the pixels, of all objects by label."""
    pieces: dict[int, list[Piece]] = {}
    for layer in _layers(cells):
        pieces |= outlines(layer)
    found: dict[int, Polygons] = {}
    for label in sorted(pieces):
        found[label] = [[piece.outer, *piece.holes] for piece in pieces[label]]
    return found, {label: sum(piece.area for piece in pieces[label]) for label in found}


def drawn_polygons(cells: Cells) -> dict[int, FinePolygons]:
    """The polygons that objects were drawn from, by label, where the labels still are what they draw.

    They may overlap, and end between pixels or outside of the image.
    """
    if cells.outlines is None or cells.masks is not None:
        return {}
    corners = cells.outlines.astype(np.float64)
    still = np.flatnonzero(still_drawn(corners, cells.scores, cells.labels))
    rings = np.round(corners[still][..., ::-1] + 0.5, 2)  # x, y from the corner of the image
    return {
        label: [[ring]]
        for label, ring in zip((still + 1).tolist(), rings, strict=True)
        if len(np.unique(ring, axis=0)) == len(ring)  # else it touches itself
    }


def _layers(cells: Cells) -> Iterator[NDArray[np.int32]]:
    """Label images without overlaps that have all objects between them, whole."""
    if cells.masks is None:
        yield cells.labels
        return
    height, width = cells.shape
    layers: list[NDArray[np.int32]] = []  # flattened by columns, as run lengths are
    for label, mask in enumerate(cells.masks, 1):
        pixels = pixels_of(mask)
        free = next((layer for layer in layers if not layer[pixels].any()), None)
        if free is None:
            free = np.zeros(height * width, np.int32)
            layers.append(free)
        free[pixels] = label
    yield from (np.ascontiguousarray(layer.reshape(width, height).T) for layer in layers)


def parts_of(cells: Cells, to: Format) -> Parts:
    """The files of one image in one of the formats that have their own for each image.

    Raises:
        UsageError: the format cannot hold it.
    """
    match to:
        case "roi":
            yield f"{cells.key}_rois.zip", _rois(cells)
        case "geojson" | "geojson.gz":
            objects, areas = polygons_of(cells)
            fine = {**objects, **drawn_polygons(cells)}
            yield f"{cells.key}.{to}", encode_geojson(cells, cells.shape, fine, areas, compress=to == "geojson.gz")
        case "objects":
            labels, masks = masks_of(cells)
            for label, mask in zip(labels, masks, strict=True):
                yield f"{cells.key}/masks/{object_file(label)}", encode_object(decode(mask))
        case "cellpose":
            yield _cellpose_masks(cells)
        case "seg":
            boundary = inner_boundary(cells.labels)
            yield f"{cells.key}_seg.npy", encode_seg_npy(cells.image, cells.labels, boundary, to_json(cells.history))
        case _:
            raise ValueError(f"{to} has no files of its own for each image")


def _rois(cells: Cells) -> bytes:
    from cellkit.io.export_roi import LONGEST_COMMENT, encode_rois  # roifile only when it is needed

    comment = sized_header(cells.header, cells.shape)
    if len(comment) > LONGEST_COMMENT and cells.scores is not None:
        logger.warning("%s: a zip of ROIs has no room for %d scores", cells.source, len(cells.scores))
        comment = sized_header(replace(cells.header, scores=None), cells.shape)
    return encode_rois(cells.source, cells.shape, polygons_of(cells)[0], comment)


def _cellpose_masks(cells: Cells) -> tuple[str, bytes]:
    """PNG as Cellpose writes it, or TIFF above 65,535."""
    if cells.largest <= LARGEST_UINT16:
        return f"{cells.key}_cp_masks.png", encode_png(cells)
    memory = io.BytesIO()
    write_labels(memory, cells)
    return f"{cells.key}_cp_masks.tif", memory.getvalue()
