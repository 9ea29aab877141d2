"""predict: images -> dense maps, with reading, network and writing overlapped."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from cellkit.config import NO_SETTINGS, Preprocessing, RepresentationSpec, Settings, Spec
from cellkit.data.normalise import normalise, prepare_channels, statistics
from cellkit.data.scale import REFERENCE_DIAMETER, own_diameter, scale_of
from cellkit.engine.inference import Tiling
from cellkit.engine.memory import Fallback, MemoryLadder
from cellkit.errors import CellkitError, InputError, UsageError
from cellkit.io.detections import ObjectPrediction
from cellkit.io.images import Image
from cellkit.io.maps import Maps, Prediction, PredictionInfo
from cellkit.io.sources import Source
from cellkit.networks import Detector, margin_of
from cellkit.ops.noisy_passes import Noise
from cellkit.overlap import ahead
from cellkit.provenance import History, Record
from cellkit.representations import DecodeSettings
from cellkit.stages.detecting import Finder, as_objects, detect_settings, tile_overlap
from cellkit.stages.large_images import LargePixels, is_large, rolling_maps
from cellkit.stages.model import Model, decode_settings
from cellkit.stages.outcomes import Failure, IsDone, Skipped, never_done
from cellkit.stages.passes import Passes, noise_of

Predicted: TypeAlias = Prediction | ObjectPrediction | Failure | Skipped

log = logging.getLogger(__name__)

SHAPELESS = frozenset({"batch", "oom_fallback"})  # settings that leave the result as it is
NOISE = "noise_"  # begins the names of the settings of noisy copies


@dataclass(frozen=True, kw_only=True)
class PredictSettings(Spec):
    """How images are predicted.

    Attributes:
        diameter: typical cell diameter in pixels of the images, or None: that of the images that the model was tuned
            for, else the model's own scale.
        tile: side of the network's tiles in pixels, or None: chosen by the engine.
        overlap: overlap of tiles in pixels, or None: two working diameters, at least 64.
        batch: tiles per pass of the network, or None: chosen by the engine.
        oom_fallback: cpu: where to go on when not even the smallest tile fits into memory; None: stop.
        noise_copies: noisy copies of an image for each value of the grains, or None: as many as the model says. This
            and what follows is for models trained without labels.
        noise_values: of the grains, where the percentiles of the image are 0 and 1, or None: the model's.
        noise_fraction: of the pixels of a copy that become a grain, or None: the model's.
        noise_seed: of the places of the grains, or None: the model's.
        brightness: keep the image beside the maps, so that post=nucleus can be chosen afterwards.
    """

    diameter: float | None = None
    tile: int | None = None
    overlap: int | None = None
    batch: int | None = None
    oom_fallback: Fallback | None = None
    noise_copies: int | None = None
    noise_values: tuple[float, ...] | None = None
    noise_fraction: float | None = None
    noise_seed: int | None = None
    brightness: bool = False

    @property
    def noise(self) -> Settings:
        """What is wanted otherwise than the model says."""
        names = (field.name for field in fields(self) if field.name.startswith(NOISE))
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An image as the network sees it: (C, h, w) float32 at map scale, with what the prediction needs to know."""

    image: Image
    pixels: NDArray[np.float32] | LargePixels
    scale: float
    diameter: float | None
    history: History


def tiling_of(settings: PredictSettings, preprocessing: Preprocessing, margin: int = 0) -> Tiling:
    """Tiles overlap by at least two working diameters, so that no cell is seen only in halves.

    A quarter of the overlap is context only: it is at least the margin in which the network sees mirrored image.

    A model of any size counts as one of :data:`REFERENCE_DIAMETER`: nuclei of 100 px came out the same with tiles of
    768 that overlap by 64, 128 or 200.
    """
    overlap = settings.overlap
    if overlap is None:
        overlap = max(4 * margin, int(2 * (preprocessing.diameter or REFERENCE_DIAMETER)))  # the engine rounds it up
    return Tiling(tile=settings.tile, overlap=max(overlap, 0), batch=settings.batch, oom_fallback=settings.oom_fallback)


