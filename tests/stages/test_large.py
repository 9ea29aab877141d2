"""Large images through the stages: the same cells as through whole images, in order, with their history."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from cellkit import stages
from cellkit.cli.showing import SAMPLES
from cellkit.engine.device import open_device
from cellkit.errors import InputError
from cellkit.io import maps, tiff
from cellkit.io.images import LazyPixels, ReadOptions
from cellkit.io.label_image import LabelImage, LabelRows, whole
from cellkit.io.labels import read_labels
from cellkit.io.maps import LazyMaps, read_predictions
from cellkit.io.sinks import open_sink
from cellkit.io.sources import find_sources
from cellkit.metrics import score
from cellkit.stages import PredictSettings, large_images, large_maps
from cellkit.stages.arrays import segment_array
from cellkit.stages.large_images import RollingMaps

SAMPLE = "2cfa61bef6542dd3"  # 520 x 696 px, fluorescence: with its mirror images a field of one look, with 125 nuclei
SHAPE = (600, 700)
CORE = 256  # px
SCALED = PredictSettings(diameter=25.0)  # to 30


@pytest.fixture(scope="module")
def model() -> stages.Model:
    return stages.load_model("nuclei", open_device("cpu"))


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory) -> Path:
    sample = iio.imread(SAMPLES / "images" / f"{SAMPLE}.png")
    path: Path = tmp_path_factory.mktemp("images") / "mosaic.tif"
    missing = [(0, size - old) for size, old in zip(SHAPE, sample.shape, strict=True)]
    tifffile.imwrite(path, np.pad(sample, missing, mode="symmetric"), rowsperstrip=16, compression="zlib")
    return path


@pytest.fixture(scope="module")
def corner(mosaic) -> Path:
    path = mosaic.with_name("corner.tif")
    tifffile.imwrite(path, iio.imread(mosaic)[:340, :320])
    return path


@pytest.fixture(scope="module")
def expected(mosaic, model) -> LabelImage:
    """The cells of the image as a whole."""
    (item,) = stages.segment(sources(mosaic), model, PredictSettings())
    assert isinstance(item, LabelImage)
    return item


@pytest.fixture(scope="module", autouse=True)
def small_limits(expected):
    """All that is larger than a small image counts as large, once the expected cells are there."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (tiff, "LARGE_PLANE", 100_000),
            (maps, "LAZY_BYTES", 1000),
            (maps, "BAND_BYTES", 1_000_000),
            (large_images, "LARGE", 100_000),
            (large_images, "CORE", CORE),
            (large_maps, "CORE", 192),
            (large_maps, "HALO", 96),
        ):
            patch.setattr(module, name, value)
        yield


@pytest.fixture(scope="module")
def by_windows(mosaic, model, small_limits) -> tuple[LabelRows, list[tuple[int, ...]]]:
    """The cells of the image by windows, and what was read of it."""
    reads = []

    class Watched(LazyPixels):
        def __getitem__(self, window):
            read = super().__getitem__(window)
            reads.append(read.shape[1:])
            return read

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cellkit.io.reading.LazyPixels", Watched)
        (item,) = stages.segment(sources(mosaic), model, PredictSettings(), workers=2)
    assert isinstance(item, LabelRows)
    return item, reads


def sources(*paths: Path):
    return find_sources([str(path) for path in paths], ReadOptions())


@pytest.fixture(scope="module")
def corner_cells(corner, model, small_limits) -> LabelRows:
    (item,) = stages.segment(sources(corner), model, SCALED)
    assert isinstance(item, LabelRows)
    return item


def test_cells_of_windows_are_those_of_the_whole(by_windows, expected):
    labels = whole(by_windows[0])
    assert labels.shape == SHAPE
    assert abs(by_windows[0].count - expected.count) <= 0.01 * expected.count
    matched = score(expected.labels, labels).values
    assert min(matched["precision@0.9"], matched["recall@0.9"]) >= 0.98
    assert by_windows[0].history == expected.history


