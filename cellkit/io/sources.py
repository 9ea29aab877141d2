"""What the user named as inputs: files, folders, patterns and datasets become sources of images, in order."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cellkit.errors import InputError, NoInputError, UsageError
from cellkit.io.hdf5 import image_datasets, is_ours
from cellkit.io.images import DEFAULTS, Image, ReadOptions, digest_of_source, read_images
from cellkit.io.keys import HDF5_SUFFIXES, IMAGE_SUFFIXES, key_of, safe_key, split_dataset, suffix_of
from cellkit.io.stored import decoding
from cellkit.provenance import digest_of

# ends of names that tools give to what they make of an image: a second run must not segment its own labels
OUTPUT_MARKS = ("_masks", "_mask", "_cp_masks", "_flows", "_seg", "_cp_output", "_labels")
IMAGE_MARK = "_img"  # NAME_img beside NAME_masks; outputs are called NAME
IMAGE_FOLDER = "images"
LABEL_FOLDERS = ("labels", "masks")
SEQUENCE = re.compile(r"\d{2}")  # folder of frames in the Cell Tracking Challenge
SEQUENCE_RESULTS = re.compile(r"\d{2}_(GT|ST|RES|ERR_SEG)")
OWN_MARKS = (b'"cellkit"', b"cellkit\0")  # of the label images that we write: TIFF description, keyword of a PNG text
OWN_HEAD = 4096  # bytes at the beginning of a file that hold its description
WILDCARDS = "*?["


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file, or one dataset of a file, that gives one image or the frames of a time series.

    Attributes:
        key: what its outputs are called; frames of a time series add '_t000'.
        path: 'FILE' or 'FILE.h5::/dataset', as the user wrote it; the name of ``data`` where that is given.
        options: how it is read.
        data: its bytes, where it is no file but came through a stream.
    """

    key: str
    path: str
    options: ReadOptions = DEFAULTS
    data: bytes | None = field(default=None, repr=False)

    def images(self) -> Iterator[Image]:
        """Read its frames one by one; errors as :func:`cellkit.io.images.read_images`."""
        plain = len(key_of(self.path))
        for image in read_images(self.path, self.options, self.data):
            yield replace(image, key=self.key + image.key[plain:])

    def digest(self) -> str:
        """Digest of its bytes, without reading an image.

        Raises:
            InputError: the file is missing, a folder or unreadable.
        """
        return digest_of_source(self.path) if self.data is None else digest_of(self.data)


def find_sources(inputs: Sequence[str], options: ReadOptions = DEFAULTS, recursive: bool = False) -> list[Source]:
    """Find the images that the user means.

    Files are taken as they are, also missing ones: reading them fails, and costs no other image. Folders give their
    images in natural order (t2 before t10), without labels, flows, hidden files and what cellkit wrote itself; of a
    folder with images/ (and labels/ or masks/) those of images/, of the Cell Tracking Challenge those of 01/, 02/, of
    the Data Science Bowl those of ID/images/. Patterns that the shell left alone are expanded. An HDF5 file with
    several datasets gives them one by one.

    Args:
        inputs: files, folders, patterns, 'FILE.h5::/dataset'.
        options: how they are read.
        recursive: also folders in folders.

    Raises:
        NoInputError: there is no image.
        UsageError: outputs of two images would have the same name.
    """
    found = [source for text in inputs for source in _named(text, options, recursive)]
    if not found:
        looked = "looked for " + " ".join(sorted(set(IMAGE_SUFFIXES)))
        more = "" if recursive else ", not in folders inside"
        raise NoInputError(", ".join(inputs) or "no input", "no image matches", looked + more)
    _check_keys(found)
    return found


def find_together(inputs: Sequence[str], options: ReadOptions = DEFAULTS) -> list[Source]:
    """Find images that are learned from together, and have no output of their own.

    Where several inputs have images of one name, all keys are preceded by the name of their folder.

    Args:
        inputs: as those of :func:`find_sources`; each has an image.
        options: how they are read.

    Raises:
        NoInputError: one of the inputs has no image.
        UsageError: two images of one folder have the same name, or of two folders of one name.
    """
    parts = [(_folder_name(text), find_sources([text], options)) for text in inputs]
    keys = [source.key for _, part in parts for source in part]
    if len(set(keys)) == len(keys):
        return [source for _, part in parts for source in part]
    found = [replace(source, key=f"{name}_{source.key}") for name, part in parts for source in part]
    _check_keys(found)
    return found


def _folder_name(text: str) -> str:
    path = Path(split_dataset(text)[0]).absolute()
    return path.name if path.is_dir() else path.parent.name


def from_files(list_file: str) -> list[str]:
    """Paths listed in a file, one per line, or separated by NUL as 'find -print0' writes them.

    Raises:
        InputError: the file cannot be read.
        NoInputError: it lists nothing.
    """
    try:
        content = Path(list_file).read_bytes()
    except OSError as error:
        raise InputError(list_file, f"cannot be read: {error.strerror}", "name a text file of paths") from error
    parts = content.split(b"\0") if b"\0" in content else content.splitlines()
    paths = [os.fsdecode(part) for part in parts if part.strip()]
    if not paths:
        raise NoInputError(list_file, "lists no file", "write one path per line")
    return paths


