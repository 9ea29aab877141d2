"""Residual trunks: parameters, literal blocks, folding, freezing, checkpointing, normalisation of few and of none."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cellkit.networks.resnet import BasicBlock, Bottleneck, resnet
from cellkit.networks.resnet_layers import FrozenBatchNorm, NormedConv, freeze, normalisation
from cellkit.networks.resnet_statistics import SyncBatchNorm

TINY = (1, 1, 1, 1)


def count(module):
    return sum(p.numel() for p in module.parameters())


def random_statistics(module):
    """Any scale, shift, mean and variance, so that none of them can be forgotten."""
    generator = torch.Generator().manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm | FrozenBatchNorm):
            for name, low, high in (
                ("weight", 0.5, 1.5),
                ("bias", -0.5, 0.5),
                ("running_mean", -0.5, 0.5),
                ("running_var", 0.5, 2.0),
            ):
                tensor = getattr(part, name).data
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return module


def tiny(norm="bn", block=Bottleneck):
    torch.manual_seed(0)
    return random_statistics(resnet(block, TINY, width=8, norm=norm))


def image(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def literal(x, conv, rectified=True, norm=True, added=0):
    """Convolution and normalisation as the formulas have them."""
    x = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)
    if norm:
        weight, bias, mean, variance = (
            getattr(conv.norm, name)[:, None, None] for name in ("weight", "bias", "running_mean", "running_var")
        )
        x = (x - mean) / (variance + 1e-5).sqrt() * weight + bias
    x = x + added
    return x.clamp(min=0) if rectified else x


@pytest.mark.parametrize(
    ("block", "blocks", "parameters"),
    [
        (BasicBlock, (2, 2, 2, 2), 11_176_512),
        (BasicBlock, (3, 4, 6, 3), 21_284_672),
        (Bottleneck, (3, 4, 6, 3), 23_508_032),
        (Bottleneck, (3, 4, 23, 3), 42_500_160),
    ],
)
def test_parameter_count_is_that_of_the_published_networks_without_their_classifiers(block, blocks, parameters):
    with torch.device("meta"):
        trunk = resnet(block, blocks, norm="bn")
        assert count(trunk) == parameters
        maps = trunk(torch.empty(1, 3, 512, 704))
    grid = [(128, 176), (64, 88), (32, 44), (16, 22)]
    assert [tuple(m.shape) for m in maps] == [(1, w, *size) for w, size in zip(trunk.widths, grid, strict=True)]


def test_a_bottleneck_equals_its_literal_computation():
    torch.manual_seed(0)
    block = random_statistics(Bottleneck(8, 4, stride=2, norm="bn")).eval()
    x = image(2, 8, 7, 9) - 0.5
    y = literal(literal(x, block.conv1), block.conv2)
    expected = literal(y, block.conv3, added=literal(x, block.shortcut, rectified=False))
    assert expected.shape == (2, 16, 4, 5)
    torch.testing.assert_close(block(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected)


def test_a_basic_block_without_a_change_of_channels_keeps_its_input():
    torch.manual_seed(0)
    block = random_statistics(BasicBlock(8, 8, stride=1, norm="bn")).eval()
    assert block.shortcut is None
    x = image(1, 8, 5, 6)
    torch.testing.assert_close(block(x), literal(literal(x, block.conv1), block.conv2, added=x))


@pytest.mark.parametrize("norm", ["bn", "frozen-bn", "group-norm", "sync-bn"])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_inference_in_one_pass_equals_the_layers_in_turn(norm, memory):
    trunk = tiny(norm).eval().to(memory_format=memory)
    x = image(2, 3, 64, 96).contiguous(memory_format=memory)
    with torch.no_grad():
        folded = trunk(x)
    for fast, slow in zip(folded, trunk(x), strict=True):
        assert slow.requires_grad
        torch.testing.assert_close(fast, slow.detach(), rtol=1e-4, atol=1e-5)
        assert fast.is_contiguous(memory_format=memory)


def test_inference_in_bfloat16_is_near():
    trunk, x = tiny().eval(), image(1, 3, 64, 64)
    with torch.no_grad():
        exact = trunk(x)[-1]
        with torch.autocast("cpu", torch.bfloat16):
            low = trunk(x)[-1]
    assert low.dtype == torch.bfloat16
    assert (low - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("side", [7, 40])  # few pixels, and many
def test_groups_of_half_precision_are_normalised_in_single(side, learns):
    conv = NormedConv(8, 16, norm="group-norm")
    conv.norm = nn.GroupNorm(4, 16)
    x = image(3, 8, side, side).requires_grad_(learns)
    with torch.set_grad_enabled(learns):
        with torch.autocast("cpu", torch.bfloat16):
            low = conv(x)
            rounded = F.conv2d(x, conv.weight).detach()
        exact = F.group_norm(rounded.double(), 4, conv.norm.weight.double(), conv.norm.bias.double())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.detach().double(), exact.detach(), rtol=2**-8, atol=2e-3)
    if learns:
        gradients = torch.autograd.grad(low.float().square().sum(), conv.norm.weight)
        torch.testing.assert_close(gradients[0].double(), _scale_gradient(exact), rtol=0.02, atol=1)


def _scale_gradient(normalised):
    """Of the sum of squares to the scale (C,), where that is 1: 2 y dy / dscale = 2 y y."""
    return 2 * normalised.square().sum((0, 2, 3))


def test_frozen_parts_are_constants_and_the_others_learn():
    trunk = tiny().eval()
    x = image(2, 3, 64, 64)
    before, weights = trunk(x)[-1].detach(), copy.deepcopy(trunk.state_dict())
    trunk.freeze(2)
    torch.testing.assert_close(trunk(x)[-1].detach(), before)
    trunk.train()
    trunk(x)[-1].sum().backward()
    frozen = [*trunk.stem.parameters(), *trunk.res2.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    assert all(p.grad is not None for stage in (trunk.res3, trunk.res4, trunk.res5) for p in stage.parameters())
    after = trunk.state_dict()
    kept = [name for name in after if name.startswith(("stem.", "res2."))]
    assert all(torch.equal(after[name], weights[name]) for name in kept)
    assert not torch.equal(after["res3.0.conv1.norm.running_mean"], weights["res3.0.conv1.norm.running_mean"])
    gone = set(weights) - set(after)
    assert gone == {name for name in weights if name.startswith(("stem.", "res2.")) and "num_batches" in name}


@pytest.mark.parametrize("parts", [0, 1, 5])
def test_freezing_counts_the_stem_as_the_first_part(parts):
    trunk = tiny()
    trunk.freeze(parts)
    learned = [any(p.requires_grad for p in m.parameters()) for m in trunk.children()]
    assert learned == [False] * parts + [True] * (5 - parts)


def test_a_frozen_normalisation_computes_the_same_with_and_without_a_gradient():
    norm = random_statistics(FrozenBatchNorm(6))
    x = image(2, 6, 4, 5)
    with_gradient = norm(x.clone().requires_grad_())
    torch.testing.assert_close(with_gradient.detach(), norm(x))
    scale = norm.weight / (norm.running_var + 1e-5).sqrt()
    (gradient,) = torch.autograd.grad(norm(leaf := x.clone().requires_grad_()).sum(), leaf)
    torch.testing.assert_close(gradient, scale[:, None, None].expand_as(x))


@pytest.mark.parametrize("frozen", [0, 2])
def test_checkpointing_changes_neither_gradients_nor_statistics(frozen):
    results = []
    for checkpointing in (False, True):
        trunk = tiny().train()
        trunk.freeze(frozen)
        trunk.checkpointing = checkpointing
        sum(m.square().mean() for m in trunk(image(2, 3, 64, 64))).backward()
        results.append((trunk.state_dict(), {name: p.grad for name, p in trunk.named_parameters()}))
    (plain, gradients), (state, recomputed) = results
    assert all(torch.equal(state[name], plain[name]) for name in plain)
    assert plain["res5.0.conv1.norm.num_batches_tracked"] == 1
    for name, gradient in gradients.items():
        assert (gradient is None) == (recomputed[name] is None) == (frozen == 2 and name.startswith(("stem", "res2")))
        torch.testing.assert_close(recomputed[name], gradient)


def test_checkpointing_keeps_fewer_maps():
    kept = []
    for checkpointing in (False, True):
        trunk, sizes = tiny().train(), []
        trunk.checkpointing = checkpointing
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            trunk(image(2, 3, 64, 64))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_groups_divide_the_channels():
    assert [normalisation("group-norm", channels).num_groups for channels in (8, 48, 64, 256)] == [8, 16, 32, 32]
    assert normalisation("group-norm", 64, pooled=True).num_groups == 1
    assert normalisation("none", 8) is None


def test_convolutions_have_a_bias_only_without_normalisation():
    assert NormedConv(3, 4, norm="none").bias.tolist() == [0] * 4
    assert NormedConv(3, 4, norm="bn").bias is None


@pytest.mark.parametrize("norm", ["bn", "sync-bn"])
def test_no_region_changes_no_statistic(norm):
    conv = random_statistics(NormedConv(4, 4, 3, norm=norm, rectified=True)).train()
    before = {name: tensor.clone() for name, tensor in conv.state_dict().items()}
    y = conv(torch.zeros(0, 4, 7, 7))
    y.sum().backward()
    assert y.shape == (0, 4, 7, 7)
    assert conv.weight.grad.abs().sum() == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in conv.state_dict().items())


def test_freezing_keeps_values_and_precision_of_statistics():
    norms = random_statistics(nn.Sequential(nn.BatchNorm2d(4, eps=1e-3))).double().eval()
    x = image(2, 4, 3, 3).double()
    before = norms(x)
    freeze(norms)
    assert isinstance(norms[0], FrozenBatchNorm)
    torch.testing.assert_close(norms(x), before.detach())


PROCESS = """
import sys, torch
from torch import distributed
from cellkit.networks.resnet_statistics import SyncBatchNorm
rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
whole = torch.load(f"{folder}/whole.pt")
x = whole["x"][:3] if rank == 0 else whole["x"][3:]
weights = whole["weights"][:3] if rank == 0 else whole["weights"][3:]
norm = SyncBatchNorm(4).train()
x.requires_grad_()
y = norm(x)
(y * weights).sum().backward()
out = {"y": y.detach(), "x": x.grad, "scale": norm.weight.grad, "shift": norm.bias.grad}
torch.save(out | norm.state_dict(), f"{folder}/{rank}.pt")
distributed.destroy_process_group()
"""


def test_statistics_of_two_processes_are_those_of_the_whole_batch(tmp_path):
    x, weights = image(5, 4, 3, 2) * 3 + 100, image(5, 4, 3, 2).sqrt()
    torch.save({"x": x, "weights": weights}, tmp_path / "whole.pt")
    ranks = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", PROCESS, str(rank), str(tmp_path)]) for rank in range(2)
    ]
    assert [process.wait() for process in ranks] == [0, 0]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    norm, x = nn.BatchNorm2d(4).train(), x.requires_grad_()
    y = norm(x)
    (y * weights).sum().backward()
    torch.testing.assert_close(torch.cat([p["y"] for p in parts]), y.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([p["x"] for p in parts]), x.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sum(p["scale"] for p in parts), norm.weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sum(p["shift"] for p in parts), norm.bias.grad)
    for part in parts:
        for name, tensor in norm.state_dict().items():
            torch.testing.assert_close(part[name], tensor, rtol=1e-4, atol=1e-5)


def test_alone_it_is_a_plain_batch_normalisation():
    synchronised, plain, x = SyncBatchNorm(4).train(), nn.BatchNorm2d(4).train(), image(2, 4, 3, 3)
    assert torch.equal(synchronised(x), plain(x))
    assert set(synchronised.state_dict()) == set(plain.state_dict())
