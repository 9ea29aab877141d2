"""Channel names and pixel sizes that TIFF files carry: OME-XML, ImageJ's description, resolution tags."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

CENTIMETRE, INCH = 3, 2  # values of the tag ResolutionUnit
MICROMETRES = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "nm": 1e-3, "pm": 1e-6, "å": 1e-4, "inch": 25_400.0, "in": 25_400.0,
}  # fmt: skip
INCH_IN_MICROMETRES = MICROMETRES["inch"]
# dots per inch that programs write when they know nothing: screens and printers, no microscope
SCREEN_DPI = (72, 75, 90, 96, 100, 120, 144, 150, 180, 200, 240, 300, 360, 400, 600, 720, 1200, 2400, 4800)
LARGEST = 1000.0  # micrometres per pixel; beyond, the tags hold the 1 / 1 of writers that know nothing
DPI_TOLERANCE = 0.05  # written per centimetre, 72 dpi become 28.35 and read back as 72.009


def pixel_size(tiff: Any, series: int) -> float | None:  # noqa: ANN401 - tifffile is not typed
    """Micrometres per pixel along x, or None where the file does not say.

    Args:
        tiff: an open tifffile.TiffFile.
        series: which of its images, from 0.
    """
    if tiff.is_ome:
        return _ome_size(_ome_pixels(tiff, series))
    if tiff.is_imagej:
        return _imagej_size(tiff)
    return _tagged_size(tiff)


def channel_names(tiff: Any, series: int, axes: str) -> tuple[str, ...]:  # noqa: ANN401
    """Names of the channels, or empty; see :func:`pixel_size` for the arguments."""
    if tiff.is_ome:
        pixels = _ome_pixels(tiff, series)
        found = [] if pixels is None else [c.get("Name") for c in pixels.iterfind("{*}Channel")]
        return tuple(name or str(i) for i, name in enumerate(found)) if any(found) else ()
    if tiff.is_imagej and "C" in axes and not set(axes) & set("TZ"):  # else labels name planes, not channels
        return tuple(str(label) for label in (tiff.imagej_metadata or {}).get("Labels", ()))
    return ()


def micrometres(value: float, unit: str) -> float | None:
    """A length in micrometres; None when it is no length (pixel, empty, negative)."""
    unit = unit.strip().lower().replace("\\u00b5", "u").replace("µ", "u").replace("μ", "u")
    factor = MICROMETRES.get(unit)
    return value * factor if factor and 0 < value < float("inf") else None


def _ome_pixels(tiff: Any, series: int) -> ElementTree.Element | None:  # noqa: ANN401
    try:
        images = ElementTree.fromstring(tiff.ome_metadata or "").findall("{*}Image/{*}Pixels")
    except ElementTree.ParseError:
        return None  # the pixels are there all the same
    return images[series] if series < len(images) else None


def _ome_size(pixels: ElementTree.Element | None) -> float | None:
    if pixels is None:
        return None
    try:
        value = float(pixels.get("PhysicalSizeX", ""))
    except ValueError:
        return None
    return micrometres(value, pixels.get("PhysicalSizeXUnit", "µm"))


def _imagej_size(tiff: Any) -> float | None:  # noqa: ANN401
    """ImageJ writes pixels per unit into the tag, and the unit into its description."""
    per_unit = _resolution(tiff)
    unit = str((tiff.imagej_metadata or {}).get("unit", ""))
    return micrometres(1 / per_unit, unit) if per_unit else None


def _tagged_size(tiff: Any) -> float | None:  # noqa: ANN401
    per_unit = _resolution(tiff)
    unit = tiff.pages.first.tags.get("ResolutionUnit")
    if not per_unit or unit is None or unit.value not in (CENTIMETRE, INCH):
        return None
    size = (MICROMETRES["cm"] if unit.value == CENTIMETRE else INCH_IN_MICROMETRES) / per_unit
    dots_per_inch = INCH_IN_MICROMETRES / size
    is_default = size > LARGEST or any(abs(dots_per_inch - dpi) < DPI_TOLERANCE for dpi in SCREEN_DPI)
    return None if is_default else size


def _resolution(tiff: Any) -> float | None:  # noqa: ANN401
    """Pixels per unit along x."""
    tag = tiff.pages.first.tags.get("XResolution")
    if tag is None:
        return None
    try:
        over, under = tag.value
        return float(over / under) or None
    except (TypeError, ValueError, ZeroDivisionError):
        return None