def resize(pixels: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear, antialiased when shrinking: (C, H, W) -> (C, *shape)."""
    if pixels.shape[1:] == shape:
        return pixels
    shrinks = shape[0] < pixels.shape[1]
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))[None]
    resized = F.interpolate(tensor, size=shape, mode="bilinear", align_corners=False, antialias=shrinks)
    return resized[0].numpy()


def scaled_shape(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """Size of the map of an image."""
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


@dataclass(frozen=True, kw_only=True)
class Command:
    """What runs: it enters the history, and tells what is up to date.

    Attributes:
        verb: predict or segment.
        model: network, preprocessing, representation.
        settings: scale and tiles.
        overrides: settings of decoding that the user changed.
    """

    verb: str
    model: Model
    settings: PredictSettings
    overrides: Settings = field(default_factory=dict)

    def history(self, input_digest: str | None) -> History:
        """The history of the output for one image: settings that change nothing of the result are left out."""
        default = PredictSettings().to_dict()
        chosen = {n: v for n, v in self.settings.to_dict().items() if v != default[n] and n not in SHAPELESS}
        record = Record(
            verb=self.verb,
            arguments=chosen | dict(self.overrides),
            model=self.model.name,
            model_digest=self.model.digest,
            input_digest=input_digest,
        )
        return (record,)

    def check(self) -> None:
        """Refuse before any work what the model cannot do.

        Raises:
            UsageError: an override of decoding is none that its representation has, or the model makes no noisy
                copies, or its predictions have no room for the brightness of the image.
        """
        self.noise()
        self.brightness()

    def noise(self) -> Noise | None:
        """The noisy copies of each image, if there are any; errors as :meth:`check`."""
        return noise_of(self.model.preprocessing, self.settings.noise)

    def brightness(self) -> bool:
        """Whether the prediction keeps the image; errors as :meth:`check`."""
        representation = self.model.decodable
        wanted = self.settings.brightness or self.decoding().wants_brightness
        if wanted and not representation.optional:
            problem = f"'brightness' has no place in a prediction of '{representation.name}'"
            raise UsageError("--set", problem, "leave it out")
        return wanted

    def decoding(self) -> DecodeSettings:
        """Settings of decoding: the model's, with what is wanted otherwise; errors as :meth:`check`."""
        stored = self.model.checkpoint.representation.settings
        return decode_settings(self.model.decodable, stored, self.overrides)

    def finder(self, detector: Detector, ladder: MemoryLadder) -> Finder:
        """How a detector goes over images; without a working diameter tiles overlap by what it was made for."""
        tiling = tiling_of(self.settings, self.model.preprocessing)
        if self.settings.overlap is None and self.model.preprocessing.diameter is None:
            tiling = replace(tiling, overlap=max(tiling.overlap, tile_overlap(detector)))
        settings = detect_settings(self.decoding())
        return Finder(detector=detector, settings=settings, device=self.model.device, tiling=tiling, ladder=ladder)

    def passes(self, ladder: MemoryLadder) -> Passes:
        """How the network goes over images."""
        return Passes(
            network=self.model.network,
            outputs=self.model.checkpoint.network.outputs,
            device=self.model.device,
            tiling=tiling_of(self.settings, self.model.preprocessing, margin_of(self.model.network)),
            ladder=ladder,
            noise=self.noise(),
            brightness=self.brightness(),
        )


def prepare(image: Image, model: Model, settings: PredictSettings, history: History) -> Prepared:
    """Channels, normalisation, scale: an image as the network sees it; of a large one nothing more is read yet."""
    pixels = prepare_channels(image, model.preprocessing)
    low, high = statistics(pixels, model.preprocessing, source=image.source)
    diameter = settings.diameter or own_diameter(pixels, model.preprocessing) or model.preprocessing.typical
    scale = scale_of(model.preprocessing, diameter)
    shape = scaled_shape((pixels.shape[1], pixels.shape[2]), scale)
    large = LargePixels(pixels=pixels, low=low, high=high, shape=shape, source=image.source)
    seen: NDArray[np.float32] | LargePixels
    if is_large(shape):
        seen = large
    elif is_large(pixels.shape[1:]):
        seen = large.whole()
    else:
        seen = resize(normalise(np.asarray(pixels[:, :, :]), low, high, source=image.source), shape)
    return Prepared(image=image, pixels=seen, scale=scale, diameter=diameter, history=history)


def read_all(sources: Iterable[Source], command: Command, is_done: IsDone) -> Iterator[Prepared | Failure | Skipped]:
    """Read and prepare every frame of every source; an error costs its image.

    Raises:
        UsageError: an output is there that can neither stay nor be overwritten.
    """
    finished = _finished(sources, command, is_done) if isinstance(sources, Sequence) else frozenset()
    said: set[str] = set()
    for source in sources:
        if source.key in finished:
            yield Skipped(key=source.key, source=source.path)
            continue
        try:
            for image in source.images():
                history = command.history(image.digest)
                if is_done(image.key, history):
                    yield Skipped(key=image.key, source=image.source)
                else:
                    _say_guesses(image, said)
                    yield prepare(image, command.model, command.settings, history)
        except UsageError:
            raise
        except CellkitError as error:
            yield Failure(key=source.key, source=source.path, error=error)


def _say_guesses(image: Image, said: set[str]) -> None:
    """Warn of what was guessed about an image; of a folder of such images once."""
    for guess in image.guessed:
        if guess not in said:
            said.add(guess)
            log.warning("%s: guessed: %s (said once; --dry-run tells for each image)", image.source, guess)


def _finished(sources: Sequence[Source], command: Command, is_done: IsDone) -> frozenset[str]:
    """Keys of sources whose outputs are up to date, known before any work; only for them the files are digested.

    Raises:
        UsageError: as :func:`read_all`.
    """
    found = set()
    for source in sources:
        try:
            if _is_there(source.key, is_done) and is_done(source.key, command.history(source.digest())):
                found.add(source.key)
        except InputError:  # said when the image is read, as its failure
            continue
    return frozenset(found)


def _is_there(key: str, is_done: IsDone) -> bool:
    """Whether there is an output: no output is up to date with an empty history."""
    try:
        return is_done(key, ())
    except UsageError:
        return True


def predict(
    sources: Iterable[Source],
    model: Model,
    settings: PredictSettings,
    overrides: Settings = NO_SETTINGS,
    *,
    is_done: IsDone = never_done,
) -> Iterator[Predicted]:
    """Predict the dense maps of images, or the objects on them, in their order.

    Args:
        sources: what the user named.
        model: network, preprocessing, representation.
        settings: scale and tiles.
        overrides: settings of decoding that win over those of the model, and travel in the prediction.
        is_done: tells by key and history whether the output is there and up to date.

    Yields:
        A prediction per image, a failure for one that could not be read, a skip for one that is done. The maps of a
        large image are computed while they are read, once, from top to bottom: read them before the next outcome.
    """
    command = Command(verb="predict", model=model, settings=settings, overrides=overrides)
    yield from run_network(read_all(sources, command, is_done), command)


def run_network(items: Iterable[Prepared | Failure | Skipped], command: Command) -> Iterator[Predicted]:
    """Maps or objects of prepared images; failures and skips pass through. Reading goes on while the network runs.

    The maps of a large image are computed while they are read: read them before asking for the next outcome.
    """
    ladder, detector = MemoryLadder(), command.model.detector
    if detector is not None:
        yield from _found(ahead(items), command, command.finder(detector, ladder))
        return
    for is_windowed, group in groupby(ahead(items), _is_windowed):
        yield from (_windowed if is_windowed else _whole)(group, command, ladder)


def _is_windowed(item: Prepared | Failure | Skipped) -> bool:
    return isinstance(item, Prepared) and isinstance(item.pixels, LargePixels)


def _windowed(
    items: Iterable[Prepared | Failure | Skipped], command: Command, ladder: MemoryLadder
) -> Iterator[Prediction]:
    """Large images, one after the other."""
    passes = command.passes(ladder)
    for item in items:
        if isinstance(item, Prepared) and isinstance(item.pixels, LargePixels):
            with closing(rolling_maps(item.pixels, passes)) as maps:
                yield as_prediction(item, maps, command.model)


def _whole(
    items: Iterable[Prepared | Failure | Skipped], command: Command, ladder: MemoryLadder
) -> Iterator[Prediction | Failure | Skipped]:
    """Images that are in memory; several of them share batches."""
    aside: list[Failure | Skipped] = []

    def arrays() -> Iterator[tuple[Prepared, NDArray[np.float32]]]:
        for item in items:
            if not isinstance(item, Prepared):
                aside.append(item)
            elif isinstance(item.pixels, np.ndarray):
                yield item, item.pixels

    for item, maps in command.passes(ladder).maps(arrays()):
        yield from _drain(aside)
        yield as_prediction(item, maps, command.model)
    yield from _drain(aside)


def _found(
    items: Iterable[Prepared | Failure | Skipped], command: Command, finder: Finder
) -> Iterator[ObjectPrediction | Failure | Skipped]:
    """Objects of images of any size."""
    aside: list[Failure | Skipped] = []

    def images() -> Iterator[tuple[Prepared, NDArray[np.float32] | LargePixels]]:
        for item in items:
            if isinstance(item, Prepared):
                yield item, item.pixels
            else:
                aside.append(item)

    name, settings = command.model.decodable.name, command.decoding().to_dict()
    spec = RepresentationSpec(name=name, settings=settings)
    for item, found in finder.objects(images()):
        yield from _drain(aside)
        yield as_objects(replace(_info(item, command.model), representation=spec), found, command.model.categories)
    yield from _drain(aside)


def _drain(aside: list[Failure | Skipped]) -> Iterator[Failure | Skipped]:
    while aside:
        yield aside.pop(0)


def as_prediction(item: Prepared, maps: Maps, model: Model) -> Prediction:
    """Maps with all that decoding and writing need to know about their image."""
    return Prediction(maps=maps, **vars(_info(item, model)))


def _info(item: Prepared, model: Model) -> PredictionInfo:
    image = item.image
    return PredictionInfo(
        key=image.key,
        representation=model.checkpoint.representation,
        source=image.source,
        shape=(int(image.pixels.shape[1]), int(image.pixels.shape[2])),
        axes=image.axes,
        scale=item.scale,
        pixel_size=image.pixel_size,
        diameter=item.diameter,
        history=item.history,
    )
