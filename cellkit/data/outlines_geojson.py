"""GeoJSON of QuPath (and of whatever else writes polygons in pixels) as outlines of cells. RFC 7946."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from cellkit.data.outlines_parts import Drawn, Outline, Ring, parse_header
from cellkit.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
CELLS = ("detection", "cell")  # QuPath's objects; annotations are regions where there are such
SCORE = "Score"
REPAIR = "export it anew, e.g. from QuPath by File > Export objects as GeoJSON"


def read_geojson(data: bytes, name: str) -> Drawn:
    """The outlines of a GeoJSON file, compressed or not.

    Polygons and multipolygons are taken, with their holes; points and lines are passed over. Where QuPath's file has
    detections or cells, they are taken alone: the annotations are then the regions in which they were looked for.

    Args:
        data: the file.
        name: for messages.

    Raises:
        InputError: it is damaged, or no GeoJSON.
    """
    content = _parsed(data, name)
    features = [feature for feature in _features(content, name) if isinstance(feature, dict)]
    kinds = [_properties(feature).get("objectType") for feature in features]
    cells_alone = any(kind in CELLS for kind in kinds)
    outlines: list[Outline] = []
    passed_over: Counter[str] = Counter()
    planes: set[Hashable] = set()
    for kind, feature in zip(kinds, features, strict=True):
        if cells_alone and kind not in CELLS:
            passed_over[str(kind or "other")] += 1
            continue
        geometry = feature.get("geometry")
        geometry = geometry if isinstance(geometry, dict) else {}
        rings = _rings(geometry, name)
        if rings is None:
            passed_over[str(geometry.get("type") or "object without outline").lower()] += 1
            continue
        planes.add(_plane(geometry))
        outlines.append(_outline(_properties(feature), rings))
    own = content.get("cellkit") if isinstance(content, dict) else None
    header, shape = parse_header(json.dumps({"cellkit": own}))
    return Drawn(outlines=outlines, passed_over=passed_over, planes=frozenset(planes), header=header, shape=shape)


def _parsed(data: bytes, name: str) -> Any:  # noqa: ANN401 - what a JSON holds is not known
    try:
        return json.loads(gzip.decompress(data) if data.startswith(GZIP_MAGIC) else data)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise InputError(name, f"is no readable GeoJSON: {error}", REPAIR) from error


def _features(content: Any, name: str) -> list[Any]:  # noqa: ANN401 - what a JSON holds is not known
    """A collection, a list of features as old QuPath writes it, one feature, or one geometry."""
    if isinstance(content, list):
        return content
    kind = content.get("type") if isinstance(content, dict) else None
    if kind == "FeatureCollection" and isinstance(content.get("features"), list):
        return list(content["features"])
    if kind == "Feature":
        return [content]
    if kind in ("Polygon", "MultiPolygon"):
        return [{"geometry": content}]
    raise InputError(name, "is no GeoJSON: there are no features in it", REPAIR)


def _properties(feature: Mapping[str, Any]) -> Mapping[str, Any]:
    found = feature.get("properties")
    return found if isinstance(found, dict) else {}


def _rings(geometry: Mapping[str, Any], name: str) -> tuple[Ring, ...] | None:
    """All rings of a polygon or multipolygon; None of other geometries."""
    parts = geometry.get("coordinates")
    if geometry.get("type") == "Polygon":
        parts = [parts]
    elif geometry.get("type") != "MultiPolygon":
        return None
    try:
        rings = tuple(np.array(ring, np.float64).reshape(len(ring), -1)[:, :2] for part in parts or () for ring in part)
    except (ValueError, TypeError) as error:
        raise InputError(name, "a polygon in it is damaged", REPAIR) from error
    if not all(ring.shape[1:] == (2,) and np.isfinite(ring).all() for ring in rings):
        raise InputError(name, "a polygon in it has corners that are no x, y", REPAIR)
    return rings


def _plane(geometry: Mapping[str, Any]) -> Hashable:
    plane = geometry.get("plane")
    return (plane.get("z", 0), plane.get("t", 0)) if isinstance(plane, dict) else (0, 0)


def _outline(properties: Mapping[str, Any], rings: tuple[Ring, ...]) -> Outline:
    measurements = properties.get("measurements")
    if isinstance(measurements, list):  # as QuPath wrote them up to 0.3
        measurements = {one.get("name"): one.get("value") for one in measurements if isinstance(one, dict)}
    score = measurements.get(SCORE) if isinstance(measurements, dict) else None
    number = float(score) if isinstance(score, int | float) and not isinstance(score, bool) else float("nan")
    return Outline(name=str(properties.get("name", "")), rings=rings, score=number)
