"""Devices: what is there, what is refused, and how precise it is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from cellkit.engine import Device, open_device, prepare
from cellkit.engine import device as device_module
from cellkit.errors import DeviceError, UsageError

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    """Two CUDA devices, as far as the names go."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cuda", "cuda: no CUDA device here (use --device cpu or auto)"),
        ("cuda:1", "cuda:1: no CUDA device here (use --device cpu or auto)"),
        ("mps", "mps: no Apple GPU here (use --device cpu or auto)"),
        ("gpu", "gpu: unknown device (choose from auto, cpu, cuda, cuda:N, mps)"),
        ("cpu:1", "cpu:1: unknown device (choose from auto, cpu, cuda, cuda:N, mps)"),
        ("cuda:x", "cuda:x: unknown device (choose from auto, cpu, cuda, cuda:N, mps)"),
    ],
)
@pytest.mark.usefixtures("no_gpu")
def test_a_device_that_is_not_there_is_an_error(name, text):
    with pytest.raises(DeviceError) as caught:
        open_device(name)
    assert str(caught.value) == text
    assert caught.value.code == 2


@pytest.mark.usefixtures("no_gpu")
def test_auto_without_a_gpu_is_the_cpu():
    assert open_device("auto", "fp32").torch_device == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
def test_names_of_gpus(monkeypatch):
    assert open_device("cuda").torch_device == torch.device("cuda", 0)
    assert open_device("cuda:1").torch_device == torch.device("cuda", 1)
    with pytest.raises(DeviceError) as caught:
        open_device("cuda:2")
    assert str(caught.value) == "cuda:2: the last CUDA device here is cuda:1 (use --device cuda:1)"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert open_device("auto").torch_device == torch.device("cuda", 1)


@pytest.mark.usefixtures("two_gpus")
def test_a_precision_that_is_not_there_is_an_error():
    assert open_device("cuda").precision == "fp32"
    assert open_device("cuda", "fp16").precision == "fp16"
    with pytest.raises(DeviceError) as caught:
        open_device("cuda", "bf16")
    assert str(caught.value) == "bf16: cuda:0 does not compute in it (use --precision fp16, fp32 or auto)"
    torch.set_float32_matmul_precision("highest")


def test_precisions_of_the_cpu(monkeypatch):
    with pytest.raises(DeviceError) as caught:
        open_device("cpu", "fp16")
    assert str(caught.value) == "fp16: the CPU does not compute in it (use --precision bf16, fp32 or auto)"
    with pytest.raises(DeviceError) as caught:
        open_device("cpu", "int8")
    assert str(caught.value) == "int8: unknown precision (choose from auto, fp32, bf16, fp16)"
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert open_device("cpu").precision == "fp32"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert open_device("cpu").precision == "bf16"


def test_threads_come_from_the_option_then_openmp_then_the_affinity(monkeypatch):
    before = torch.get_num_threads()
    try:
        open_device("cpu", threads=1)
        assert torch.get_num_threads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
        open_device("cpu")
        assert torch.get_num_threads() == 2
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
        open_device("cpu")
        assert torch.get_num_threads() == 3
        assert open_device("cpu", "fp32").description == "cpu (3 threads), fp32"
    finally:
        torch.set_num_threads(before)


def test_no_threads_are_refused():
    with pytest.raises(UsageError) as caught:
        open_device("cpu", threads=0)
    assert str(caught.value) == "0: not a number of threads (use 1 or more)"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is of Linux")
def test_malloc_keeps_what_was_freed():
    """The big block of a freed tensor stays in the process only with the tuning."""
    code = """
import torch
from cellkit.engine.device import tune_malloc
accepted = {tune}
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
block = torch.ones(2**25)
del block
torch.ones(1)
print(accepted, resident())
"""
    results = []
    for tune in ("False", "tune_malloc()"):
        run = subprocess.run([sys.executable, "-c", code.format(tune=tune)], capture_output=True, text=True, check=True)
        results.append(run.stdout.split())
    if results[1][0] == "False":
        pytest.skip("the C library has no mallopt")
    assert int(results[1][1]) - int(results[0][1]) > 100 * 2**20


def test_other_systems_have_nothing_to_tune(monkeypatch):
    monkeypatch.setattr(device_module.sys, "platform", "darwin")
    assert device_module.tune_malloc() is False


def test_prepare_puts_convolutions_into_channels_last(cpu):
    module = prepare(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Linear(3, 3)), cpu)
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last)


def agreement(first: Device, second: Device) -> float:
    """Largest difference of a small U-Net's maps between two devices, relative to their spread."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(32, 3, 3, padding=1),
    ).eval()
    x = torch.rand(2, 2, 64, 64)
    maps = []
    for device in (first, second):
        with torch.inference_mode(), device.autocast():
            maps.append(prepare(network, device)(x.to(device.torch_device)).float().cpu())
    return float((maps[0] - maps[1]).abs().max() / maps[0].std())


def test_bf16_agrees_with_fp32(cpu):
    difference = agreement(cpu, open_device("cpu", "bf16"))
    assert 0 < difference < 0.05  # bf16 has 8 bits


@needs_cuda
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 0.01), ("auto", 0.05), ("fp16", 0.01)])
def test_cuda_agrees_with_the_cpu(cpu, precision, limit):
    assert agreement(cpu, open_device("cuda", precision)) < limit


@needs_cuda
def test_a_gpu_names_itself():
    assert torch.cuda.get_device_name(0) in open_device("cuda").description
