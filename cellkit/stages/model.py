"""A model ready to run: a checkpoint's network on a device, with its representation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from torch import nn

from cellkit.config import NO_SETTINGS, Preprocessing, Settings
from cellkit.engine.device import Device, prepare
from cellkit.errors import ModelError, UsageError
from cellkit.io.checkpoints import Checkpoint, load_checkpoint, model_path
from cellkit.networks import DETECTORS, Detector, Ensemble, build
from cellkit.provenance import digest_of
from cellkit.representations import (
    OBJECTS,
    REPRESENTATIONS,
    Decodable,
    DecodeSettings,
    ObjectRepresentation,
    Representation,
    representation_of,
)


@dataclass(frozen=True, kw_only=True)
class Model:
    """What ``predict`` needs, from one file.

    Attributes:
        name: as the user named it.
        digest: of the checkpoint file.
        checkpoint: specifications, card and history.
        network: on the device, in evaluation mode.
        device: where it runs.
    """

    name: str
    digest: str
    checkpoint: Checkpoint
    network: nn.Module
    device: Device

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to an image before the network sees it."""
        return self.checkpoint.preprocessing

    @property
    def representation(self) -> Representation:
        """Turns the network's maps into cells.

        Raises:
            UsageError: the network gives no maps.
        """
        return REPRESENTATIONS[self.checkpoint.representation.name]

    @property
    def decodable(self) -> Representation | ObjectRepresentation:
        """Turns what the network says into cells, whatever that is."""
        return representation_of(self.checkpoint.representation.name)

    @property
    def detector(self) -> Detector | None:
        """The network, if it finds objects."""
        return self.network if isinstance(self.network, Detector) else None

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories of the objects that the network finds, or none."""
        named = self.checkpoint.card.get("categories")
        return tuple(map(str, named)) if isinstance(named, list) else ()


def load_model(name: str | Path, device: Device) -> Model:
    """Load a bundled model by name or a checkpoint by path.

    Raises:
        ModelError: no such model, or the file is none that this version can read.
    """
    path = model_path(str(name))
    checkpoint = load_checkpoint(path)
    network = network_of(checkpoint, path)
    return Model(
        name=str(name),
        digest=digest_of(path),
        checkpoint=checkpoint,
        network=prepare(network.eval(), device),
        device=device,
    )


def network_of(checkpoint: Checkpoint, name: str | Path) -> nn.Module:
    """The network of a checkpoint with its weights; of several members, their ensemble.

    Raises:
        ModelError: the weights do not fit, or the network does not go with the representation; the message has the
            ``name``.
    """
    spec = checkpoint.network
    finds, boxes = spec.name in DETECTORS, checkpoint.representation.name in OBJECTS
    if finds != boxes:
        problem = f"its network '{spec.name}' does not go with its representation '{checkpoint.representation.name}'"
        raise ModelError(name, problem, "a detector has boxes, and nothing else has")
    try:
        members = [build(spec) for _ in range(spec.members)]
        alone = len(members) == 1
        network = members[0] if alone else Ensemble(members, REPRESENTATIONS[checkpoint.representation.name].blend)
        network.load_state_dict(checkpoint.weights)
    except (RuntimeError, KeyError) as error:
        line = str(error).splitlines()[0]
        raise ModelError(name, f"the weights do not fit the network '{checkpoint.network.name}': {line}") from error
    return network


def decode_settings(representation: Decodable, stored: Settings, overrides: Settings = NO_SETTINGS) -> DecodeSettings:
    """Settings of decoding: those stored with the model or prediction, overridden by the user's.

    Raises:
        UsageError: an override is no setting of this representation, or has a value that it cannot have.
    """
    known = [field.name for field in fields(representation.settings)]  # type: ignore[arg-type]
    for name in overrides:
        if name not in known:
            problem = f"'{name}' is no setting of '{representation.name}'"
            raise UsageError("--set", problem, f"choose from {', '.join(known)}")
    settings = representation.settings.from_dict({**stored, **overrides})
    settings.check()
    return settings
