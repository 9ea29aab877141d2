#!/usr/bin/env bash
# Trains the bundled model 'nuclei' on dsb2018 (BBBC038, CC0): learns from train.txt alone, chooses by val.txt.
#
#   recipes/train-nuclei.sh DSB2018 OUT.ckpt [more options of cellkit pretrain]
#
# DSB2018 holds images/, labels/, train.txt and val.txt. Interrupted, it goes on when run again.
set -euo pipefail
data=$1 output=$2
shift 2

cellkit pretrain "$data" -o "$output" \
    --names "$data/train.txt" --val "$data/val.txt" \
    --network style-unet --representation flow \
    --steps 8000 --lr 2e-3 --seed 1 \
    --set channels=3 --set colour=rgb --set batch=32 --set crop=256 \
    --set half=true "$@"
