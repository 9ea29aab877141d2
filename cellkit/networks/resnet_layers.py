"""Convolutions with their normalisation, of trunks, pyramids and heads alike.

A normalisation lies inside the convolution that it follows (``conv1.weight``, ``conv1.norm.weight``), as in
detectron2, so that names of weights are those of its checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from cellkit.networks.detector_spec import NormName
from cellkit.networks.rectified import FUSED, onednn_is_there
from cellkit.networks.resnet_statistics import SyncBatchNorm, is_shared

GROUPS = 32  # of group normalisation (Wu and He 2018)
FEW_PIXELS = 1024  # of a map, below which torch takes groups one by one


class FrozenBatchNorm(nn.Module):
    """Batch normalisation whose scale, shift and statistics are constants: (B, C, ...) -> (B, C, ...).

    Its four buffers have the names of ``nn.BatchNorm2d``'s tensors; it counts no batches.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps = 1e-5
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)
        scale, shift = (v.to(x.dtype)[:, None, None] for v in scale_and_shift(self))
        return torch.addcmul(shift, x, scale)  # keeps no map for the backward pass, as batch_norm does


def scale_and_shift(norm: _BatchNorm | FrozenBatchNorm) -> tuple[Tensor, Tensor]:
    """What a batch normalisation does when its statistics are given: two vectors (C,), y = scale x + shift."""
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)  # all that is made here has them
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


def normalisation(name: NormName, channels: int, *, pooled: bool = False) -> nn.Module | None:
    """The normalisation of a map of C channels, or None.

    Args:
        name: which; groups of ``group-norm`` are 32, or as many below as divide the channels.
        channels: C.
        pooled: the map has one pixel: its channels are one group, as a group of few numbers would be all but constant.
    """
    match name:
        case "bn":
            return nn.BatchNorm2d(channels)
        case "sync-bn":
            return SyncBatchNorm(channels)
        case "frozen-bn":
            return FrozenBatchNorm(channels)
        case "group-norm":
            return nn.GroupNorm(1 if pooled else math.gcd(GROUPS, channels), channels)
    return None


class NormedConv(nn.Conv2d):
    """Convolution, normalisation, and if wanted ReLU: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride).

    Padded by half the kernel. It has a bias only without normalisation. Weights begin He-normal over the outgoing
    connections, as all convolutions of detectron2 that a ReLU follows.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        kernel: side in pixels.
        norm: name of the normalisation.
        stride: in pixels.
        rectified: a ReLU ends it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        norm: NormName,
        stride: int = 1,
        rectified: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=norm == "none")
        self.norm = normalisation(norm, outputs)
        self.rectified = rectified
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor, added: Tensor | None = None) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, h, w); ``added`` of the latter shape comes in before the ReLU."""
        return convolved(input, self, self.norm, rectified=self.rectified, added=added)


def convolved(
    x: Tensor, conv: nn.Conv2d, norm: nn.Module | None, *, rectified: bool, added: Tensor | None = None
) -> Tensor:
    """Convolution, normalisation, sum and ReLU in turn; in one pass over memory on a CPU where nothing is learned.

    Args:
        x: (B, inputs, H, W).
        conv: any two-dimensional convolution with zeros around.
        norm: of its outputs, or None.
        rectified: a ReLU ends it.
        added: (B, outputs, h, w): a shortcut, or None.

    Returns:
        (B, outputs, h, w).
    """
    if _is_foldable(x, conv, norm, added):
        return _folded(x, conv, norm, rectified=rectified, added=added)
    y = conv._conv_forward(x, conv.weight, conv.bias)  # not conv(x), which may be this very function
    y = y if norm is None else normalised(y, norm)
    y = y if added is None else y.add_(added)  # in place: nothing before keeps its result for the backward pass
    return F.relu_(y) if rectified else y


