"""Annotated images found in a folder or a file: which image belongs to which annotation, and what was left over."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cellkit.data.truth import LabelRef
from cellkit.errors import InputError
from cellkit.io.images import Image, ReadOptions, read_image
from cellkit.io.keys import key_of, safe_key, suffix_of
from cellkit.io.sources import natural_key

LABEL_SUFFIXES = (".npy",)  # beside those of images
IMAGE_MARK = "_img"  # NAME_img beside NAME_masks


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image and its annotation.

    Attributes:
        key: name under which outputs for the image are kept; unique in its dataset.
        image: path, or ``FILE.h5::/dataset``.
        labels: where the annotation is kept.
        axes: of the file, where the layout tells them.
        plane: number of the image in a stack of images.
        channels: chosen by index or name, where the user chose some.
    """

    key: str
    image: str
    labels: LabelRef
    axes: str | None = None
    plane: int | None = None
    channels: tuple[int | str, ...] | None = None

    def read(self, options: ReadOptions | None = None) -> Image:
        """Read the image; errors as :func:`cellkit.io.images.read_image`."""
        options = options or ReadOptions()
        if self.axes is not None:
            options = dataclasses.replace(options, axes=self.axes, plane=self.plane)
        if self.channels is not None:
            options = dataclasses.replace(options, channels=self.channels)
        return read_image(self.image, options)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What was found.

    Attributes:
        layout: how the files are laid out, in words.
        pairs: annotated images in natural order.
        unpaired_images: images without annotation.
        unpaired_labels: annotations without image.
        also: other layouts that are there too and were not taken.
    """

    layout: str
    pairs: tuple[Pair, ...]
    unpaired_images: tuple[str, ...] = ()
    unpaired_labels: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


def merge(layout: str, parts: Sequence[tuple[str, Dataset]]) -> Dataset:
    """One dataset from several; when keys occur twice, all are preceded by the name of their part.

    Args:
        layout: name of the whole.
        parts: (name, dataset) in order.
    """
    counts = Counter(pair.key for _, part in parts for pair in part.pairs)
    repeated = any(count > 1 for count in counts.values())
    return Dataset(
        layout=layout,
        pairs=tuple(
            dataclasses.replace(pair, key=f"{name}_{pair.key}") if repeated else pair
            for name, part in parts
            for pair in part.pairs
        ),
        unpaired_images=tuple(path for _, part in parts for path in part.unpaired_images),
        unpaired_labels=tuple(path for _, part in parts for path in part.unpaired_labels),
    )


def natural(path: Path | str) -> list[tuple[int, str]]:
    """Sort key: t2 before t10."""
    return natural_key(str(path))


def image_key(path: Path | str) -> str:
    """The key of an image file, as :func:`cellkit.io.sources.find_sources` has it: NAME of NAME_img.

    Raises:
        InputError: the name makes no key.
    """
    key = key_of(str(path))
    return key.removesuffix(IMAGE_MARK) or key


def files_in(folder: Path, *, labels: bool = False) -> list[Path]:
    """Visible files with the suffix of an image (or also of labels), in natural order.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        files = [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()]
    except OSError as error:
        raise InputError(folder, f"cannot be listed: {error.strerror}", "check its name and rights") from error
    kept = [path for path in files if suffix_of(path.name) or (labels and path.suffix.lower() in LABEL_SUFFIXES)]
    return sorted(kept, key=natural)


def folders_in(folder: Path) -> list[Path]:
    """Visible folders in natural order; links are not followed."""
    found = (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    return sorted((path for path in found if not path.name.startswith(".")), key=natural)


def stem_of(path: Path | str) -> str:
    """File name without its suffix; '.ome.tif' and '.npy' are one suffix each.

    Raises:
        InputError: nothing is left that could name an output.
    """
    name = Path(path).name
    suffix = suffix_of(name) or (Path(name).suffix if Path(name).suffix.lower() in LABEL_SUFFIXES else "")
    return safe_key(name[: len(name) - len(suffix)], source=str(path))
