"""Settings of unsupervised domain adaptation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args, get_origin, get_type_hints

from cellkit.config import AdaptMethodName, Spec
from cellkit.errors import UsageError

DomainStatisticsName: TypeAlias = Literal["target", "both"]
BoundStatisticsName: TypeAlias = Literal["source", "target"]
ConsistencyName: TypeAlias = Literal["soft", "hard"]
MixName: TypeAlias = Literal["both", "class", "cut"]

LIMITS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "ramp": (0, math.inf),
        "collapse_window": (1, math.inf),
        "collapse_below": (0, 1),
        "collapse_above": (0, 1),
        "consistency_weight": (0, math.inf),
        "consistency_ramp": (0, 1),
        "teacher_decay": (0, 1),
        "strong_probability": (0, 1),
        "strong_brightness": (0, math.inf),
        "strong_contrast": (0, math.inf),
        "strong_gamma": (0, math.inf),
        "strong_noise": (0, math.inf),
        "strong_blur": (0, 1),
        "dual_decay": (0, 1),
        "dual_confidence": (0, 1),
        "dual_consistency": (0, math.inf),
        "region_begin": (0, 1),
        "region_threshold": (0, 1),
        "region_source": (0, math.inf),
        "region_weight": (0, math.inf),
        "region_rate": (0, math.inf),
        "region_stride": (1, math.inf),
        "region_ceiling": (0, 1),
        "mcd_n": (1, math.inf),
        "cbst_rounds": (1, math.inf),
        "cbst_warmup": (0, 1),
        "cbst_portion": (0, 1),
        "cbst_growth": (0, 1),
        "cbst_most": (0, 1),
        "cbst_batches": (1, math.inf),
    }
)
"""Least and largest value of the numbers that have them."""

OWN: Mapping[AdaptMethodName, tuple[str, ...]] = MappingProxyType(
    {
        "culpico": ("statistics", "discrepancy", "ramp", "collapse"),
        "mean-teacher": ("statistics", "consistency", "teacher", "strong"),
        "mcd": ("statistics", "mcd"),
        "cbst": ("statistics", "cbst"),
        "dual-teacher": ("statistics", "dual", "strong"),
        "cross-region": ("statistics", "region"),
        "source-only": ("bound",),
        "target-only": ("bound",),
    }
)
"""First words of the settings that each method has."""


@dataclass(frozen=True, kw_only=True)
class AdaptSettings(Spec):
    """How a target is learned from without labels.

    Attributes:
        statistics: crops that the running statistics of batch norm follow, which prediction uses: of the ``target``
            alone, or of ``both``, one after the other. Source and target are normalised apart in any case.
        bound_statistics: of ``source-only``: statistics of the ``source``, or, as adaptive batch normalisation, of
            the ``target``, from which nothing else is learned.
        discrepancy: of ``culpico``: pseudo-labels are weighed by 1 - |p1 - p2| (eq. 2 and 4); false: all count alike.
        ramp: of ``culpico``: steps over which the weight of the target rises; the paper has no ramp.
        collapse_window: of ``culpico``: steps over which the share of pseudo-cells is averaged.
        collapse_below: of ``culpico``: part of the target's pixels; with fewer pseudo-cells only the source counts.
        collapse_above: of ``culpico``: part of the target's pixels; with more pseudo-cells only the source counts.
        consistency: of ``mean-teacher``: the student learns the teacher's probabilities (``soft``) or cells (``hard``).
        consistency_weight: of ``mean-teacher``: largest weight of what is learned from the teacher.
        consistency_ramp: of ``mean-teacher``: part of all steps over which that weight rises; Tarvainen and Valpola
            have 40,000 steps of 150,000.
        teacher_decay: of ``mean-teacher``: of the teacher's weights per step; Tarvainen and Valpola have 0.99, then
            0.999 after the ramp.
        strong_probability: of each change of intensity that a student sees and its teacher does not.
        strong_brightness: largest shift; Na et al. have factors of 0.5 to 1.5, but cells may be hardly brighter than
            what is around them.
        strong_contrast: largest logarithm of the factor around 0.5; Na et al. have factors of 0.5 to 1.5.
        strong_gamma: largest logarithm of the exponent, in place of the hue and saturation of Na et al.
        strong_noise: largest standard deviation of Gaussian noise; Na et al. have none.
        strong_blur: largest sigma of a Gaussian blur in pixels, up to 1; Na et al. have 0.15 to 1.15.
        dual_decay: of ``dual-teacher``: of the weights of the teacher on duty per step; 0.99 in Na et al.
        dual_switch: of ``dual-teacher``: steps until the teachers change places; None: an epoch, source images over
            batch, as in Na et al.
        dual_restart: of ``dual-teacher``: a teacher that comes on duty begins its average anew from the student, as in
            the authors' code; false: it goes on from where it was.
        dual_mix: of ``dual-teacher``: CutMix (``cut``) for one teacher and ClassMix (``class``) for the other, as in
            the authors' code, or one of them for both.
        dual_confidence: of ``dual-teacher``: probability of the teacher's class from which on a pixel counts as
            confident; 0.95 in the authors' code.
        dual_consistency: of ``dual-teacher``: weight of what sub-networks of the student learn; 0.2 in the authors'
            code, 0: without.
        dual_drop: of ``dual-teacher``: part of the features that a sub-network is without.
        region_begin: of ``cross-region``: part of all steps that align domains, before those that align regions; Wang
            et al. begin with a model that is adapted already, 0 with such a model as base.
        region_threshold: of ``cross-region``: bits of entropy up to which a pixel is trusted, 0 to 1; the authors' code
            has 0.01 of the entropy of 19 classes, which is 0.042 bits.
        region_source: of ``cross-region``: weight of the source while regions are aligned; 0 in the authors' code.
        region_weight: of ``cross-region``: weight of the adversarial loss; 0.001 in the authors' code.
        region_rate: of ``cross-region``: learning rate of the discriminator; 0.0001 in the authors' code.
        region_widths: of ``cross-region``: features of the layers of the discriminator; as in the authors' code.
        region_stride: of ``cross-region``: pixels per pixel of the discriminator; 8 in the authors' ResNet.
        region_temperature: of ``cross-region``: divides logits before they are soft labels; as in the authors' code.
        region_ceiling: of ``cross-region``: largest probability of a soft label; as in the authors' code.
        mcd_n: of ``mcd``: how often the encoder lowers the discrepancy in a step; Saito et al. have 2 to 4, and 4 in
            their code for segmentation.
        cbst_rounds: of ``cbst``: rounds of pseudo-labels; the examples in the code of Zou et al. have 5 and 12.
        cbst_warmup: of ``cbst``: part of all steps on the source alone, before the first round; Zou et al. begin with a
            trained network.
        cbst_portion: of ``cbst``: part of the pixels of each class that the first round labels; 0.2 in Zou et al.
        cbst_growth: of ``cbst``: how much that part grows each round; 0.05 in Zou et al.
        cbst_most: of ``cbst``: the largest part; 0.5 in Zou et al.
        cbst_batches: of ``cbst``: batches of target crops from which a round has its thresholds; Zou et al. have all
            images.

    Raises:
        UsageError: a name is unknown, or a number out of range.
    """

    statistics: DomainStatisticsName = "target"
    bound_statistics: BoundStatisticsName = "source"
    discrepancy: bool = True
    ramp: int = 0
    collapse_window: int = 100
    collapse_below: float = 0.001
    collapse_above: float = 0.999
    consistency: ConsistencyName = "soft"
    consistency_weight: float = 10.0
    consistency_ramp: float = 0.25
    teacher_decay: float = 0.99
    strong_probability: float = 0.8
    strong_brightness: float = 0.1
    strong_contrast: float = 0.3
    strong_gamma: float = 0.3
    strong_noise: float = 0.05
    strong_blur: float = 0.5
    dual_decay: float = 0.99
    dual_switch: int | None = None
    dual_restart: bool = True
    dual_mix: MixName = "both"
    dual_confidence: float = 0.95
    dual_consistency: float = 0.2
    dual_drop: float = 0.1
    region_begin: float = 0.5
    region_threshold: float = 0.05
    region_source: float = 1.0
    region_weight: float = 0.001
    region_rate: float = 1e-4
    region_widths: tuple[int, ...] = (512, 256)
    region_stride: int = 4
    region_temperature: float = 1.8
    region_ceiling: float = 0.9
    mcd_n: int = 4
    cbst_rounds: int = 3
    cbst_warmup: float = 0.25
    cbst_portion: float = 0.2
    cbst_growth: float = 0.05
    cbst_most: float = 0.5
    cbst_batches: int = 16

    def __post_init__(self) -> None:
        """See the class."""
        for name, hint in get_type_hints(type(self)).items():
            choices = get_args(hint)
            if get_origin(hint) is Literal and getattr(self, name) not in choices:
                raise UsageError(name, f"'{getattr(self, name)}' is unknown", f"choose from {', '.join(choices)}")
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                wanted = f"from {low:g} to {high:g}" if high < math.inf else f"from {low:g} on"
                raise UsageError(name, f"{getattr(self, name):g} is out of range", f"give a number {wanted}")

    @classmethod
    def names_of(cls, method: AdaptMethodName) -> frozenset[str]:
        """The settings that a method has."""
        return frozenset(field.name for field in fields(cls) if field.name.partition("_")[0] in OWN[method])
