"""Flows and masks by cellpose 3.1, as small golden arrays: run with the Python of an environment that holds it.

    python tests/golden/make_cellpose_flows.py OUT.npz LABELS.png [LABELS.png ...]

The committed file was made from these label images of BBBC038 / dsb2018 (CC0): 094afe36759e7daf, 4217e25defac94ff,
4d09672bcf5a2661, d910b2b1be8406ca. Of each the 128 x 128 pixels with the most cell are taken. Arrays NAME_flows and
NAME_maps are int8 in steps of 1/100 and 1/16; maps are the flows times 5 and a cell logit, smoothed and with smooth
noise, as a network would put out.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from cellpose import dynamics, io
from scipy.ndimage import gaussian_filter, uniform_filter

SIDE = 128
FLOW_STEPS, MAP_STEPS = 100, 16


def fullest(labels: np.ndarray) -> np.ndarray:
    """The SIDE x SIDE pixels with the most cell in them, labels numbered from 1."""
    filled = uniform_filter((labels > 0).astype(float), SIDE, mode="constant")
    half = SIDE // 2
    inside = filled[half : labels.shape[0] - half + 1, half : labels.shape[1] - half + 1]
    top, left = np.unravel_index(inside.argmax(), inside.shape)
    crop = labels[top : top + SIDE, left : left + SIDE]
    ids = np.unique(crop[crop > 0])
    return np.where(crop > 0, np.searchsorted(ids, crop) + 1, 0).astype(np.int32)


def noisy_maps(flows: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """(3, H, W) int8 maps."""
    generator = np.random.default_rng(seed)
    noise = gaussian_filter(generator.standard_normal((3, *labels.shape)), (0, 1.5, 1.5))
    clean = np.concatenate([5 * flows, np.where(labels > 0, 5.0, -5.0)[None]])
    maps = gaussian_filter(clean, (0, 0.7, 0.7)) + noise * np.array([3, 3, 6])[:, None, None]
    return np.clip(np.round(maps * MAP_STEPS), -127, 127).astype(np.int8)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("labels", type=Path, nargs="+")
    arguments = parser.parse_args()
    cpu = torch.device("cpu")
    arrays: dict[str, np.ndarray] = {}
    for seed, path in enumerate(arguments.labels):
        labels = fullest(io.imread(str(path)))
        flows = dynamics.masks_to_flows(labels, device=cpu)
        maps = noisy_maps(flows, labels, seed)
        values = maps.astype(np.float32) / MAP_STEPS
        masks = dynamics.compute_masks(values[:2], values[2], niter=200, min_size=15, max_size_fraction=1.0, device=cpu)
        arrays |= {
            f"{path.stem}_labels": labels.astype(np.uint8),
            f"{path.stem}_flows": np.round(flows * FLOW_STEPS).astype(np.int8),
            f"{path.stem}_maps": maps,
            f"{path.stem}_masks": masks.astype(np.uint8),
        }
    np.savez_compressed(arguments.output, **arrays)


if __name__ == "__main__":
    main()
