"""A detector that begins with the weights of a model: what fits by name and shape is taken, the rest begins anew."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from cellkit.errors import ModelError
from cellkit.io.checkpoints import Checkpoint

TRUNK = "backbone.bottom_up."
CATEGORY_LAYERS = r"\.(cls_score|mask_head\.predictor)\."  # as many outputs as there are categories
ANCHOR_LAYERS = r"\.rpn_head\.(objectness_logits|anchor_deltas)\."
CONSTANTS = r"\.cell_anchors\.|\.num_batches_tracked$"  # what the specification says, and what only counts
NAMED = 3  # categories in a message

log = logging.getLogger(__name__)


def adopt(detector: nn.Module, base: Checkpoint, source: str, categories: Sequence[str]) -> None:
    """Give a detector the weights of a model that fit it, in place; one line says what does not and begins anew.

    Args:
        detector: with its first weights.
        base: a detector, or a trunk alone, which is recognised by its names.
        source: name of the base, for messages.
        categories: names of those that the detector tells apart.

    Raises:
        ModelError: nothing fits.
    """
    wanted = detector.state_dict()
    given = _named(base.weights)
    taken = {
        name: given[name]
        for name, value in wanted.items()
        if not re.search(r"\.cell_anchors\.", name) and name in given and given[name].shape == value.shape
    }
    if not taken:
        repair = "choose trunk, width, pyramid and norms as it has them"
        raise ModelError(source, "none of its weights fits the detector", repair)
    detector.load_state_dict(taken, strict=False)
    anew = [name for name in wanted if name not in taken and not re.search(CONSTANTS, name)]
    theirs = categories_of(base)
    if anew:
        log.warning("%s: does not fit everywhere; %s", source, _what_begins(anew, given, wanted))
    if theirs and set(theirs) != set(categories):
        log.warning("%s: has learned %s; %s learned here", source, _listed(theirs), _listed(categories, is_are=True))


def categories_of(base: Checkpoint) -> tuple[str, ...]:
    """Names of the categories that a detector tells apart, by its card; none where it does not say."""
    names = base.card.get("categories")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _named(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under a detector's names: those of a trunk, whatever stands before them, belong to its trunk."""
    before = next((name.partition("stem.")[0] for name in weights if "stem.conv1" in name), TRUNK)
    if before == TRUNK:
        return dict(weights)
    inside = {name.removeprefix(before): value for name, value in weights.items() if name.startswith(before)}
    return {TRUNK + name: value for name, value in inside.items() if re.match(r"stem\.|res[2-5]\.", name)}


def _what_begins(anew: Sequence[str], given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """``the layers of the categories (80 there, 1 here) begin anew``, and whatever else does."""
    parts, rest = [], list(anew)
    for pattern, words in (
        (CATEGORY_LAYERS, "the layers of the categories"),
        (ANCHOR_LAYERS, "the last layers of the proposal network"),
    ):
        found = [name for name in rest if re.search(pattern, name) and name in given]
        rest = [name for name in rest if name not in found]
        if found:
            there, here = (tensors[found[0]].shape[0] for tensors in (given, wanted))
            parts.append(f"{words} ({there} outputs there, {here} here)")
    if rest:
        parts.append(f"{len(rest)} of {len(wanted)} tensors, e.g. {rest[0]},")
    return " and ".join(parts).removesuffix(",") + (" begins anew" if len(anew) == 1 else " begin anew")


def _listed(names: Sequence[str], *, is_are: bool = False) -> str:
    more = f" and {len(names) - NAMED} more categories" if len(names) > NAMED else ""
    verb = (" are" if len(names) > 1 else " is") if is_are else ""
    return ", ".join(names[:NAMED]) + more + verb
