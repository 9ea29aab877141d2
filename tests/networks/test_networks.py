"""Parameter counts are those of the authors' networks, instantiated."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from cellkit.config import NetworkName, NetworkSpec, TrainedPartName
from cellkit.errors import ModelError
from cellkit.networks import DETECTORS, NETWORKS, Encoding, build, initialise, set_affine
from cellkit.networks.detector_spec import TINY_CASCADE
from cellkit.networks.residual_unet import ResidualUNet, StyleUNet, _style_sizes, unit_mean


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_tables_and_names_agree():
    assert set(NETWORKS) | set(DETECTORS) == set(get_args(NetworkName))
    assert not set(NETWORKS) & set(DETECTORS)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_is_built_from_its_settings(name):
    spec = NetworkSpec(name=name, channels=3, outputs=0, widths=(), settings=TINY_CASCADE.to_dict())
    assert build(NetworkSpec.from_dict(spec.to_dict())).spec == TINY_CASCADE


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"depth": 3},
            "detector: has settings that this cellkit does not know: DetectorSpec.__init__() got an unexpected keyword "
            "argument 'depth' (upgrade cellkit)",
        ),
        (
            {"channels": 1},
            "detector: takes 1 channels by its settings, and 3 by its specification (both must be the same)",
        ),
        (
            {"mean": [0.5], "std": [1.0]},
            "detector: 1 means and 1 deviations for 3 channels (give one of each a channel, or none)",
        ),
        (
            {"mean": [0.5] * 3, "std": [1.0, 0.0, 1.0]},
            "detector: a deviation that is not above 0 (pixels are divided by it)",
        ),
    ],
)
def test_settings_that_no_detector_has(changes, text):
    settings = TINY_CASCADE.to_dict() | changes
    with pytest.raises(ModelError) as error:
        build(NetworkSpec(name="detector", channels=3, outputs=0, widths=(), settings=settings))
    assert str(error.value) == text


def test_a_detector_subtracts_the_mean_of_its_pixels():
    torch.manual_seed(0)
    plain = build(NetworkSpec(name="detector", channels=3, settings=TINY_CASCADE.to_dict())).eval()
    statistics = {"mean": [0.5, 0.25, 0.0], "std": [2.0, 0.5, 1.0]}
    scaled = build(NetworkSpec(name="detector", channels=3, settings=TINY_CASCADE.to_dict() | statistics)).eval()
    scaled.load_state_dict(plain.state_dict())  # statistics are of the specification, and no weights
    images = torch.rand(1, 3, 64, 64)
    expected = torch.stack([(images[0, 0] - 0.5) / 2, (images[0, 1] - 0.25) / 0.5, images[0, 2]])[None]
    for one, other in zip(scaled.features(images), plain.features(expected), strict=True):
        torch.testing.assert_close(one, other)


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


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "widths"), [(1, (8, 16)), (3, (4, 8, 16))])
def test_any_width_and_channels(name, channels, widths):
    network = build(NetworkSpec(name=name, channels=channels, outputs=5, widths=widths)).eval()
    maps, style, latent = network(torch.rand(2, channels, 16, 24))
    assert maps.shape == (2, 5, 16, 24)
    assert latent.shape[:2] == (2, widths[-1])
    torch.testing.assert_close(style, unit_mean(latent))
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


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [False, True])
def test_styles_are_those_of_a_whole_pass(name, training):
    torch.manual_seed(0)
    network = build(NetworkSpec(name=name, channels=2, widths=(4, 8, 16))).train(training)
    x = torch.rand(3, 2, 16, 24)
    assert torch.equal(network.styles(x), network(x).style)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(16, 24), (64, 64)])
def test_the_latent_code_is_that_of_a_whole_pass_and_needs_no_decoder(name, shape):
    torch.manual_seed(0)
    network = build(NetworkSpec(name=name, channels=2, widths=(4, 8, 16))).train()
    assert isinstance(network, Encoding)
    x = torch.rand(3, 2, *shape)
    latent = network(x).latent
    assert latent.requires_grad
    del network.up, network.head
    assert torch.equal(network.encode(x), latent)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"mini-unet"}))
def test_the_latent_code_lies_on_the_deepest_grid(name):
    network = build(NetworkSpec(name=name, channels=1, widths=(4, 8, 16)))
    assert network.encode(torch.rand(1, 1, 32, 48)).shape == (1, 16, 8, 12)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_scale_and_shift_only_batch_normalisation_has_less(name):
    network, plain = (build(NetworkSpec(name=name, widths=(4, 8), affine=affine)) for affine in (True, False))
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert count(network) - count(plain) == 2 * sum(norm.num_features for norm in norms)
    assert bool(norms) == (name != "mini-unet")


def test_scale_and_shift_are_given_without_a_change_of_maps_or_statistics():
    torch.manual_seed(0)
    network = build(NetworkSpec(name="fcrn", channels=1, widths=(4, 8), affine=False))
    network(torch.rand(2, 1, 16, 16))  # moves the statistics
    before, x = {name: tensor.clone() for name, tensor in network.state_dict().items()}, torch.rand(1, 1, 16, 16)
    maps = network.eval()(x).maps
    assert set_affine(network, affine=True) is network
    torch.testing.assert_close(network(x).maps, maps)
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert before["down.0.1.running_mean"].abs().sum() > 0
    assert sorted(set(after) - set(before)) == [
        f"{norm}.{name}" for norm in ("down.0.1", "down.1.1", "up.0.1") for name in ("bias", "weight")
    ]
    assert after["up.0.1.weight"].tolist() == [1] * 4
    assert after["up.0.1.bias"].tolist() == [0] * 4


def test_a_scale_that_is_given_begins_at_gamma_and_one_that_is_there_stays():
    network = build(NetworkSpec(name="light-unet", channels=1, widths=(4, 8), affine=False)).double()
    set_affine(network, affine=True, gamma=0.1)
    assert network.down[0][1].weight.tolist() == [0.1] * 4
    assert network.down[0][1].weight.requires_grad
    assert network.down[0][1].weight.dtype == torch.float64
    set_affine(network, affine=True, gamma=5)
    assert network.down[0][1].weight.tolist() == [0.1] * 4
    weights = build(NetworkSpec(name="light-unet", channels=1, widths=(4, 8))).load_state_dict(network.state_dict())
    assert not weights.missing_keys


def test_a_scale_that_is_taken_away_is_learned_no_more():
    network = build(NetworkSpec(name="unet", widths=(4, 8)))
    wanted = set(build(NetworkSpec(name="unet", widths=(4, 8), affine=False)).state_dict())
    assert set(set_affine(network, affine=False).state_dict()) == wanted
    assert network.head[0].weight is None


def test_a_specification_of_before_has_scale_and_shift():
    spec = NetworkSpec.from_dict({"name": "unet", "channels": 2, "outputs": 3, "widths": [4, 8]})
    assert spec.affine


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


@pytest.mark.parametrize("name", NETWORKS)
def test_each_part_holds_the_one_before_and_all_is_everything(name):
    network = build(NetworkSpec(name=name, widths=(4, 8)))
    parts = network.parts()
    assert set(parts) == set(get_args(TrainedPartName))
    held = {part: {p for module in modules for p in module.parameters()} for part, modules in parts.items()}
    assert held["head"] < held["decoder"] < held["all"] == set(network.parameters())
    assert held["decoder"] == set(network.parameters()) - set(network.down.parameters())


def test_the_head_is_the_papers_tasker():
    assert sum(count(module) for module in StyleUNet().parts()["head"]) == 163
