"""Cross-region alignment: what of the target can be trusted is drawn level with what cannot (Wang et al. 2023).

Sources: Wang, Liu, Suganuma and Okatani, "Unsupervised domain adaptation for semantic segmentation via cross-region
alignment" (CVIU 2023; "Cross-Region Domain Adaptation for Class-level Alignment", arXiv 2109.06422), and the authors'
code, from which the formulas below are taken. It goes on from any model that was adapted across domains; theirs comes
from FADA (Wang, H. et al. 2020), whose losses it keeps. Here one run does both, the first part of the steps
(``region_begin``) the one, the others the other.

A discriminator sees the features that the last layer of the network sees, and tells from which side they are and of
which class: softmax over 2 sides x 2 classes. The network learns to make those of the far side look like the near
side's, class by class. With a the soft label of a pixel (probabilities of background and cell by the network itself,
logits divided by 1.8, at most 0.9, without gradient) and D(side, class) the discriminator's probabilities, the error
of a pixel for a side is -sum over classes of a log D(side, class), and

* across domains the near side is the source, the far side the target. The network's loss is the source's plus 0.001 x
  the mean error of the target for the near side; the discriminator's is half the mean error of each for its own side.
* across regions both are pixels of the target: a copy of the network as it was when this part began, which stays,
  partitions it. Pixels whose entropy is at most a threshold are trusted, the near side. The network learns their
  pseudo-labels (mean over trusted pixels), and 0.001 x the error of the others for the near side; the discriminator's
  loss is as before. Sums are over one side, divided by all pixels.

Both discriminators are as the code's: 3x3 convolutions to 512, to 256, to the 4 maps, with leaky ReLU; at a quarter of
the resolution of a U-Net, whose last features are as large as the image (the ResNet's are an eighth).

CULPICO's paper tells it the other way round (trusted where the entropy is above the threshold; a generator that
separates the regions), and the code of its comparison has no regions: it is the first part alone, with a ResNet
(``region_begin=1``, but for the network). We take the original. There the partition is made once, of whole images, by
the network as it predicts; here crop by crop, by the same network in evaluation mode.

The threshold of the code is 0.01 of an entropy over 19 classes that is divided by its largest value: 0.042 bits. Here
it is bits of two classes, and the default of 0.05 trusts probabilities below 0.006 and above 0.994. The code halves the
entropy of classes that have less than a hundredth of the pixels; cells are no such class.

Unlike the code: the second part still sees the source (``region_source=0`` does not), by whose held out images the best
weights are chosen; optimisers and schedule are those of the run, with a rate of its own for the discriminator; losses
of labels are of the logits as they are, not divided by 1.8; each part has a discriminator of its own from the start.
Left open: self-distillation to a fresh network afterwards, which the code has, is not done.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellkit.engine.optimisers import OWNER, Optimisers, ParameterGroup
from cellkit.errors import ModelError, UsageError
from cellkit.methods.adapt_settings import AdaptSettings
from cellkit.methods.adaptation import (
    Adaptation,
    DomainBatch,
    check_probability,
    domain_batches,
    pseudo_targets,
    under,
)
from cellkit.methods.contrastive import unrecorded
from cellkit.methods.meta_losses import CELL_LOGITS
from cellkit.networks import Output, Partitioned

CLASSES = 2  # background and cell
NEAR, FAR = 0, 1  # sides
SLOPE = 0.2  # of the leaky ReLU below 0
JUDGE = "discriminator"  # name of its optimiser
NETWORK = "network."  # of the names of its weights


class Seen(NamedTuple):
    """One pass of the network.

    Attributes:
        maps: (B, C, H, W) float32.
        features: (B, F, H, W) that the last layer saw.
        soft: (B, 2, H, W) soft labels, without gradient.
    """

    maps: Tensor
    features: Tensor
    soft: Tensor


class Side(NamedTuple):
    """What the discriminator shall call one side.

    Attributes:
        seen: by the network.
        weights: (B, H, W), which pixels are of this side.
    """

    seen: Seen
    weights: Tensor


class PixelDiscriminator(nn.Module):
    """Tells sides and classes of features apart, pixel by pixel.

    Args:
        channels: of the features.
        widths: features of the layers between.
        stride: pixels of the features that are averaged into one.
    """

    def __init__(self, channels: int, widths: Sequence[int], stride: int) -> None:
        super().__init__()
        self.stride = stride
        layers: list[nn.Module] = []
        for inputs, outputs in zip((channels, *widths), widths, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.LeakyReLU(SLOPE, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d((channels, *widths)[-1], 2 * CLASSES, 3, padding=1))

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, H, W) -> (B, 4, H, W) float32: logits of near background, near cell, far background, far cell."""
        coarse = F.avg_pool2d(features, self.stride, ceil_mode=True)
        return F.interpolate(self.layers(coarse).float(), features.shape[2:], mode="bilinear", align_corners=False)


