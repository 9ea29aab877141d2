"""Put a model card into a checkpoint: python recipes/write-card.py CARD.json MODEL.ckpt OUT.ckpt."""

import dataclasses
import json
import sys
from pathlib import Path

from cellkit.io.checkpoints import load_checkpoint, save_checkpoint

card, model, output = map(Path, sys.argv[1:])
checkpoint = load_checkpoint(model)
carded = dataclasses.replace(checkpoint, card=json.loads(card.read_text(encoding="utf-8")))
save_checkpoint(output, carded, half=True)
