"""The pyramid: literal sums, shapes, sizes that do not fit."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cellkit.errors import ModelError
from cellkit.networks.fpn import FPN
from cellkit.networks.resnet import Bottleneck, resnet


def tiny(norm="none"):
    torch.manual_seed(0)
    return FPN(resnet(Bottleneck, (1, 1, 1, 1), width=4, norm="frozen-bn"), 6, norm=norm).eval()


def test_parameter_count_on_stages_of_256_to_2048_channels():
    with torch.device("meta"):
        network = FPN(resnet(Bottleneck, (1, 1, 1, 1), norm="bn"), 256, norm="bn")
    assert network.bottom_up.widths == (256, 512, 1024, 2048)
    own = [p.numel() for name, p in network.named_parameters() if not name.startswith("bottom_up.")]
    assert sum(own) == 3_346_432


def test_names_are_those_of_detectron2():
    names = {name for name in tiny().state_dict() if not name.startswith("bottom_up.")}
    kinds = ("fpn_lateral", "fpn_output")
    assert names == {f"{kind}{level}.{n}" for kind in kinds for level in range(2, 6) for n in ("weight", "bias")}
    normed = {name for name in tiny("bn").state_dict() if name.startswith("fpn_lateral2.")}
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert normed == {"fpn_lateral2.weight", *(f"fpn_lateral2.norm.{name}" for name in statistics)}


def test_levels_equal_the_literal_sums():
    network = tiny()
    stages = network.bottom_up(torch.rand(2, 3, 64, 96))
    above, expected = None, []
    for level in (5, 4, 3, 2):
        lateral, output = (getattr(network, f"fpn_{kind}{level}") for kind in ("lateral", "output"))
        own = torch.einsum("oc,bchw->bohw", lateral.weight[:, :, 0, 0], stages[level - 2])
        own = own + lateral.bias[:, None, None]
        if above is not None:
            for row in range(own.shape[2]):
                for column in range(own.shape[3]):
                    own[:, :, row, column] += above[:, :, row // 2, column // 2]
        above = own
        expected.insert(0, F.conv2d(own, output.weight, output.bias, padding=1))
    expected.append(expected[-1][:, :, ::2, ::2])
    for level, wanted in zip(network.pyramid(stages), expected, strict=True):
        torch.testing.assert_close(level, wanted, rtol=1e-4, atol=1e-5)


def test_no_relu_ends_a_level():
    assert all((level < 0).any() for level in tiny()(torch.rand(1, 3, 64, 64)))


def test_every_level_learns_through_those_below():
    network = tiny("group-norm")
    network(torch.rand(1, 3, 64, 64))[0].square().sum().backward()
    for level in range(2, 6):
        assert getattr(network, f"fpn_lateral{level}").weight.grad.abs().sum() > 0
    assert network.fpn_output5.weight.grad is None


@pytest.mark.parametrize("size", [(520, 704), (512, 700)])
def test_sizes_that_do_not_fit_name_the_repair(size):
    with pytest.raises(ModelError, match=rf"does not fit {size[0]} x {size[1]} pixels \(pad images to multiples of 32"):
        tiny()(torch.zeros(1, 3, *size))
