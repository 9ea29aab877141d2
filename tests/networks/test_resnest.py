"""ResNeSt: split attention and blocks against slow literal computations, parameters, shapes, lonely images."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cellkit.errors import ModelError
from cellkit.networks.resnest import DeepStem, SplitAttention, SplitBottleneck, resnest


def count(module):
    return sum(p.numel() for p in module.parameters())


def image(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.3


def random_statistics(module):
    generator = torch.Generator().manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for name, low, high in (("weight", 0.5, 1), ("bias", -0.5, 1), ("running_mean", -0.5, 1)):
                tensor = getattr(part, name).data
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * high + low)
            part.running_var.uniform_(0.5, 2, generator=generator)
    return module


def made(module):
    torch.manual_seed(0)
    return random_statistics(module).double().eval()


def normalised(x, norm):
    y = torch.empty_like(x)
    for channel in range(x.shape[1]):
        scale = norm.weight[channel] / (norm.running_var[channel] + norm.eps).sqrt()
        y[:, channel] = (x[:, channel] - norm.running_mean[channel]) * scale + norm.bias[channel]
    return y


def literal_attention(module, x):
    """As the paper and detectron2-ResNeSt describe it, channel by channel, with a softmax over the two halves."""
    channels = x.shape[1]
    groups = []
    for group in range(2):  # each half of the outputs sees its half of the inputs
        own = x[:, group * channels // 2 : (group + 1) * channels // 2]
        groups.append(F.conv2d(own, module.conv.weight[group * channels : (group + 1) * channels], padding=1))
    y = normalised(torch.cat(groups, 1), module.bn0).clamp(min=0)
    halves = [y[:, :channels], y[:, channels:]]
    pooled = (halves[0] + halves[1]).flatten(2).sum(2) / (x.shape[2] * x.shape[3])
    hidden = pooled @ module.fc1.weight[:, :, 0, 0].T + module.fc1.bias
    hidden = normalised(hidden[:, :, None, None], module.bn1)[:, :, 0, 0].clamp(min=0)
    logits = hidden @ module.fc2.weight[:, :, 0, 0].T + module.fc2.bias
    out = torch.zeros_like(halves[0])
    for one in range(len(x)):
        for channel in range(channels):
            powers = [logits[one, channel].exp(), logits[one, channels + channel].exp()]
            for half, power in zip(halves, powers, strict=True):
                out[one, channel] = out[one, channel] + power / (powers[0] + powers[1]) * half[one, channel]
    return out


def literal_pool(x, side, stride, padding, only_inside):
    """Mean over windows; pixels outside the image are zeros that count, or do not."""
    size = [-(-n // stride) for n in x.shape[2:]]
    out = x.new_zeros(*x.shape[:2], *size)
    for row in range(size[0]):
        for column in range(size[1]):
            top, left = row * stride - padding, column * stride - padding
            window = x[:, :, max(top, 0) : top + side, max(left, 0) : left + side]
            cells = window.shape[2] * window.shape[3] if only_inside else side**2
            out[:, :, row, column] = window.sum((2, 3)) / cells
    return out


def test_split_attention_equals_the_literal_computation():
    module, x = made(SplitAttention(6, norm="bn")), image(3, 6, 5, 7)
    torch.testing.assert_close(module(x), literal_attention(module, x))


def test_gradients_of_split_attention_equal_those_of_the_literal_computation():
    module, x = made(SplitAttention(4, norm="bn")), image(2, 4, 4, 3)
    weights = image(2, 4, 4, 3)
    results = []
    for forward in (module, lambda x: literal_attention(module, x)):
        leaf = x.clone().requires_grad_()
        results.append(torch.autograd.grad((forward(leaf) * weights).sum(), [leaf, *module.parameters()]))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_split_attention_in_one_pass_equals_the_layers_in_turn_and_keeps_the_order_in_memory(memory):
    module = made(SplitAttention(8, norm="bn")).float().to(memory_format=memory)
    x = image(2, 8, 6, 5).float().contiguous(memory_format=memory)
    with torch.no_grad():
        folded = module(x)
    torch.testing.assert_close(folded, module(x).detach(), rtol=1e-5, atol=1e-6)
    assert folded.is_contiguous(memory_format=memory)


def test_split_attention_in_bfloat16_is_near_and_stays_in_it():
    module, x = made(SplitAttention(8, norm="bn")).float(), image(2, 8, 16, 16).float()
    exact = module(x).detach()
    with torch.autocast("cpu", torch.bfloat16):
        learned = module(x)
        with torch.no_grad():
            folded = module(x)
    for low in (learned.detach(), folded):
        assert low.dtype == torch.bfloat16
        assert (low - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_a_block_equals_the_literal_computation(stride, size):
    block, x = made(SplitBottleneck(6, 4, stride=stride, norm="bn")), image(2, 6, *size)
    y = normalised(F.conv2d(x, block.conv1.weight), block.conv1.norm).clamp(min=0)
    y = literal_attention(block.conv2, y)
    kept = x
    if stride == 2:
        y = literal_pool(y, 3, 2, 1, only_inside=False)
        kept = literal_pool(x, 2, 2, 0, only_inside=True)
    y = normalised(F.conv2d(y, block.conv3.weight), block.conv3.norm)
    kept = normalised(F.conv2d(kept, block.shortcut.weight), block.shortcut.norm)
    torch.testing.assert_close(block(x), (y + kept).clamp(min=0))


def test_a_block_that_changes_nothing_has_no_shortcut():
    assert SplitBottleneck(16, 4, stride=1, norm="bn").shortcut is None


@pytest.mark.parametrize(
    ("blocks", "stem", "parameters"),
    [((3, 4, 6, 3), 32, 25_434_240), ((3, 4, 23, 3), 64, 46_226_016)],
)
def test_parameter_count_is_that_of_the_published_trunks(blocks, stem, parameters):
    with torch.device("meta"):
        assert count(resnest(blocks, stem=stem)) == parameters


def test_resnest_200_with_and_without_its_classifier():
    with torch.device("meta"):
        trunk = resnest((3, 24, 36, 3))
        assert count(trunk) == 68_152_544
        assert count(trunk) + count(nn.Linear(2048, 1000)) == 70_201_544


def test_shapes_of_a_livecell_image():
    with torch.device("meta"):
        maps = resnest((1, 1, 1, 1)).eval()(torch.empty(1, 3, 512, 704))
    assert [tuple(m.shape[1:]) for m in maps] == [(256, 128, 176), (512, 64, 88), (1024, 32, 44), (2048, 16, 22)]


def test_the_stem_takes_a_quarter_of_the_height():
    stem = made(DeepStem(1, 4, norm="bn"))
    assert stem.outputs == 8
    assert stem(image(1, 1, 32, 40)).shape == (1, 8, 8, 10)
    assert sum(p.numel() for p in stem.parameters()) == 9 * 4 + 9 * 16 + 9 * 32 + 2 * (4 + 4 + 8)


def test_one_image_has_no_statistics_inside_the_attention():
    module = SplitAttention(4, norm="bn").train()
    text = r"one number a channel in a batch of 1 \(train with batches of 2 or more images, or with norm=group-norm"
    with pytest.raises(ModelError, match=text):
        module(torch.rand(1, 4, 8, 8))
    assert module(torch.rand(2, 4, 8, 8)).shape == (2, 4, 8, 8)
    assert module.eval()(torch.rand(1, 4, 8, 8)).shape == (1, 4, 8, 8)


@pytest.mark.parametrize("norm", ["group-norm", "frozen-bn"])
def test_other_normalisations_train_on_one_image(norm):
    torch.manual_seed(0)
    trunk = resnest((1, 1, 1, 1), stem=4, width=8, norm=norm).train()
    trunk(torch.rand(1, 3, 64, 64))[-1].square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trunk.parameters())
    assert trunk.res5[0].conv2.fc1.weight.grad.abs().sum() > 0


def test_attention_under_group_normalisation_depends_on_the_image():
    torch.manual_seed(0)
    module, weights = SplitAttention(8, norm="group-norm"), []
    module.fc2.register_forward_hook(lambda _, __, output: weights.append(output))
    module(torch.stack([torch.rand(8, 6, 6), 3 * torch.rand(8, 6, 6) - 1]))
    assert (weights[0][0] - weights[0][1]).abs().max() > 1e-3
