"""GeoJSON for QuPath: one detection per object, with outlines along the edges of the pixels, or between pixels."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.io.label_image import LabelHeader, LabelInfo

Ring: TypeAlias = NDArray[np.int64]  # (V, 2) corners x, y, open
Polygons: TypeAlias = Sequence[Sequence[Ring]]  # of one object: outer ring first, then its holes
FinePolygons: TypeAlias = Sequence[Sequence[NDArray[np.int64] | NDArray[np.float64]]]  # corners may lie within pixels

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "cellkit/convert")
GZIP_LEVEL = 6


def encode_geojson(
    info: LabelInfo,
    shape: tuple[int, int],
    objects: Mapping[int, FinePolygons],
    areas: Mapping[int, int],
    *,
    compress: bool = False,
) -> bytes:
    """A FeatureCollection as QuPath 0.4 and later read it (RFC 7946; x, y in pixels, the corner of the image is 0, 0).

    The id of an object depends on the key of the image and the label alone, so that writing anew changes no id. The
    label is its name. Under the key ``cellkit`` are the history, the pixel size and the size of the image.

    Args:
        info: key, pixel size, scores and history of the image.
        shape: (H, W) of the image.
        objects: polygons by label.
        areas: pixels by label.
        compress: as .geojson.gz.
    """
    features = (_feature(info, label, polygons, areas[label]) for label, polygons in objects.items())
    texts = ",".join(map(_text, features))  # one by one: millions of small lists at a time keep the collector busy
    own = sized_header(replace(info.header, scores=None), shape)  # scores are measurements of the objects
    data = f'{{"type":"FeatureCollection","features":[{texts}],{own[1:]}'.encode()
    return gzip.compress(data, GZIP_LEVEL, mtime=0) if compress else data


def sized_header(header: LabelHeader, shape: tuple[int, int]) -> str:
    """What is stored beside labels, with the size (H, W) of their image, which outlines alone do not tell: JSON."""
    content = json.loads(header.to_json())
    content["cellkit"]["shape"] = list(shape)
    return json.dumps(content, sort_keys=True)


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":"))


def _feature(info: LabelInfo, label: int, polygons: FinePolygons, area: int) -> dict[str, Any]:
    measurements: dict[str, float] = {"Area px^2": area}
    if info.pixel_size is not None:
        measurements["Area \u00b5m^2"] = area * info.pixel_size**2
    if info.scores is not None and label <= len(info.scores) and np.isfinite(info.scores[label - 1]):
        measurements["Score"] = float(str(info.scores[label - 1]))
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(NAMESPACE, f"{info.key}/{label}")),
        "geometry": _geometry(polygons),
        "properties": {"objectType": "detection", "name": str(label), "measurements": measurements},
    }


def _geometry(polygons: FinePolygons) -> dict[str, Any]:
    closed = [[[*ring.tolist(), ring[0].tolist()] for ring in polygon] for polygon in polygons]
    if len(closed) == 1:
        return {"type": "Polygon", "coordinates": closed[0]}
    return {"type": "MultiPolygon", "coordinates": closed}
