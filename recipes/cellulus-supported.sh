#!/usr/bin/env bash
# What pseudo labels add to a few labelled cells (Figure 5 of the paper): trains on a part of the labels alone, on that
# part and pseudo labels, and on pseudo labels alone, and scores all on other images.
#
#   recipes/cellulus-supported.sh DATA OUT
#
# DATA: images with labels in any layout, to draw labelled cells from: those of NAMES. TEST_NAMES (of DATA) or TEST
# (other images): labelled images to score on; none may be among those that are learned from (names and contents are
# compared). The pseudo labels are PSEUDO, or those of a model that learned from the same images without labels, as
# cellulus.sh trains it in OUT/pseudo; it is scored too. All runs are told one diameter of the cells. OUT gets
# results.csv, tables.md, figure.svg. Finished runs are not run again; interrupted, it goes on when run again. Draw by
# draw: the tables, which are written after each, are whole for as many draws as there are.
#
# Environment, each with its default:
#   NAMES=              file that lists the images to learn from, one per line; all of DATA
#   TEST=  TEST_NAMES=  one of them, or both
#   FRACTIONS="0.01 0.05 0.10 1"  DRAWS="0 1 2"       a draw seeds the choice of cells and the training
#   PSEUDO=             label images of the images to learn from, by name
#   OBJECT_SIZE=        diameter of a cell in pixels; estimated from the images. With each, which is also what they
#                       may tell, the model without labels brings each image to its own size; others know the median
#   ALPHA=0.5           weight of the loss on pseudo labels
#   STEPS=2000  LR=1e-3  BATCH=8  CROP=224  NETWORK=mini-unet  REPRESENTATION=star
#   WIDTHS=             of the network; its own, 24,48,96,192 of the mini U-Net
#   SETTINGS=           more NAME=VALUE of 'cellkit finetune --method supported --settings', separated by blanks
#   OCE_STEPS=1000  OCE_LR=1e-3  OCE_BATCH=8  OCE_CROP=128  OCE_WIDTHS=24,72  OCE_SETTINGS=  DECODE=
#                       of the model without labels, as STEPS and so on of cellulus.sh
#   METRICS="f1@0.5 ctc/SEG"
#   DEVICE=auto PRECISION=auto WORKERS=1
#   KEEP=               yes: label images and states of trainings stay; no: they go when they are scored
#   PYTHON=python       one that has cellkit
set -euo pipefail
if (($# != 2)); then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
fi
data=$1 output=$2
trap 'exit 130' INT TERM
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}
truth=${TEST:-$data}
alpha=${ALPHA:-0.5}
if [[ -z ${TEST:-}${TEST_NAMES:-} ]]; then
    echo "cellulus-supported: no images to score on (set TEST_NAMES, a list of images of DATA, or TEST)" >&2
    exit 2
fi
machine=(--device "${DEVICE:-auto}" --precision "${PRECISION:-auto}")
read -ra metrics <<<"${METRICS:-f1@0.5 ctc/SEG}"
read -ra more <<<"${SETTINGS:-}"
read -ra decode <<<"${DECODE:-}"
settings=(batch="${BATCH:-8}" crop="${CROP:-224}" ${WIDTHS:+"widths=$WIDTHS"} "${more[@]}")
training=(--steps "${STEPS:-2000}" --lr "${LR:-1e-3}" --network "${NETWORK:-mini-unet}"
    --representation "${REPRESENTATION:-star}" "${settings[@]/#/--set=}")
without_labels=(STEPS="${OCE_STEPS:-1000}" LR="${OCE_LR:-1e-3}" BATCH="${OCE_BATCH:-8}" CROP="${OCE_CROP:-128}"
    WIDTHS="${OCE_WIDTHS:-24,72}" SETTINGS="${OCE_SETTINGS:-}" DECODE="${DECODE:-}")

mkdir -p "$output"
images="$output/images"
"$python" "$here/cellulus_images.py" "$data" "$images" labels=yes names="${NAMES:-}" test="${TEST:-}" \
    test_names="${TEST_NAMES:-}" size="${OBJECT_SIZE:-}" alpha="$alpha" "training=${training[*]}" \
    "pseudo=${PSEUDO:-${without_labels[*]}}"
size=$(<"$images/size.txt")

# The parts of a run follow each other by &&: where a function is asked whether it failed, set -e does not hold in it.

is_newer() { # FILE OTHER: it is there, and the other was not written since
    [[ -s $1 && ! $2 -nt $1 ]]
}

score() { # MODEL SCORES.json and options...
    ! is_newer "$2" "$1" || return 0
    local labels=${2%.json}
    mkdir -p "$labels" &&
        cellkit segment "$images/test" -o "$labels/" -m "$1" "${@:3}" "${machine[@]}" \
            --workers "${WORKERS:-1}" --quiet &&
        cellkit evaluate "$truth" "$labels" --names "$images/test.txt" --json --no-surfaces --quiet >"$2.part" &&
        mv "$2.part" "$2" && { [[ ${KEEP:-} == yes ]] || rm -r "$labels"; }
}

train_and_score() { # METHOD FRACTION DRAW and options...
    local folder="$output/runs/$1/fraction$2-draw$3"
    [[ ! -s $folder/scores.json ]] || return 0
    mkdir -p "$folder" &&
        cellkit finetune "$images/learn" -o "$folder/tuned.ckpt" --method supported "${@:4}" --diameter "$size" \
            "${training[@]}" --seed "$3" "${machine[@]}" --quiet &&
        score "$folder/tuned.ckpt" "$folder/scores.json" &&
        { [[ ${KEEP:-} == yes ]] || rm -f "$folder/tuned.last.ckpt"; }
}

labelled_part() { # FRACTION DRAW: labels of a part of the cells, which is there afterwards
    cellkit convert "$images/labels" -o "$output/sparse/fraction$1-draw$2/" --keep-fraction "$1" --seed "$2" --quiet
}

failed=()
pseudo=${PSEUDO:-$output/pseudo/labels/oce}
if [[ -z ${PSEUDO:-} ]]; then
    names=()
    [[ -z ${NAMES:-} ]] || names=(NAMES="$NAMES" TEST_NAMES="$NAMES")
    env NAMES= TEST= TEST_NAMES= METHODS=oce OBJECT_SIZE="$(<"$images/told.txt")" "${without_labels[@]}" "${names[@]}" \
        "$here/cellulus.sh" "$data" "$output/pseudo" >&2
    score "$output/pseudo/oce.ckpt" "$output/oce.json" "${decode[@]/#/--set=}" || failed+=("Cellulus itself")
fi

for draw in ${DRAWS:-0 1 2}; do
    printf 'pseudo labels alone, draw %s\n' "$draw" >&2
    train_and_score pseudo 0 "$draw" --pseudo "$pseudo" --alpha 1 || failed+=("pseudo labels alone draw $draw")
    for fraction in ${FRACTIONS:-0.01 0.05 0.10 1}; do
        printf '%s of the labels, draw %s\n' "$fraction" "$draw" >&2
        sparse="$output/sparse/fraction$fraction-draw$draw"
        { labelled_part "$fraction" "$draw" &&
            train_and_score sparse "$fraction" "$draw" --labels "$sparse" --alpha 0; } ||
            failed+=("fraction $fraction draw $draw, labels alone")
        { labelled_part "$fraction" "$draw" &&
            train_and_score supported "$fraction" "$draw" --labels "$sparse" --pseudo "$pseudo" --alpha "$alpha"; } ||
            failed+=("fraction $fraction draw $draw, labels and pseudo labels")
    done
    "$python" "$here/cellulus_report.py" supported "$output" "${metrics[@]}" >/dev/null ||
        failed+=("the report of draw $draw")
done
[[ ! -s $output/tables.md ]] || cat "$output/tables.md"
if ((${#failed[@]})); then
    printf 'cellulus-supported: failed: %s (run it again to go on)\n' "${failed[@]}" >&2
    exit 1
fi
