"""view of a prediction: its maps side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellkit.io.maps import Prediction
from cellkit.ops.drawing import GAP, page
from cellkit.ops.drawing_scale import LARGEST, averaged, enlarged, picture_shape
from cellkit.ops.drawing_text import Entry, caption, caption_height
from cellkit.ops.map_pictures import paint_maps, views_of
from cellkit.ops.scale_bar import draw_scale_bar, font_size
from cellkit.provenance import Record
from cellkit.stages.outcomes import Failure, IsDone, Skipped, never_done
from cellkit.stages.viewing import Picture, Viewed, ViewSettings, changed, with_caption


def view_maps(
    predictions: Iterable[Prediction | Failure], settings: ViewSettings, *, is_done: IsDone = never_done
) -> Iterator[Viewed]:
    """Draw the maps of predictions side by side, with their names, in their order.

    Args:
        predictions: what ``predict`` made; failures pass through.
        settings: how; the longest side is that of all maps of an image together.
        is_done: tells by key and history whether the picture is there and up to date.
    """
    for item in predictions:
        if isinstance(item, Failure):
            yield item
            continue
        history = (*item.history, Record(verb="view", arguments=changed(settings)))
        if is_done(item.key, history):
            yield Skipped(key=item.key, source=item.source)
            continue
        picture = draw_maps(item, settings)
        if settings.named:
            picture = with_caption(picture[GAP:-GAP, GAP:-GAP], [[Entry(text=item.key)]], settings)
        yield Picture(key=item.key, source=item.source, pixels=picture, history=history)


def draw_maps(prediction: Prediction, settings: ViewSettings) -> NDArray[np.uint8]:
    """The maps of one image beside each other, each with its name and the meaning of its colours below."""
    shape, maps = prediction.maps.shape[1:], prediction.maps
    count = len(views_of(prediction.representation.name, maps.shape[0]))
    size = panel_shape((shape[0], shape[1]), count, settings.size)
    panels = paint_maps(averaged(maps, size, _floats), prediction.representation.name)
    pixel_size = settings.pixel_size or prediction.pixel_size
    font = font_size(size)
    drawn = []
    for panel in panels:
        picture = enlarged(panel.picture, size)
        if pixel_size is not None:
            picture = draw_scale_bar(picture, pixel_size * prediction.shape[1] / size[1])
        line = [Entry(text=panel.name), Entry(text="", glyph=panel.legend(font))]
        drawn.append(np.concatenate([picture, caption(size[1], [line], font)]))
    return page(drawn, count, size[1])


def panel_shape(shape: tuple[int, int], count: int, size: int | None) -> tuple[int, int]:
    """Height and width of each of several maps (H, W) such that the longest side of all together is ``size``.

    Without a size each is as large as the picture of an image, as far as all together are at most 4,096.
    """
    longest = max(shape)
    alone = picture_shape(shape, size)
    room = size or LARGEST
    across = (room - GAP * (count + 1)) / (count * shape[1])
    down = (room - 2 * GAP - caption_height(1, font_size(alone))) / shape[0]
    scale = min(across, down, max(alone) / longest)
    return max(1, int(shape[0] * scale)), max(1, int(shape[1] * scale))


def _floats(window: NDArray[Any]) -> NDArray[np.float32]:
    """What is not finite counts as 0 before means are taken."""
    return np.nan_to_num(window.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
