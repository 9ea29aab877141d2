"""cellpose 3.1 at work, in an environment of its own; imports nothing of cellkit.

Reads one JSON message per line from stdin, answers each with one line on stdout. Messages: ``threads`` (count),
``versions``, ``prepare`` (task, arrays, options), ``run`` (task), ``results`` (task).
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Work = Callable[[], list[Array]]
Task = Callable[..., Work]  # (arrays, **options) -> what is timed

WIDTHS = [32, 64, 128, 256]
CPU = "cpu"
LEARNING_RATE, WEIGHT_DECAY = 0.005, 1e-5  # defaults of cellpose.train.train_seg
SCALE_RANGE = 0.5  # the same, where images are rescaled to the mean diameter


def network(images: list[Array], *, mkldnn: bool) -> Work:
    """run_net of CellposeModel with random weights; images (2, H, W), normalised."""
    from cellpose.core import run_net
    from cellpose.models import CellposeModel

    model = CellposeModel(gpu=False, pretrained_model=False, mkldnn=mkldnn)
    last = [np.ascontiguousarray(image.transpose(1, 2, 0))[None] for image in images]  # (1, H, W, 2)
    return lambda: [run_net(model.net, image)[0] for image in last]


def targets(labels: list[Array]) -> Work:
    """masks_to_flows on the CPU: labels (H, W) -> (2, H, W)."""
    import torch
    from cellpose.dynamics import masks_to_flows

    whole = [label.astype(int) for label in labels]  # as labels_to_flows does
    return lambda: [masks_to_flows(label, device=torch.device(CPU)) for label in whole]


def decode(maps: list[Array]) -> Work:
    """compute_masks with the defaults of CellposeModel.eval: maps (3, H, W), flow y, flow x, logit -> (H, W)."""
    import torch
    from cellpose.dynamics import resize_and_compute_masks

    pairs = [(np.ascontiguousarray(m[:2], np.float32), np.ascontiguousarray(m[2], np.float32)) for m in maps]
    return lambda: [resize_and_compute_masks(flow, logit, device=torch.device(CPU)) for flow, logit in pairs]


def training(arrays: list[Array], *, batch: int, steps: int, crop: int, seed: int) -> Work:
    """Steps of train_seg on images (2, H, W) and labels (H, W) in turns, flows computed before."""
    import torch
    from cellpose import dynamics, train, transforms, utils
    from cellpose.resnet_torch import CPnet

    images, labels = arrays[::2], arrays[1::2]
    flows = dynamics.labels_to_flows([label.astype(np.int32) for label in labels], device=torch.device(CPU))
    diameters = np.array([max(utils.diameters(label)[0], 5.0) for label in labels])  # 5: as train_seg has it
    net = CPnet([2, *WIDTHS], 3, sz=3).train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    random = np.random.RandomState(seed)
    np.random.seed(seed)  # noqa: NPY002

    def step() -> Array:
        chosen = random.permutation(np.arange(len(images)))[:batch]
        crops, truth = transforms.random_rotate_and_resize(
            [images[i] for i in chosen],
            Y=[flows[i][1:] for i in chosen],
            rescale=diameters[chosen] / net.diam_mean.item(),
            scale_range=SCALE_RANGE,
            xy=(crop, crop),
        )[:2]
        outputs = net(torch.from_numpy(crops))[0]
        loss = train._loss_fn_seg(truth, outputs, torch.device(CPU))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return np.array(loss.item())

    return lambda: [step() for _ in range(steps)]


TASKS: dict[str, Task] = {"network": network, "targets": targets, "decode": decode, "training": training}


def versions() -> dict[str, str]:
    """Of the packages that the timings depend on."""
    from importlib.metadata import version

    names = ("cellpose", "torch", "numpy", "numba", "scipy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


class Server:
    """Answers messages; keeps prepared tasks and their last results."""

    def __init__(self, tasks: dict[str, Task]) -> None:
        self.tasks = tasks
        self.work: dict[str, Work] = {}
        self.last: dict[str, list[Array]] = {}

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """One message; what goes wrong becomes an answer too."""
        try:
            handle: Callable[[dict[str, Any]], dict[str, Any]] = getattr(self, f"on_{message['do']}")
            return handle(message)
        except Exception:  # noqa: BLE001 - whatever it is, the other side has to hear of it
            return {"error": traceback.format_exc()}

    def on_threads(self, message: dict[str, Any]) -> dict[str, Any]:
        import torch

        torch.set_num_threads(message["count"])
        return {}

    def on_versions(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"versions": versions()}

    def on_prepare(self, message: dict[str, Any]) -> dict[str, Any]:
        arrays = [np.load(path) for path in message["arrays"]]
        self.work[message["task"]] = self.tasks[message["task"]](arrays, **message["options"])
        return {}

    def on_run(self, message: dict[str, Any]) -> dict[str, Any]:
        work = self.work[message["task"]]
        begun = time.perf_counter()
        results = work()
        seconds = time.perf_counter() - begun
        self.last[message["task"]] = results
        return {"seconds": seconds}

    def on_results(self, message: dict[str, Any]) -> dict[str, Any]:
        paths = []
        for number, array in enumerate(self.last[message["task"]]):
            path = Path.cwd() / f"{message['task']}-result-{number}.npy"
            np.save(path, array)
            paths.append(str(path))
        return {"arrays": paths}


def serve(tasks: dict[str, Task], messages: Iterable[str], answers: TextIO) -> None:
    """Answer messages until there are no more."""
    server = Server(tasks)
    for line in messages:
        answers.write(json.dumps(server.answer(json.loads(line))) + "\n")
        answers.flush()


def main() -> None:
    """Serve on stdin and stdout; whatever else is printed goes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(TASKS, sys.stdin, answers)


if __name__ == "__main__":
    main()