class Aligned(nn.Module):
    """A network with what aligns it; predicts as the network does.

    Attributes:
        network: what is adapted.
        discriminators: of ``domains`` and of ``regions``.
        labeller: the network as it was when the second part began; until then as it was at first.
    """

    def __init__(self, network: nn.Module, channels: int, settings: AdaptSettings) -> None:
        super().__init__()
        self.network = network
        self.labeller = copy.deepcopy(network).requires_grad_(False).eval()
        device = next(network.parameters()).device
        self.discriminators = nn.ModuleDict(
            {
                name: PixelDiscriminator(channels, settings.region_widths, settings.region_stride).to(device)
                for name in ("domains", "regions")
            }
        )

    def forward(self, x: Tensor) -> Output:
        """(B, C, H, W) -> the output of the network."""
        output: Output = self.network(x)
        return output


class CrossRegion:
    """A network is aligned across domains, then across the trusted and the other pixels of the target.

    Raises:
        UsageError: the representation has no probability of a cell, or a setting cannot be.
        ModelError: the network has no last layer to see the features of.
    """

    members = 1

    def __init__(self, adaptation: Adaptation) -> None:
        check_probability(adaptation.representation)
        _check(adaptation.settings)
        self.adaptation = adaptation
        self.settings = adaptation.settings
        self.head = _head_of(adaptation.network)
        channels = next(module.in_channels for module in self.head.modules() if isinstance(module, nn.Conv2d))
        self.modules = Aligned(adaptation.network, channels, adaptation.settings)
        self.begin = round(adaptation.settings.region_begin * adaptation.steps)
        self.steps = 0

    @property
    def settled(self) -> bool:
        """Whether regions are aligned, or shall never be."""
        return self.steps > self.begin or self.begin >= self.adaptation.steps

    def batches(self, start: int) -> Iterator[DomainBatch]:
        """Crops of both domains from step ``start`` on."""
        return domain_batches(self.adaptation, start)

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """The discriminators have an optimiser and a rate of their own, and no weight decay."""
        trained = [p for p in self.modules.network.parameters() if p.requires_grad]
        judges = list(self.modules.discriminators.parameters())
        own = {"params": judges, "lr": self.settings.region_rate, "weight_decay": 0.0, OWNER: JUDGE}
        return [{"params": trained}, own]

    def step(self, batch: DomainBatch, optimisers: Optimisers) -> dict[str, Tensor]:
        """First the network takes a step, then the discriminator, on the features that the network had before."""
        with optimisers.autocast():
            terms, sides = self.learn(batch)
        optimisers.minimise(terms)
        with optimisers.autocast():
            judged = self.judge(sides)
        optimisers.minimise(judged, JUDGE)
        return terms | judged

    def losses(self, batch: DomainBatch) -> dict[str, Tensor]:
        """The terms of the network alone."""
        return self.learn(batch)[0]

    def learn(self, batch: DomainBatch) -> tuple[dict[str, Tensor], tuple[Side, Side]]:
        """The terms of the network, and what the discriminator shall call near and far.

        ``source TERM`` and ``adversarial``; across regions also ``target TERM`` of pseudo-labels, and, only logged,
        the parts of the target's pixels that are ``trusted`` and that are ``pseudo cells``.
        """
        return self._across_domains(batch) if self.steps < self.begin else self._across_regions(batch)

    def judge(self, sides: tuple[Side, Side]) -> dict[str, Tensor]:
        """``discriminator near`` and ``discriminator far``: half the errors of each side for itself."""
        near, far = sides
        judgement = self._judge(near.seen.features.detach())
        same = near.seen is far.seen
        other = judgement if same else self._judge(far.seen.features.detach())
        return {
            "discriminator near": 0.5 * (near.weights * side_errors(judgement, near.seen.soft, NEAR)).mean(),
            "discriminator far": 0.5 * (far.weights * side_errors(other, far.seen.soft, FAR)).mean(),
        }

    def on_step_end(self, step: int) -> None:
        """Count; where the second part begins, the labeller becomes what the network is."""
        if step == self.begin:
            self.modules.labeller.load_state_dict(self.modules.network.state_dict())
        self.steps = step

    def split(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights of the network, and those of the discriminators and the labeller."""
        return under(state, NETWORK), {name: tensor for name, tensor in state.items() if not name.startswith(NETWORK)}

    def state_dict(self) -> dict[str, Any]:
        """Steps done, and after how many the second part begins."""
        return {"steps": self.steps, "begin": self.begin}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave; a run that is made longer begins its second part as it would have."""
        self.steps, self.begin = state["steps"], state["begin"]

    def _across_domains(self, batch: DomainBatch) -> tuple[dict[str, Tensor], tuple[Side, Side]]:
        source, target = self._source(batch), self._look(batch.target)
        everywhere = torch.ones_like(target.soft[:, 0])
        terms = self._terms("source", source, batch.source.targets)
        sides = Side(source, torch.ones_like(source.soft[:, 0])), Side(target, everywhere)
        return terms | {"adversarial": self._adversarial(sides[1])}, sides

    def _across_regions(self, batch: DomainBatch) -> tuple[dict[str, Tensor], tuple[Side, Side]]:
        kind = self.adaptation.representation
        terms = {}
        if self.settings.region_source:
            named = self._terms("source", self._source(batch), batch.source.targets)
            terms = {name: self.settings.region_source * term for name, term in named.items()}
        with torch.no_grad():
            said = self.modules.labeller(batch.target).maps.float()
            trusted = (bits(CELL_LOGITS[kind.name](said)) <= self.settings.region_threshold).float()
            pseudo = pseudo_targets(said, kind, self.adaptation.decoding)
        target, part = self._look(batch.target), trusted.mean()
        weights = trusted / part.clamp(min=1 / trusted.numel())  # a mean over trusted pixels
        sides = Side(target, trusted), Side(target, 1 - trusted)
        terms |= self._terms("target", target, pseudo, weights)
        watched = {"trusted": part, "pseudo cells": (pseudo > 0).any(1).float().mean()}
        return terms | {"adversarial": self._adversarial(sides[1])} | watched, sides

    def _adversarial(self, far: Side) -> Tensor:
        """How little the far side looks like the near one, with its weight."""
        errors = side_errors(self._judge(far.seen.features), far.seen.soft, NEAR)
        return self.settings.region_weight * (far.weights * errors).mean()

    def _judge(self, features: Tensor) -> Tensor:
        judgement: Tensor = self.modules.discriminators["domains" if self.steps < self.begin else "regions"](features)
        return judgement

    def _terms(self, domain: str, seen: Seen, targets: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        terms = self.adaptation.representation.loss(seen.maps, targets, weights)
        return {f"{domain} {name}": term for name, term in terms.items()}

    def _source(self, batch: DomainBatch) -> Seen:
        recording = nullcontext() if self.settings.statistics == "both" else unrecorded(self.modules.network)
        with recording:
            return self._look(batch.source.images)

    def _look(self, images: Tensor) -> Seen:
        with entering(self.head) as features:
            maps = self.modules.network(images).maps.float()
        logit = CELL_LOGITS[self.adaptation.representation.name](maps.detach())
        soft = soft_labels(logit, self.settings.region_temperature, self.settings.region_ceiling)
        return Seen(maps, features[0][:, :, : maps.shape[2], : maps.shape[3]], soft)


def soft_labels(logit: Tensor, temperature: float, ceiling: float) -> Tensor:
    """Probabilities of background and cell, (B, 2, H, W), of the logit (B, H, W) of a cell over a temperature."""
    softened = logit / temperature
    return torch.stack([(-softened).sigmoid(), softened.sigmoid()], 1).clamp(max=ceiling)


def side_errors(judgement: Tensor, soft: Tensor, side: int) -> Tensor:
    """Per pixel, -sum over classes of a log D(side, class) (FADA's fine-grained adversarial loss).

    Args:
        judgement: (B, 4, H, W) of a discriminator.
        soft: (B, 2, H, W), a.
        side: ``NEAR`` or ``FAR``.

    Returns:
        (B, H, W).
    """
    logs = judgement.log_softmax(1)[:, CLASSES * side : CLASSES * (side + 1)]
    return -(soft * logs).sum(1)


def bits(logit: Tensor) -> Tensor:
    """Entropy of the two classes in bits, 0 to 1, of the logit of one of them; of any shape."""
    chance = logit.sigmoid()
    return -(chance * F.logsigmoid(logit) + (1 - chance) * F.logsigmoid(-logit)) / math.log(2)


@contextmanager
def entering(module: nn.Module) -> Iterator[list[Tensor]]:
    """What enters a module inside, one tensor per pass."""
    entered: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    try:
        yield entered
    finally:
        handle.remove()


def _head_of(network: nn.Module) -> nn.Module:
    if not isinstance(network, Partitioned):
        raise ModelError("network", "it has no head to see the features of", "use --method culpico")
    return network.parts()["head"][0]


def _check(settings: AdaptSettings) -> None:
    """Refuse what cannot be.

    Raises:
        UsageError: the temperature or a width is not positive, or there is no width.
    """
    if not settings.region_temperature > 0:
        problem = f"{settings.region_temperature:g} is not positive"
        raise UsageError("region_temperature", problem, "give a number above 0")
    if not settings.region_widths or min(settings.region_widths) < 1:
        raise UsageError("region_widths", f"{settings.region_widths} are no widths", "give e.g. 512,256")
