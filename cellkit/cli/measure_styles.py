"""What ``cellkit measure --styles`` reads and writes: a row per image, and a map of all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.cli import inputs, reporting
from cellkit.cli.measure_cells import CellRequest
from cellkit.cli.measure_files import Destination, WholeFile
from cellkit.config import JsonValue, OnExists, PrecisionName
from cellkit.errors import UsageError
from cellkit.io.images import ReadOptions
from cellkit.io.keys import split_dataset
from cellkit.io.label_image import LabelHeader
from cellkit.io.sink_base import BaseSink, twice
from cellkit.io.sources import IMAGE_FOLDER, Source
from cellkit.io.tables import CSV, check_table_name, encode_table
from cellkit.provenance import Record

if TYPE_CHECKING:
    from cellkit.stages import Model

Styles: TypeAlias = dict[tuple[str, str], NDArray[np.float32]]  # by dataset and image, (S,) each

PICTURES = (".svg", ".png")
MODEL = "nuclei"


@dataclass(frozen=True)
class StyleRequest:
    """What is computed of images.

    Attributes:
        model: a bundled model's name or a checkpoint file, or None: the model for nuclei.
        picture: file of the map, or None.
        diameter: typical cell diameter in pixels, or None.
        device: where the network runs.
        precision: arithmetic of the network.
        seed: of the map.
    """

    model: str | None
    picture: str | None
    diameter: float | None
    device: str
    precision: PrecisionName
    seed: int

    def given(self) -> list[str]:
        """The options that the user gave; those that several verbs have change nothing elsewhere."""
        values = {"--model": self.model, "--picture": self.picture, "--diameter": self.diameter}
        return [name for name, value in values.items() if value is not None]


def check(styles: bool, labels: Sequence[str], cells: CellRequest, images: StyleRequest) -> None:
    """Refuse options that belong to the other table.

    Args:
        styles: styles of images are wanted, not cells.
        labels: the inputs.
        cells: what is measured of cells.
        images: what is computed of images.

    Raises:
        UsageError: something of the other kind was given, or several inputs where labels are measured.
    """
    if styles and cells.given():
        name = cells.given()[0]
        raise UsageError(name, "is for cells, and --styles for whole images", f"leave out {name} or --styles")
    if not styles and images.given():
        raise UsageError(images.given()[0], "is for the styles of images", "add --styles")
    if not styles and len(labels) > 1:
        raise UsageError(labels[1], "labels come from one place", "name one file or folder; --styles takes several")


def write(images: Sequence[str], reading: ReadOptions, request: StyleRequest, destination: Destination) -> None:
    """Compute the style of each image; write the table, and the map if one is wanted.

    Args:
        images: as the user named them.
        reading: how they are read.
        request: what is computed.
        destination: where the table goes.

    Raises:
        CellkitError: an image at least could not be done, or none of what is wanted.
    """
    from cellkit.cli import running
    from cellkit.stages import PredictSettings
    from cellkit.stages.styles import embed

    sources, dataset_of = find(images, reading)
    taken = {Path(split_dataset(path)[0]).resolve() for path, _ in inputs.places(sources)}
    if destination.output != inputs.STREAM:
        check_table_name(destination.output)
    table = WholeFile(destination.output, destination.on_exists, taken)
    picture = None if request.picture is None else _picture(request.picture, destination.on_exists, taken)
    settings = PredictSettings(diameter=request.diameter)
    model = running.open_model(request.model or MODEL, request.device, request.precision, settings)
    with StyleSink(table, picture, Map(model, request), dataset_of) as sink:
        outcomes = embed(sources, model, diameter=request.diameter)
        tally = reporting.deliver(outcomes, sink, total=inputs.count_of(sources), quiet=destination.quiet)
    tally.check(inputs.named(images))


def _picture(name: str, on_exists: OnExists, taken: set[Path]) -> WholeFile:
    if Path(name).suffix.lower() not in PICTURES:
        problem = "maps are not drawn as this kind of file"
        raise UsageError(name or "--picture", problem, f"name a {' or '.join(PICTURES)}")
    return WholeFile(name, on_exists, taken)


def find(images: Sequence[str], options: ReadOptions) -> tuple[Iterable[Source], Callable[[str], str]]:
    """The images, and a function from the path of each to the name of its dataset.

    A folder that the user named is a dataset; a file belongs to the folder that it is in. Datasets are called as their
    folders, those called images/ as the folder above; when two would be called the same, by their paths.

    Args:
        images: as the user named them.
        options: how they are read.

    Raises:
        NoInputError: there is no image.
        UsageError: two images of one dataset have the same name.
    """
    if inputs.is_stream(images):
        return inputs.image_sources(images, options), lambda member: dataset_name(Path(member).parent)
    folders: dict[str, Path] = {}
    sources: list[Source] = []
    for text in images:
        for source in inputs.image_sources([text], options):
            folders[source.path] = _folder(text, source)
            sources.append(source)
    names = _names(set(folders.values()))
    datasets = {path: names[folder] for path, folder in folders.items()}
    seen: set[tuple[str, str]] = set()
    for source in sources:
        if (datasets[source.path], source.key) in seen:
            raise twice(source.path, source.key)
        seen.add((datasets[source.path], source.key))
    return sources, datasets.__getitem__


def _folder(text: str, source: Source) -> Path:
    """The folder that is the dataset of an image."""
    return Path(text) if Path(text).is_dir() else Path(split_dataset(source.path)[0]).parent


def _names(folders: set[Path]) -> dict[Path, str]:
    """What datasets are called: those of one name by their paths."""
    plain = {folder: dataset_name(folder) for folder in folders}
    places: dict[str, set[Path]] = {}
    for folder, name in plain.items():
        places.setdefault(name, set()).add(folder.resolve())
    return {folder: name if len(places[name]) == 1 else str(folder) for folder, name in plain.items()}


def dataset_name(folder: Path) -> str:
    """The last part of a path, but for images/."""
    whole = Path(os.path.abspath(folder))
    return (whole.parent if whole.name == IMAGE_FOLDER else whole).name


@dataclass(frozen=True)
class Map:
    """Draws all images on a plane.

    Attributes:
        model: that gave the styles.
        request: what is computed.
    """

    model: Model
    request: StyleRequest

    def drawn(self, styles: Styles) -> bytes:
        """The picture as a file, with its history.

        Raises:
            UsageError: there are too few images.
        """
        from cellkit.reports import scatter
        from cellkit.stages.styles_clusters import map_styles

        model, request = self.model, self.request
        arguments: dict[str, JsonValue] = {"styles": len(styles), "diameter": request.diameter, "seed": request.seed}
        record = Record(verb="measure", arguments=arguments, model=model.name, model_digest=model.digest)
        picture = scatter.Scatter(
            title=f"Styles of {len(styles)} images by {Path(model.name).name} (t-SNE)",
            places=map_styles(np.stack(list(styles.values())), request.seed),
            names=tuple(key for _, key in styles),
            groups=tuple(dataset for dataset, _ in styles),
            note=LabelHeader(history=(record,)).to_json(),
        )
        return (scatter.png if str(request.picture).lower().endswith(".png") else scatter.svg)(picture)


class StyleSink(BaseSink):
    """Takes the style of one image after the other; files are written when all are there.

    Args:
        table: a row per image.
        picture: the map of all images, or None.
        map_of: draws it.
        dataset_of: from the path of an image to the name of its dataset.
    """

    def __init__(
        self, table: WholeFile, picture: WholeFile | None, map_of: Map, dataset_of: Callable[[str], str]
    ) -> None:
        self._table = table
        self._picture = picture
        self._map = map_of
        self._dataset_of = dataset_of
        self._styles: Styles = {}

    def is_done(self, key: str, history: object) -> bool:
        """Never: whether an output is up to date is known when it is made."""
        return False

    def write(self, item: Any) -> None:  # noqa: ANN401 - a StyledImage
        """Keep the style of an image."""
        place = self._dataset_of(item.source), item.key
        if place in self._styles:
            raise twice(item.source, item.key)
        self._styles[place] = item.style

    def close(self) -> None:
        """Write the table and the map, if any image came; neither, when the other cannot be."""
        if not self._styles:
            return
        table = encode_table(table_of(self._styles), self._table.suffix or CSV)
        if self._picture is not None:
            picture = self._map.drawn(self._styles)
            self._table.check(table)
            self._picture.write(picture)
        self._table.write(table)

    def discard(self) -> None:
        """Nothing was written yet."""


def table_of(styles: Styles) -> dict[str, NDArray[Any]]:
    """The columns image, dataset, style_0, style_1, ...; a row per image.

    Args:
        styles: by dataset and image, (S,) each.
    """
    names = np.array([key for _, key in styles], object)
    datasets = np.array([dataset for dataset, _ in styles], object)
    # a float32 as the shortest decimal that gives it again: 0.1 and not 0.10000000149011612
    values = np.array([[float(str(value)) for value in style] for style in styles.values()])
    return {"image": names, "dataset": datasets} | {f"style_{i}": column for i, column in enumerate(values.T)}
