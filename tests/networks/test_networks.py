"""Parameter counts are those of the authors' networks, instantiated."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from cellkit.config import NetworkName, NetworkSpec, TrainedPartName
from cellkit.errors import ModelError
from cellkit.networks import NETWORKS, build, initialise
from cellkit.networks.residual_unet import ResidualUNet, StyleUNet, _style_sizes, unit_mean


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_table_and_names_agree():
    assert set(NETWORKS) == set(get_args(NetworkName))


@pytest.mark.parametrize(
    ("flags", "parameters"),
    [
        ({}, 6_600_843),
        ({"attention": True}, 6_666_820),
        ({"dense": True}, 6_797_867),
        ({"hierarchical": True}, 6_708_363),
        ({"attention": True, "dense": True, "hierarchical": True}, 6_971_364),
    ],
)
def test_parameter_count_equals_the_papers_code(flags, parameters):
    assert count(ResidualUNet(2, 3, **flags)) == parameters


def test_parts_of_the_style_unet():
    network = StyleUNet()
    assert count(network.down) == 2_786_984
    assert count(network.head) == 163
    assert count(network) - count(network.down) - count(network.head) == 4_184_217


def test_hierarchical_styles_have_the_papers_sizes():
    assert _style_sizes((32, 64, 128, 256)) == [480, 448, 384, 256]


@pytest.mark.parametrize("name", get_args(NetworkName))
@pytest.mark.parametrize(("channels", "widths"), [(1, (8, 16)), (3, (4, 8, 16))])
def test_any_width_and_channels(name, channels, widths):
    network = build(NetworkSpec(name=name, channels=channels, outputs=5, widths=widths)).eval()
    maps, style = network(torch.rand(2, channels, 16, 24))
    assert maps.shape == (2, 5, 16, 24)
    assert style.shape == (2, widths[-1])
    torch.testing.assert_close(style.norm(dim=1), torch.ones(2))


def test_styles_are_given_deepest_first():
    network = StyleUNet(2, 3, (4, 8, 16))
    pooled = [torch.full((1, width), float(width)) for width in (4, 8, 16)]
    assert network._style(pooled, 2).unique().tolist() == [16.0]
    assert network._style(pooled, 1)[0].tolist() == [16.0] * 16 + [8.0] * 8
    assert network._style(pooled, 0)[0].tolist() == [16.0] * 16 + [8.0] * 8 + [4.0] * 4


def test_style_of_an_all_zero_map_is_zero():
    assert unit_mean(torch.zeros(1, 4, 8, 8)).tolist() == [[0.0] * 4]


def test_wrong_channel_count_names_the_repair():
    with pytest.raises(ModelError, match=r"takes 2 channels, but the image has 16 \(choose channels with --channels"):
        ResidualUNet(2, 3, (4, 8))(torch.zeros(1, 16, 8, 8))


def test_attention_needs_doubling_widths():
    with pytest.raises(ModelError, match="attention needs doubling widths"):
        StyleUNet(2, 3, (8, 24))


def test_kaiming_initialisation_sets_every_convolution():
    network = initialise(ResidualUNet(2, 3, (16, 32)))
    weight = network.down[1].convs[1][2].weight
    assert network.head[2].bias.abs().sum() == 0
    assert weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.1)


@pytest.mark.parametrize("name", get_args(NetworkName))
@pytest.mark.parametrize("training", [False, True])
def test_styles_are_those_of_a_whole_pass(name, training):
    torch.manual_seed(0)
    network = build(NetworkSpec(name=name, channels=2, widths=(4, 8, 16))).train(training)
    x = torch.rand(3, 2, 16, 24)
    assert torch.equal(network.styles(x), network(x).style)


def test_styles_need_no_decoder():
    network = StyleUNet(1, 3, (4, 8))
    expected = network.eval()(torch.ones(1, 1, 8, 8)).style
    del network.up, network.head, network.gates, network.rise
    assert torch.equal(network.styles(torch.ones(1, 1, 8, 8)), expected)


def test_styles_are_float32_in_any_precision():
    network = StyleUNet(1, 3, (4, 8)).eval()
    x = torch.rand(2, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = network(x)
        assert network.styles(x).dtype == low.style.dtype == torch.float32
    assert low.maps.dtype == torch.bfloat16
    torch.testing.assert_close(low.style, network.styles(x), atol=0.02, rtol=0)
    torch.testing.assert_close(low.style.norm(dim=1), torch.ones(2), atol=1e-5, rtol=0)


def test_styles_of_other_channels_name_the_repair():
    with pytest.raises(ModelError, match="takes 2 channels, but the image has 1"):
        ResidualUNet(2, 3, (4, 8)).styles(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("name", get_args(NetworkName))
def test_each_part_holds_the_one_before_and_all_is_everything(name):
    network = build(NetworkSpec(name=name, widths=(4, 8)))
    parts = network.parts()
    assert set(parts) == set(get_args(TrainedPartName))
    held = {part: {p for module in modules for p in module.parameters()} for part, modules in parts.items()}
    assert held["head"] < held["decoder"] < held["all"] == set(network.parameters())
    assert held["decoder"] == set(network.parameters()) - set(network.down.parameters())


def test_the_head_is_the_papers_tasker():
    assert sum(count(module) for module in StyleUNet().parts()["head"]) == 163
