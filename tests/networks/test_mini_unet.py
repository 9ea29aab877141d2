"""The mini U-Net: parameters, what a pixel sees, where its maps lie, weights of the authors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cellkit.engine import Tiling, infer, open_device
from cellkit.errors import ModelError
from cellkit.networks import initialise
from cellkit.networks.mini_unet import FEATURES, MiniUNet, crop, from_authors, mini_widths

MINI, DEEP = (4, 12), (2, 6, 18, 54)  # narrow ones with the geometry of the mini U-Net and of its sister


def count(network):
    return sum(p.numel() for p in network.parameters())


def fixed(widths=MINI, **options):
    torch.manual_seed(0)
    return initialise(MiniUNet(widths=widths, **options)).double().eval()


def image(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("first", "parameters"), [(24, 184_410), (64, 759_810)])
def test_parameter_count_equals_the_authors_network(first, parameters):
    assert count(MiniUNet(widths=mini_widths(first))) == parameters


def test_backbone_and_head_have_the_parameters_of_the_authors():
    network = MiniUNet()
    assert (count(network.down) + count(network.up), count(network.head)) == (180_120, 4_290)


def test_widths_triple_from_level_to_level():
    assert mini_widths() == (24, 72)
    assert mini_widths(64, 3) == (64, 192, 576, 1728)


@pytest.mark.parametrize(("widths", "side", "seen"), [(MINI, 40, {18}), ((2, 6, 18), 60, {44}), (DEEP, 116, {92, 100})])
def test_field_of_view_is_what_the_gradient_reaches(widths, side, seen):
    network = fixed(widths)
    for parameter in network.parameters():
        parameter.data.abs_()  # no ReLU hides what a pixel sees
    x = image(1, 1, side, side).requires_grad_()
    maps = network.valid(x).maps
    windows = []
    for pixel in range(network.stride):
        (gradient,) = torch.autograd.grad(maps[0, 0, pixel, pixel], x, retain_graph=True)
        rows, columns = (where.unique().tolist() for where in torch.nonzero(gradient[0, 0], as_tuple=True))
        assert rows == columns == list(range(rows[0], rows[-1] + 1))
        windows.append((rows[0], rows[-1]))
    assert {last - first + 1 for first, last in windows} == seen
    assert network.field_of_view == max(seen)
    if widths == MINI:
        assert windows == [(0, 17), (0, 17)]


@pytest.mark.parametrize(
    ("widths", "side", "smaller"), [(MINI, 252, 236), (MINI, 60, 44), (MINI, 18, 2), (DEEP, 92, 4), (DEEP, 108, 20)]
)
def test_valid_maps_are_smaller_by_the_margin(widths, side, smaller):
    network = MiniUNet(widths=widths)
    with torch.inference_mode():
        assert network.valid(torch.zeros(1, 1, side, 92)).maps.shape[2:] == (smaller, 92 - 2 * network.margin)


@pytest.mark.parametrize("widths", [MINI, (2, 6, 18), DEEP])
@pytest.mark.parametrize("shape", [(96, 104), (97, 99), (5, 7), (1, 1), (1, 30)])
def test_a_call_is_the_valid_network_on_the_mirrored_image(widths, shape):
    network, x = fixed(widths), image(2, 1, *shape)
    more = [2 * network.margin + 1 + -(side + 2 * network.margin + 5) % network.stride for side in shape]
    pads = [(network.margin, extra - network.margin) for extra in more]
    padded = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), *pads), mode="reflect"))
    with torch.inference_mode():
        maps = network(x).maps
        expected = network.valid(padded).maps[:, :, : shape[0], : shape[1]]
    assert maps.shape == (2, 2, *shape)
    torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize("widths", [MINI, DEEP])
def test_maps_move_with_the_image_by_whole_strides_only(widths):
    network, x = fixed(widths), image(1, 1, 140, 140)
    with torch.inference_mode():
        maps = network.valid(x[:, :, :132, :132]).maps
        moved = network.valid(x[:, :, network.stride : 132 + network.stride, :132]).maps
        between = network.valid(x[:, :, 1:133, :132]).maps
    torch.testing.assert_close(moved[:, :, : -network.stride], maps[:, :, network.stride :])
    assert not torch.allclose(between[:, :, :-1], maps[:, :, 1:])


def test_tiled_is_whole():
    pixels = image(1, 90, 203).float().numpy()
    device = open_device("cpu", "fp32")
    ((_, whole),) = infer(fixed().float(), [("a", pixels)], device, Tiling())
    ((_, tiled),) = infer(fixed().float(), [("a", pixels)], device, Tiling(tile=80, overlap=32))  # a quarter: 8
    np.testing.assert_allclose(tiled.astype(float), whole, atol=2e-3)


def test_the_style_needs_the_encoder_alone():
    network, x = fixed(), image(2, 1, 40, 33)
    with torch.inference_mode():
        style = network(x).style
        network.up = network.head = None
        torch.testing.assert_close(network.styles(x), style)
    torch.testing.assert_close(style.norm(dim=1), torch.ones(2))


def test_parts_hold_one_another():
    network = MiniUNet()
    sizes = [sum(count(module) for module in network.parts()[part]) for part in ("head", "decoder", "all")]
    assert sizes == [4_290, 4_290 + count(network.up), 184_410]


def test_the_middle_is_cut_out():
    assert crop(torch.arange(36.0).view(1, 1, 6, 6), (2, 4))[0, 0].tolist() == [[13, 14, 15, 16], [19, 20, 21, 22]]


def authors_state(first=4, channels=2):
    """Names and shapes as in the authors' files of two-dimensional models."""
    generator = torch.Generator().manual_seed(2)
    blocks = {
        "backbone.l_conv.0.conv_pass": (channels, first),
        "backbone.l_conv.1.conv_pass": (first, 3 * first),
        "backbone.r_conv.0.0.conv_pass": (4 * first, FEATURES),
    }
    layers = {
        f"{block}.{2 * i}": (outputs if i else inputs, outputs, kernel)
        for block, (inputs, outputs) in blocks.items()
        for i, kernel in enumerate((3, 1, 1, 3))
    }
    layers |= {"head.0": (FEATURES, FEATURES, 1), "head.2": (FEATURES, 2, 1)}
    state = {}
    for name, (inputs, outputs, kernel) in layers.items():
        shape = (outputs, inputs, kernel, kernel)
        scale = (2 / (inputs * kernel**2)) ** 0.5
        state[f"{name}.weight"] = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        state[f"{name}.bias"] = torch.randn(outputs, generator=generator, dtype=torch.float64)
    return state