def normalised(x: Tensor, norm: nn.Module) -> Tensor:
    """What a normalisation makes of maps: (B, C, H, W) -> the same shape and type.

    Groups of half precision are computed in single where torch is slow: on a CPU that has a gradient, or few pixels.
    """
    if isinstance(norm, _BatchNorm) and not len(x) and not (isinstance(norm, SyncBatchNorm) and is_shared()):
        # no image has no statistics, and must not change those kept
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    dtype = x.dtype
    slow = isinstance(norm, nn.GroupNorm) and x.device.type == "cpu" and dtype in (torch.bfloat16, torch.float16)
    if slow and (torch.is_grad_enabled() or x.shape[2] * x.shape[3] < FEW_PIXELS):
        x = x.float()
    result: Tensor = norm(x)
    return result.to(dtype)


def _is_foldable(x: Tensor, conv: nn.Conv2d, norm: nn.Module | None, added: Tensor | None) -> bool:
    constant = norm is None or isinstance(norm, FrozenBatchNorm) or (isinstance(norm, _BatchNorm) and not norm.training)
    if not constant or x.device.type != "cpu" or not x.numel() or not onednn_is_there():
        return False
    if torch.is_grad_enabled() and _is_learned(x, conv, norm, added):
        return False
    return _dtype_of(x) in FUSED and conv.weight.dtype == torch.float32


def _is_learned(x: Tensor, conv: nn.Conv2d, norm: nn.Module | None, added: Tensor | None) -> bool:
    tensors = [x, *conv.parameters(), *(() if norm is None else norm.parameters())]
    return any(tensor.requires_grad for tensor in tensors) or (added is not None and added.requires_grad)


def _folded(x: Tensor, conv: nn.Conv2d, norm: nn.Module | None, *, rectified: bool, added: Tensor | None) -> Tensor:
    """One operator of oneDNN. Weights are scaled anew each time: that is little beside a pass over the maps."""
    weight, bias, dtype = conv.weight, conv.bias, _dtype_of(x)
    if isinstance(norm, _BatchNorm | FrozenBatchNorm):
        scale, shift = scale_and_shift(norm)
        weight = weight * scale[:, None, None, None]
        bias = shift if bias is None else bias * scale + shift
    weights = (weight.to(dtype), None if bias is None else bias.to(dtype))
    place = (conv.padding, conv.stride, conv.dilation, conv.groups)
    operator, after = torch.ops.mkldnn._convolution_pointwise, "relu" if rectified else "none"
    if added is None:
        result: Tensor = operator(x.to(dtype), *weights, *place, after, [], "")
    elif dtype == torch.float32:
        relu = "relu" if rectified else None
        result = operator.binary(x.to(dtype), added.to(dtype), *weights, *place, "add", None, relu, [], None)
    else:  # which the fused sum is not sure to know
        result = operator(x.to(dtype), *weights, *place, "none", [], "").add_(added)
        result = result.relu_() if rectified else result
    return result


def _dtype_of(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def freeze(module: nn.Module) -> None:
    """Make constants of all parameters of a module, and of its batch normalisations' statistics, in place.

    Batch normalisations inside it become :class:`FrozenBatchNorm` with the values that they have.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, _frozen(child))


def _frozen(norm: _BatchNorm) -> FrozenBatchNorm:
    frozen = FrozenBatchNorm(norm.num_features).to(norm.weight.device, norm.weight.dtype)
    frozen.eps = norm.eps
    values = norm.state_dict()
    frozen.load_state_dict({name: values[name] for name in frozen.state_dict()})
    return frozen


def recomputed(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)``, whose inner maps are computed a second time for the backward pass instead of kept (Chen 2016).

    Running statistics see each batch once, as they would without.
    """
    result: Tensor = checkpoint(
        module,
        x,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _constant_statistics(module)),
    )
    return result


@contextmanager
def _constant_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, normalisations write the statistics that they keep into copies."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    kept = [{name: tensor for name, tensor in norm.named_buffers() if norm.training} for norm in norms]
    for norm, buffers in zip(norms, kept, strict=True):
        for name, tensor in buffers.items():
            setattr(norm, name, tensor.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, tensor in buffers.items():
                setattr(norm, name, tensor)
