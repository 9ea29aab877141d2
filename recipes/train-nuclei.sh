#!/usr/bin/env bash
# Trains the bundled model 'nuclei' on dsb2018 (BBBC038, CC0): learns from train.txt alone, chooses by val.txt.
#
#   recipes/train-nuclei.sh DSB2018 OUT.ckpt [more options of cellkit pretrain]
#
# DSB2018 holds images/, labels/, train.txt and val.txt. Interrupted, it goes on when run again. Twenty minutes on a
# data-centre GPU; on CPUs add e.g. --steps 2000 --set batch=8 --set crop=192 --set widths=16,32,64,128.
set -euo pipefail
data=$1 output=$2
shift 2

settings=(
    channels=3 colour=rgb                          # grey images are repeated: one model for grey and stained
    batch=32 crop=256 scale=0.4,2.5                # nuclei of 8 to 100 px without a diameter
    invert=0.25 shuffle=0.3 grey=0.3 noise=0.08    # bright on dark, dark on bright, any stain, low contrast
    flow_threshold=1.6 min_area=25                 # chosen by val.txt; a nucleus of 8 px has 50 pixels
    warmup=200 weight_decay=0.01 ema=0.999
    validate_every=500 save_every=1000 log_every=50
    half=true
)
train() { # OUT STEPS RATE SCHEDULE [more]
    cellkit pretrain "$data" -o "$1" \
        --names "$data/train.txt" --val "$data/val.txt" --network unet --representation flow \
        --steps "$2" --lr "$3" --set schedule="$4" --seed 1 "${settings[@]/#/--set=}" "${@:5}"
}
explored="${output%.ckpt}.explored.ckpt"
train "$explored" 6000 2e-3 constant "$@"                          # a constant rate explores ...
train "$output" 5400 1e-3 cosine --set init="$explored" "$@"       # ... a falling one settles
# the bundled file also has the model card (recipes/write-card.py) and crops for tuning (recipes/add-contrast.py)