def test_cells_of_windows_are_numbered_in_raster_order(by_windows):
    item = by_windows[0]
    values, first = np.unique(whole(item), return_index=True)
    assert values.tolist() == list(range(item.count + 1))
    assert (np.diff(first[1:]) > 0).all()
    assert item.scores.shape == (item.count,)


def test_cells_of_windows_are_kept_once(by_windows, expected):
    """A cell kept twice would be two labels in one piece, or leave slivers."""
    labels = whole(by_windows[0])
    touching = [item.count - ndimage.label(whole(item) > 0)[1] for item in (by_windows[0], expected)]
    assert touching[0] <= touching[1] + 1
    assert np.bincount(labels.ravel())[1:].min() >= 25


def test_no_more_is_read_than_windows(by_windows):
    """The first reads are those of the statistics, which take images of less than 4096 x 4096 pixels whole."""
    reads = [read for read in by_windows[1] if read != SHAPE]
    assert len(reads) == 9
    assert max(max(read) for read in reads) <= CORE + 2 * 64


def test_predict_then_postprocess_is_segment(corner, model, corner_cells, tmp_path):
    file = tmp_path / "maps.h5"
    with open_sink(str(file), "maps") as sink:
        for prediction in stages.predict(sources(corner), model, SCALED):
            assert isinstance(prediction.maps, RollingMaps)
            sink.write(prediction)
    predictions = list(read_predictions(file, "maps.h5"))
    assert isinstance(predictions[0].maps, LazyMaps)
    (piped,) = stages.postprocess(predictions, workers=2)
    assert whole(piped).shape == (340, 320)
    assert np.array_equal(whole(piped), whole(corner_cells))
    assert piped.scores.tolist() == corner_cells.scores.tolist()
    assert [record.verb for record in piped.history] == ["predict", "postprocess"]


def test_maps_are_gone_once_the_next_image_is_asked_for(corner, model):
    (predicted,) = stages.predict(sources(corner), model, PredictSettings())
    with pytest.raises(ValueError, match="after computing was stopped"):
        predicted.maps[:, 0:10]


def test_array_in_memory_goes_the_same_way(corner, model, corner_cells):
    labels = segment_array(iio.imread(corner), "nuclei", diameter=SCALED.diameter, device="cpu")
    assert np.array_equal(labels, whole(corner_cells))


def test_large_and_small_images_come_in_order_and_a_bad_one_costs_itself(corner, model, tmp_path):
    pixels = iio.imread(corner)
    bad = pixels.astype(np.float32)
    bad[330, 310] = np.nan
    for name, array in {"a_small": pixels[:99, :99], "b_bad": bad, "c_large": pixels, "d_small": pixels[:80]}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", array)
    outcomes = list(stages.segment(sources(tmp_path), model, PredictSettings()))
    assert [outcome.key for outcome in outcomes] == ["a_small", "b_bad", "c_large", "d_small"]
    assert [type(outcome) for outcome in outcomes] == [LabelImage, stages.Failure, LabelRows, LabelImage]
    assert isinstance(outcomes[1].error, InputError)
    assert "b_bad.tif: 1 pixels are NaN or infinite" in str(outcomes[1].error)


def test_written_cells_are_up_to_date(corner, model, corner_cells, tmp_path):
    output = f"{tmp_path}/out/"
    with open_sink(output, "labels") as sink:
        sink.write(corner_cells)
    stored = read_labels(f"{output}corner.tif")
    assert tifffile.imread(f"{output}corner.tif").dtype == np.uint16
    assert len(stored.scores) == stored.count == corner_cells.count
    assert [(record.verb, record.model) for record in stored.history] == [("segment", "nuclei")]
    with open_sink(output, "labels") as sink:
        (again,) = stages.segment(sources(corner), model, SCALED, is_done=sink.is_done)
    assert isinstance(again, stages.Skipped)
