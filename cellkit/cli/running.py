"""What the verbs that run a model have in common: settings, the device, the dry run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Sequence

from cellkit.cli.listing import DECODING, SETTINGS
from cellkit.cli.settings import apply, assignments
from cellkit.config import JsonValue, Settings
from cellkit.engine.device import Device
from cellkit.engine.device import open_device as engine_open_device
from cellkit.errors import CellkitError
from cellkit.io.images import describe as describe_image
from cellkit.io.sources import Source
from cellkit.stages import PredictSettings


def decoding_settings(texts: Sequence[str] | None) -> dict[str, JsonValue]:
    """Overrides for decoding from ``--set`` texts."""
    return assignments(texts, DECODING)


def predict_settings(texts: Sequence[str] | None, *, diameter: float | None, tile: int | None) -> PredictSettings:
    """Settings of prediction from ``--set`` texts and their own options."""
    return apply(PredictSettings, assignments(texts, SETTINGS["predict"]), diameter=diameter, tile=tile)


def segment_settings(
    texts: Sequence[str] | None, *, diameter: float | None, tile: int | None
) -> tuple[PredictSettings, Settings]:
    """Settings of prediction and overrides for decoding from the same ``--set`` texts."""
    values = assignments(texts, SETTINGS["segment"])
    own = {field.name for field in dataclasses.fields(PredictSettings)}
    overrides = {name: value for name, value in values.items() if name not in own}
    return apply(PredictSettings, values, diameter=diameter, tile=tile), overrides


def open_device(device: str, precision: str) -> Device:
    """The device asked for; says on ``-v`` what was chosen."""
    return engine_open_device(device, precision)


def show_reading(sources: Iterable[Source], output: str) -> None:
    """Print how each input would be read and what would be written; nothing is computed."""
    for source in sources:
        try:
            info = describe_image(source.path, source.options)
        except CellkitError as error:
            sys.stdout.write(f"{source.path}\terror: {error}\n")
            continue
        guessed = f"\tguessed: {', '.join(info.guessed)}" if info.guessed else ""
        size = f"\t{info.pixel_size:g} um/px" if info.pixel_size else ""
        shape = "x".join(str(n) for n in info.shape)
        sys.stdout.write(f"{source.path}\t{info.axes} {shape} {info.dtype}{size}{guessed}\t-> {output}: {source.key}\n")
