"""Ways of learning, one file each; one table per verb.

To add one: write its module, add its line here and its name to ``config``, and a test.
"""

from __future__ import annotations

from collections.abc import Callable

from cellkit.config import AdaptMethodName, MetaMethodName, PretrainMethodName, ShotMethodName
from cellkit.methods.adapt_bounds import SourceOnly
from cellkit.methods.adaptation import Adaptation, AdaptMethod
from cellkit.methods.cbst import ClassBalanced
from cellkit.methods.classic import Classic
from cellkit.methods.contrastive import Contrastive
from cellkit.methods.cross_region import CrossRegion
from cellkit.methods.culpico import Culpico
from cellkit.methods.cupre import Cupre
from cellkit.methods.detection import Detection
from cellkit.methods.dual_teacher import DualTeacher
from cellkit.methods.l2sp import L2SP
from cellkit.methods.maml import Anil, FirstOrderMaml
from cellkit.methods.mcd import MaximumDiscrepancy
from cellkit.methods.mean_teacher import MeanTeacher
from cellkit.methods.moco import MoCo
from cellkit.methods.oce import ObjectCentric
from cellkit.methods.reptile import Meta, Reptile
from cellkit.methods.supervised import Supervised
from cellkit.methods.supported import Supported
from cellkit.methods.tuning import Tuning, TuningMethod

__all__ = [
    "ADAPT",
    "FINETUNE",
    "META",
    "PRETRAIN",
    "AdaptMethod",
    "Adaptation",
    "Cupre",
    "Detection",
    "Meta",
    "MoCo",
    "ObjectCentric",
    "Supervised",
    "Supported",
    "Tuning",
    "TuningMethod",
]

PRETRAIN: dict[
    PretrainMethodName, type[Supervised] | type[ObjectCentric] | type[Detection] | type[MoCo] | type[Cupre]
] = {
    "supervised": Supervised,
    "oce": ObjectCentric,
    "detection": Detection,
    "moco": MoCo,
    "cupre": Cupre,
}
"""Learning from labelled images, from images alone, and from both in turn."""

FINETUNE: dict[ShotMethodName, Callable[[Tuning], TuningMethod]] = {
    "classic": Classic,
    "contrastive": Contrastive,
    "l2sp": L2SP,
}
"""Learning from a few shots, beginning with the weights of a base; ``supported`` has images of its own kind."""

META: dict[MetaMethodName, type[Reptile]] = {
    "reptile": Reptile,
    "fomaml": FirstOrderMaml,
    "anil": Anil,
}
"""Learning to be tuned, from few-shot tasks of several sources."""

ADAPT: dict[AdaptMethodName, Callable[[Adaptation], AdaptMethod]] = {
    "culpico": Culpico,
    "mean-teacher": MeanTeacher,
    "mcd": MaximumDiscrepancy,
    "cbst": ClassBalanced,
    "dual-teacher": DualTeacher,
    "cross-region": CrossRegion,
    "source-only": SourceOnly,
    "target-only": SourceOnly,
}
"""Learning from images of another kind that have labels, and from images of its own that have none; the last two are
the bounds between which the others are measured, the upper one given the labelled target as its source."""
