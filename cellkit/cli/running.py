"""What the verbs that run a model have in common: settings, the model on its device, the dry run."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterable, Sequence
from typing import cast

from cellkit import stages
from cellkit.cli.listing import DECODING, OPTIONS, SETTINGS
from cellkit.cli.places import place_of
from cellkit.cli.reporting import Tally
from cellkit.cli.settings import apply, assignments, names_of
from cellkit.config import NO_SETTINGS, JsonValue, PrecisionName, Preprocessing, Settings
from cellkit.data.scale import scale_of
from cellkit.engine.device import Device
from cellkit.engine.device import open_device as engine_open_device
from cellkit.errors import CellkitError, UsageError
from cellkit.io.images import describe as describe_image
from cellkit.io.sources import Source
from cellkit.stages import PredictSettings
from cellkit.stages.prediction import Command

log = logging.getLogger(__name__)


def decoding_settings(texts: Sequence[str] | None) -> dict[str, JsonValue]:
    """Overrides for decoding from ``--set`` texts, checked before any work."""
    return _checked(assignments(texts, DECODING, OPTIONS["postprocess"]))


def predict_settings(
    texts: Sequence[str] | None, *, diameter: float | None, tile: int | None, verb: str = "predict"
) -> tuple[PredictSettings, Settings]:
    """Settings of prediction and overrides for decoding from the same ``--set`` texts.

    Args:
        texts: as the user wrote them.
        diameter: of ``--diameter``.
        tile: of ``--tile``.
        verb: ``predict``, whose overrides are what detectors decide while they find objects, or ``segment``.
    """
    values = assignments(texts, SETTINGS[verb], OPTIONS[verb])
    own = names_of(PredictSettings)
    overrides = _checked({name: value for name, value in values.items() if name not in own})
    return _prediction(values, diameter, tile), overrides


def _prediction(values: dict[str, JsonValue], diameter: float | None, tile: int | None) -> PredictSettings:
    if diameter is not None and not math.isfinite(diameter):
        raise UsageError("--diameter", f"{diameter} is no size", "give pixels, e.g. 30")
    return apply(PredictSettings, values, diameter=diameter, tile=tile)


def _checked(values: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The same values, once the dataclasses that have such fields accept them."""
    for kind in DECODING:
        apply(kind, values).check()
    return values


def open_device(device: str, precision: str) -> Device:
    """The device asked for; says on ``-v`` what was chosen."""
    opened = engine_open_device(device, cast(PrecisionName, precision))  # the parser allows no other
    log.info("device: %s", opened.description)
    return opened


def open_model(
    model: str, device: str, precision: str, settings: PredictSettings, overrides: Settings = NO_SETTINGS
) -> stages.Model:
    """The model on its device; says on ``-v`` what runs.

    Raises:
        UsageError: a setting is none that the model has.
    """
    ready = stages.load_model(model, open_device(device, precision))
    Command(verb="predict", model=ready, settings=settings, overrides=overrides).check()
    spec = ready.checkpoint.network
    log.info(
        "model: %s (%s, %s, widths %s), scale %s",
        ready.name,
        spec.name,
        ready.checkpoint.representation.name,
        ",".join(map(str, spec.widths)),
        _scale(ready.preprocessing, settings),
    )
    return ready


def _scale(preprocessing: Preprocessing, settings: PredictSettings) -> str:
    """At which images are seen, for people; a diameter that cannot be meant is refused in any case."""
    found = scale_of(preprocessing, settings.diameter)
    return "of each image" if preprocessing.estimated and settings.diameter is None else f"{found:.4g}"


def show_reading(sources: Iterable[Source], output: str, suffix: str) -> None:
    """Print how each input would be read and what would be written; nothing is computed.

    Raises:
        CellkitError: as the run itself would, for inputs that cannot be read.
    """
    tally = Tally()
    for source in sources:
        try:
            info = describe_image(source.path, source.options, source.data)
        except CellkitError as error:
            tally.failures.append(stages.Failure(key=source.key, source=source.path, error=error))
            sys.stdout.write(f"{source.path}\terror: {error.problem}\n")
            continue
        tally.done += 1
        shape = "x".join(str(n) for n in info.shape)
        parts = [source.path, f"{info.axes} {shape} {info.dtype}"]
        parts += [f"{info.frames} frames"] if info.frames > 1 else []
        names = info.channel_names or tuple(map(str, info.channels))
        parts += [f"channels {','.join(names)}"] if len(names) > 1 else []
        parts += [f"{info.pixel_size:g} um/px"] if info.pixel_size else []
        parts += [f"guessed: {', '.join(info.guessed)}"] if info.guessed else []
        key = f"{source.key}_t000" if info.frames > 1 else source.key
        sys.stdout.write("\t".join([*parts, f"-> {place_of(output, key, suffix)}"]) + "\n")
    tally.check("--dry-run")