def authors_forward(state, x):
    """Their network, layer by layer: maps are (x, y)."""

    def block(name, x):
        for i in (0, 2, 4, 6):
            x = F.relu(F.conv2d(x, state[f"{name}.{i}.weight"], state[f"{name}.{i}.bias"]))
        return x

    left = block("backbone.l_conv.0.conv_pass", x)
    up = block("backbone.l_conv.1.conv_pass", F.max_pool2d(left, 2)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = block("backbone.r_conv.0.0.conv_pass", torch.cat([left[:, :, 4:-4, 4:-4], up], 1))
    x = F.relu(F.conv2d(x, state["head.0.weight"], state["head.0.bias"]))
    return F.conv2d(x, state["head.2.weight"], state["head.2.bias"])


def test_weights_of_the_authors_give_their_maps_as_y_and_x():
    state, x = authors_state(), image(2, 2, 60, 44)
    network = MiniUNet(2, 2, (4, 12)).double()
    network.load_state_dict(from_authors(state))
    with torch.inference_mode():
        torch.testing.assert_close(network.valid(x).maps.flip(1), authors_forward(state, x))


def test_other_weights_are_refused():
    with pytest.raises(ModelError, match=r"'layer1.weight' is no weight of a mini U-Net \(give the authors' model_st"):
        from_authors({"layer1.weight": torch.zeros(1)})


def test_wrong_channel_count_names_the_repair():
    with pytest.raises(ModelError, match=r"takes 1 channels, but the image has 3 \(choose channels with --channels"):
        MiniUNet(widths=MINI)(torch.zeros(1, 3, 40, 40))


def test_sides_without_output_are_told_with_those_that_have_one():
    with pytest.raises(ModelError, match=r"no output for 40 x 41 pixels \(use sides of 18, 20, 22, ...\)"):
        MiniUNet(widths=MINI).valid(torch.zeros(1, 1, 40, 41))
    with pytest.raises(ModelError, match=r"no output for 84 x 100 pixels \(use sides of 92, 100, 108, ...\)"):
        MiniUNet(widths=DEEP).valid(torch.zeros(1, 1, 84, 100))


def test_one_level_is_no_u_net():
    with pytest.raises(ModelError, match=r"two widths or more, got \(24,\) \(e.g. 24,72\)"):
        MiniUNet(widths=(24,))
