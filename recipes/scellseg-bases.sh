#!/usr/bin/env bash
# Trains the five models that Scellseg compares, under one recipe: same images, network body, crops and schedule.
#
#   recipes/scellseg-bases.sh DATA... OUT
#
# DATA: folders of labelled images in any layout, or a table pairs.csv (columns image,labels). OUT gets unet2.ckpt,
# unet3.ckpt, hover.ckpt, cellpose.ckpt and scellseg.ckpt. Interrupted, it goes on when run again; what is there is
# skipped. As in the paper: 500 epochs of batches of 8 crops of 224 at 30 px per cell, SGD with momentum 0.9, a warm-up
# of 10 epochs, the rate halved every 10 of the last 100; rate 0.2 for maps of directions, 0.002 for U-Nets. Not as in
# the paper: three channels (grey images are repeated), and intensities are augmented as cellkit does.
#
# Environment, each with its default:
#   MODELS="unet2 unet3 hover cellpose scellseg"   which, in this order
#   NAMES=              file that lists the images to learn from, one per line; all
#   VAL=                file, folder or fraction for --val: the best weights are kept; none: the last, as in the paper
#   EPOCHS=500          of all images; STEPS= in its place: gradient steps
#   WIDTHS=32,64,128,256  CROP=224  BATCH=8  DIAMETER=30  SEED=0
#   RATE_MAPS=0.2       of flow and hover; RATE_UNETS=0.002: of mask and border
#   SETTINGS=           more NAME=VALUE of 'cellkit pretrain --settings', separated by blanks
#   DEVICE=auto PRECISION=auto
# On two CPU cores e.g. STEPS=2000 WIDTHS=8,16,32,64 CROP=128.
set -euo pipefail
if (($# < 2)); then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
fi
data=("${@:1:$#-1}") output=${!#}
trap 'exit 130' INT TERM
mkdir -p "$output"

names=(${NAMES:+--names "$NAMES"})
held=(${VAL:+--val "$VAL"})
batch=${BATCH:-8}
if [[ -z ${STEPS:-} ]]; then
    images=$(cellkit pretrain "${data[@]}" -o "$output/unet2.ckpt" "${names[@]}" "${held[@]}" --dry-run --quiet |
        awk -F '\t' '$1 == "learn" { print $2 + 0; exit }')
    STEPS=$((${EPOCHS:-500} * ((images + batch - 1) / batch)))
fi
read -ra more <<<"${SETTINGS:-}"
settings=(
    channels=3 colour=rgb
    widths="${WIDTHS:-32,64,128,256}" crop="${CROP:-224}" batch="$batch"
    optimiser=sgd momentum=0.9 weight_decay=1e-5
    schedule=flat-decay warmup=$((STEPS / 50)) decay=$((STEPS / 5))
    "${more[@]}"
)

train() { # MODEL NETWORK REPRESENTATION RATE
    cellkit pretrain "${data[@]}" -o "$output/$1.ckpt" "${names[@]}" "${held[@]}" \
        --network "$2" --representation "$3" --steps "$STEPS" --lr "$4" --diameter "${DIAMETER:-30}" \
        --device "${DEVICE:-auto}" --precision "${PRECISION:-auto}" --seed "${SEED:-0}" "${settings[@]/#/--set=}"
}

failed=()
for model in ${MODELS:-unet2 unet3 hover cellpose scellseg}; do
    case $model in
        unet2) kind=(unet mask "${RATE_UNETS:-0.002}") ;;
        unet3) kind=(unet border "${RATE_UNETS:-0.002}") ;;
        hover) kind=(unet hover "${RATE_MAPS:-0.2}") ;;
        cellpose) kind=(unet flow "${RATE_MAPS:-0.2}") ;;
        scellseg) kind=(style-unet flow "${RATE_MAPS:-0.2}") ;;
        *)
            echo "scellseg-bases: MODELS: there is no $model (choose from unet2 unet3 hover cellpose scellseg)" >&2
            exit 2
            ;;
    esac
    train "$model" "${kind[@]}" || failed+=("$model")
done
if ((${#failed[@]})); then
    echo "scellseg-bases: not trained: ${failed[*]} (run it again to go on)" >&2
    exit 1
fi
