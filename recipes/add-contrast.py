"""Give a checkpoint a few crops of what it learned from, for contrastive fine-tuning; those of 'pretrain' have them.

python recipes/add-contrast.py DATA NAMES.txt MODEL.ckpt OUT.ckpt: DATA is what it was trained on, NAMES.txt lists the
images that it learned from. Three crops of 192 pixels of each of seven kinds: about 2 MB.
"""

import dataclasses
import sys
from pathlib import Path

from cellkit.data.augment import Augmentation
from cellkit.data.layouts import find_pairs, read_names, select
from cellkit.engine import open_device, prepare
from cellkit.io.checkpoints import load_checkpoint, save_checkpoint
from cellkit.representations import REPRESENTATIONS
from cellkit.stages.model import network_of
from cellkit.stages.pretraining import training_set
from cellkit.stages.styles import contrast_crops

data, names, model, output = sys.argv[1:]
checkpoint = load_checkpoint(Path(model))
device = open_device("auto", "auto")
network = prepare(network_of(checkpoint, model), device)
pairs = select(find_pairs(data), read_names(names)).pairs
representation = REPRESENTATIONS[checkpoint.representation.name]
learned = training_set(pairs, checkpoint.preprocessing, representation, Augmentation(), device)
crops = contrast_crops(network, learned, device, per_style=3, side=192, seed=1)
save_checkpoint(Path(output), dataclasses.replace(checkpoint, contrast=crops), half=True)
