"""Weights of others -> a model of cellkit: a detector with all that fits, and what is missing at random."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from cellkit.config import ColourName, JsonValue, NetworkSpec, Preprocessing, RepresentationSpec
from cellkit.engine.randomness import preserved_randomness, set_seed
from cellkit.errors import ModelError
from cellkit.io.checkpoints import Checkpoint
from cellkit.io.foreign_weights import load_foreign
from cellkit.networks import Detector
from cellkit.networks.detector_keys import IMAGENET, Pixels, Translation, translate, weights_of
from cellkit.networks.detector_shapes import spec_of
from cellkit.networks.detector_spec import DetectorSpec
from cellkit.provenance import Record, digest_of
from cellkit.representations.boxes import BoxesSettings

WHITE = 255.0  # in what the authors count means and deviations
RGB = 3
DETECTRON = Pixels("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))  # detectron2's own where a file does not tell
STEMS = ("stem.conv1.weight", "stem.conv1_1.weight")  # see the channels of the image
WORDS = {
    "resnet": "ResNet trained on ImageNet",
    "resnest": "ResNeSt trained on ImageNet",
    "moco": "trunk trained by MoCo",
    "detectron": "detector of detectron2",
    "mask-rcnn": "Mask R-CNN of torchvision",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one weight.

    Attributes:
        status: ``mapped``, ``dropped``, or ``random``: of the model alone, with its first value.
        name: ours, of what was dropped theirs.
        note: shape, or why.
    """

    status: str
    name: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A model made from weights of others.

    Attributes:
        checkpoint: the model.
        translation: what mapped and what did not.
    """

    checkpoint: Checkpoint
    translation: Translation

    def rows(self) -> list[Row]:
        """One for each weight: mapped, dropped, random."""
        found = self.translation
        return [
            *(Row(status="mapped", name=name, note=_size(weight)) for name, weight in found.mapped.items()),
            *(Row(status="dropped", name=name, note=why) for name, why in found.dropped.items()),
            *(Row(status="random", name=name, note="not in the file") for name in found.missing),
        ]

    @property
    def summary(self) -> str:
        """What the file is, and how many weights mapped."""
        found, spec = self.translation, self.checkpoint.network.settings
        counts = f"{len(found.mapped)} weights mapped, {len(found.dropped)} dropped"
        missing = f", {len(found.missing)} of the model begin at random" if found.missing else ""
        return f"{WORDS[found.kind]}, {spec['trunk']}: {counts}{missing}"


def convert_weights(path: Path, *, classes: int = 1, seed: int = 0) -> Converted:
    """The model that a file of weights becomes; channels are red, green and blue, whatever order the authors had.

    Args:
        path: ResNet or ResNeSt of ImageNet, MoCo, a detector of detectron2 or detectron2-ResNeSt, or torchvision's
            Mask R-CNN: .pth, .pt, or .pkl of NumPy arrays.
        classes: categories, where the file has none.
        seed: of what begins at random.

    Raises:
        ModelError: the file cannot be read, is none of these, or has parts that are not computed here.
    """
    state = weights_of(load_foreign(path), str(path))
    spec = spec_of(state, str(path), classes)
    with preserved_randomness():
        set_seed(seed)
        detector = Detector(spec)
    found = translate(state, detector.state_dict(), str(path))
    pixels = found.pixels or DETECTRON
    spec = _with_pixels(spec, pixels, path)
    mapped = _in_red_green_blue(found.mapped, pixels)
    detector.load_state_dict(mapped, strict=False)
    return Converted(checkpoint=_checkpoint(path, detector, spec, found), translation=found)


def _with_pixels(spec: DetectorSpec, pixels: Pixels, path: Path) -> DetectorSpec:
    """The specification with the statistics of the authors' pixels, where white is 1."""
    if spec.channels != len(pixels.mean):
        if spec.channels == RGB or pixels != IMAGENET:
            problem = f"{len(pixels.mean)} means of pixels for images of {spec.channels} channels"
            raise ModelError(path, problem, "give the checkpoint as it was published")
        return spec
    order = slice(None, None, -1) if pixels.order == "BGR" else slice(None)
    mean, std = (tuple(value / WHITE for value in values[order]) for values in (pixels.mean, pixels.deviation))
    return replace(spec, mean=mean, std=std)


def _in_red_green_blue(mapped: dict[str, Tensor], pixels: Pixels) -> dict[str, Tensor]:
    """Weights that take their channels in that order."""
    if pixels.order == "RGB":
        return mapped
    return {name: weight.flip(1) if name.endswith(STEMS) else weight for name, weight in mapped.items()}


def _checkpoint(path: Path, detector: Detector, spec: DetectorSpec, found: Translation) -> Checkpoint:
    trained = any(".cls_score." in name for name in found.mapped)
    names: list[JsonValue] = ["cell"] if spec.classes == 1 else [f"category {i}" for i in range(1, spec.classes + 1)]
    card: dict[str, JsonValue] = {
        "source": path.name,
        "made from": WORDS[found.kind],
        "categories": names,
        "weights": f"{len(found.mapped)} of the file, {len(found.missing)} at random",
    }
    if not trained or found.missing:
        card["limits"] = "finds nothing before it is fine-tuned" if not trained else "fine-tune it: a part is at random"
    colour: ColourName = "rgb" if spec.channels == RGB else "as-is"
    return Checkpoint(
        network=NetworkSpec(name="detector", channels=spec.channels, outputs=0, widths=(), settings=spec.to_dict()),
        representation=RepresentationSpec(name="boxes", settings=BoxesSettings().to_dict()),
        preprocessing=Preprocessing(channels=spec.channels, colour=colour, normalisation="range"),
        weights={name: weight.detach() for name, weight in detector.state_dict().items()},
        history=(Record(verb="convert", arguments={"to": "ckpt"}, input_digest=digest_of(path)),),
        card=card,
    )


def _size(weight: Tensor) -> str:
    return " x ".join(map(str, weight.shape)) or "1"
