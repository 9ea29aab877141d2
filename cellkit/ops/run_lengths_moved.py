"""Masks as runs, put elsewhere: from a tile into its image, from one size of the image to another.

All objects go at once, run by run; nothing is as large as an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellkit.ops.run_lengths import Indices, MaskRuns
from cellkit.ops.runs import spread


@dataclass(frozen=True, eq=False)
class _Columns:
    """Runs of which none goes on in the next column.

    Attributes:
        owners: (R,) object of each.
        places: (R,) column.
        tops: (R,) first row.
        bottoms: (R,) row after the last.
    """

    owners: Indices
    places: Indices
    tops: Indices
    bottoms: Indices

    @classmethod
    def of(cls, runs: MaskRuns, height: int) -> _Columns:
        """Runs in an image of that height, cut where they go on in the next column."""
        ends = runs.starts + runs.lengths
        first = runs.starts // height
        counts = (ends - 1) // height - first + 1
        places = spread(first, counts)
        starts, stops = (np.repeat(values, counts) - places * height for values in (runs.starts, ends))
        return cls(np.repeat(runs.owners, counts), places, np.maximum(starts, 0), np.minimum(stops, height))

    def runs(self, height: int) -> MaskRuns:
        """Runs in an image of that height; those without pixels are gone."""
        some = self.bottoms > self.tops
        lengths = (self.bottoms - self.tops)[some]
        return joined(
            MaskRuns(owners=self.owners[some], starts=(self.places * height + self.tops)[some], lengths=lengths)
        )


def joined(runs: MaskRuns) -> MaskRuns:
    """The same pixels, sorted by object and place; runs of an object that touch are one. They must not overlap."""
    order = np.lexsort((runs.starts, runs.owners))
    owners, starts, lengths = runs.owners[order], runs.starts[order], runs.lengths[order]
    fresh = np.ones(len(owners), bool)
    fresh[1:] = (owners[1:] != owners[:-1]) | (starts[1:] != starts[:-1] + lengths[:-1])
    first = np.flatnonzero(fresh)
    whole = np.add.reduceat(lengths, first) if len(first) else lengths
    return MaskRuns(owners=owners[first], starts=starts[first], lengths=whole)


def moved(runs: MaskRuns, height: int, corner: tuple[int, int], whole: tuple[int, int]) -> MaskRuns:
    """Runs of a window in the image that it was cut from.

    Args:
        runs: in the window.
        height: of the window.
        corner: row and column of the image where the window begins.
        whole: (H, W) of the image; what lies outside is cut off.
    """
    found = _Columns.of(runs, height)
    places = found.places + corner[1]
    inside = (places >= 0) & (places < whole[1])
    tops, bottoms = (np.clip(rows + corner[0], 0, whole[0])[inside] for rows in (found.tops, found.bottoms))
    return _Columns(found.owners[inside], places[inside], tops, bottoms).runs(whole[0])


def resized(runs: MaskRuns, shape: tuple[int, int], size: tuple[int, int]) -> MaskRuns:
    """Runs of the same masks in the image at another size.

    By nearest neighbours, as ``labelling.resize_labels``: an object whose pixels hold no centre of a new one has none.

    Args:
        runs: in the image (h, w).
        shape: (h, w).
        size: (H, W) afterwards.
    """
    if shape == size:
        return runs
    found = _Columns.of(runs, shape[0])
    rows, columns = (_firsts(old, new) for old, new in zip(shape, size, strict=True))
    counts = columns[found.places + 1] - columns[found.places]
    places = spread(columns[found.places], counts)
    owners, tops, bottoms = (
        np.repeat(values, counts) for values in (found.owners, rows[found.tops], rows[found.bottoms])
    )
    return _Columns(owners, places, tops, bottoms).runs(size[0])


def _firsts(old: int, new: int) -> Indices:
    """(old + 1,): of each old pixel the first new one whose centre it holds or that comes after it."""
    sources = ((np.arange(new) + 0.5) * old / new).astype(np.int64)
    return np.searchsorted(sources, np.arange(old + 1))