def natural_key(text: str) -> list[tuple[int, str]]:
    """Sort key by which t2 comes before t10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", text)]


def _named(text: str, options: ReadOptions, recursive: bool) -> Iterator[Source]:
    path = Path(text)
    if text and path.is_dir():
        yield from _folder(path, options, recursive)
    elif not path.exists() and any(mark in text for mark in WILDCARDS):
        for match in _sorted(Path(m) for m in glob.glob(text, recursive=True)):
            if match.is_dir() or _is_input(match):
                yield from _folder(match, options, recursive) if match.is_dir() else _file(str(match), options)
    else:
        yield from _file(text, options)


def _file(path: str, options: ReadOptions) -> Iterator[Source]:
    """A file; an HDF5 file may be several sources, called by their datasets."""
    plain = _plain_key(path)
    names = _datasets(path) if options.dataset is None else []
    if len(names) < 2:
        yield Source(key=plain, path=path, options=options)
        return
    for name in sorted(names, key=natural_key):
        within = name.strip("/").split("/")
        paired = len(within) == 2 and within[0] == IMAGE_FOLDER  # images/KEY beside labels/KEY
        key = safe_key(within[1], source=f"{path}::{name}") if paired else "_".join([plain, *within])
        yield Source(key=key, path=f"{path}::{name}", options=options)


def _datasets(path: str) -> list[str]:
    """Datasets of an HDF5 file named without one; none when it cannot be read, which shows when it is."""
    if split_dataset(path)[1] is not None or not path.lower().endswith(HDF5_SUFFIXES):
        return []
    try:
        with decoding(path):
            return image_datasets(Path(path))
    except InputError:
        return []


def _plain_key(path: str) -> str:
    key = key_of(path)
    return key.removesuffix(IMAGE_MARK) or key


def _folder(folder: Path, options: ReadOptions, recursive: bool) -> Iterator[Source]:
    """The images of a folder; several sequences of one data set put their name before the keys."""
    below = _image_folders(folder)
    if below:
        parts = [(part.name, [s for f in _images(part) for s in _file(str(f), options)]) for part in below]
        yield from _told_apart(parts)
        return
    for file in _images(folder):
        yield from _file(str(file), options)
    if recursive:
        for inner in _folders(folder):
            yield from _folder(inner, options, recursive)


def _told_apart(parts: list[tuple[str, list[Source]]]) -> Iterator[Source]:
    counts = Counter(source.key for _, sources in parts for source in sources)
    repeated = any(count > 1 for count in counts.values())
    for name, sources in parts:
        for source in sources:
            yield replace(source, key=f"{name}_{source.key}") if repeated else source


def _image_folders(folder: Path) -> list[Path]:
    """Folders of a known layout that hold its images; none when the folder itself holds them."""
    inner = folder / IMAGE_FOLDER
    if inner.is_dir() and (any((folder / name).is_dir() for name in LABEL_FOLDERS) or not _images(folder)):
        return [inner]
    folders = _folders(folder)
    sequences = [f for f in folders if SEQUENCE.fullmatch(f.name)]
    if sequences and not _images(folder):
        return sequences
    for level in (folders, [inside for f in folders for inside in _folders(f)]):  # stage1_train/ID/ as published
        bowls = [f / IMAGE_FOLDER for f in level if _is_bowl(f)]
        if bowls:
            return bowls
    return []


def _is_bowl(folder: Path) -> bool:
    """Whether a folder is ID/ with the image ID/images/ID.png of the Data Science Bowl."""
    return any((folder / IMAGE_FOLDER / f"{folder.name}{suffix}").is_file() for suffix in (".png", ".tif"))


def _images(folder: Path) -> list[Path]:
    return _listed(folder, lambda path: path.is_file() and _is_input(path))


def _folders(folder: Path) -> list[Path]:
    """Folders inside that may hold images: visible, neither annotations nor results."""
    return _listed(
        folder,
        lambda p: not SEQUENCE_RESULTS.fullmatch(p.name) and p.name not in LABEL_FOLDERS and p.is_dir(),
    )


def _listed(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    try:
        return _sorted(path for path in folder.iterdir() if not path.name.startswith(".") and wanted(path))
    except OSError as error:
        raise InputError(folder, f"cannot be listed: {error.strerror}", "check its permissions") from error


def _sorted(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: natural_key(str(path)))


def _is_input(path: Path) -> bool:
    """Whether a file that was not named one by one is an image to be segmented."""
    suffix = suffix_of(path.name)
    if not suffix or path.name.startswith("."):
        return False
    stem = path.name[: -len(suffix)].lower()
    return bool(stem) and not stem.endswith(OUTPUT_MARKS) and not _is_ours(path, suffix)


def _is_ours(path: Path, suffix: str) -> bool:
    """Whether cellkit wrote the file; one that cannot be read is none of ours, and fails when it is read."""
    try:
        if suffix in HDF5_SUFFIXES:
            with decoding(str(path)):
                return is_ours(path)
        with path.open("rb") as stream:
            head = stream.read(OWN_HEAD)
            return any(mark in head for mark in OWN_MARKS)
    except (InputError, OSError):
        return False


def _check_keys(sources: Sequence[Source]) -> None:
    first: dict[str, Source] = {}
    for source in sources:
        other = first.setdefault(source.key, source)
        if other is not source:
            problem = f"its output would be called {source.key!r}, as that of {other.path}"
            raise UsageError(source.path, problem, "rename one, or run them one after the other into two folders")
