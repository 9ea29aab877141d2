#!/usr/bin/env bash
# Fine-tunes each base on a few labelled images and scores it on others: models x shots x draws (Scellseg, Fig. 5).
#
#   recipes/scellseg-shots.sh BASES POOL TEST OUT
#
# BASES: folder of unet2.ckpt, ..., as scellseg-bases.sh makes it. POOL: labelled images from which shots are drawn.
# TEST: labelled images to score on; none may be in the pool (names and contents are compared). OUT gets results.csv,
# tables.md, figure.svg, and for RETAIN retained.csv and retained.svg; several datasets may share it, each with a run of
# this script. Finished runs are not run again; interrupted, it goes on when run again. Draw by draw: the tables, which
# are written after each, are whole for as many draws as there are.
#
# Environment, each with its default:
#   DATASET=            name in the tables; that of the folder TEST, or of the one above where that is called test
#   SHOTS="1 3 8"  DRAWS="0 1 2"      the shots of a draw are the same for all models; it seeds the training too
#   METHODS="unet2:classic unet3:classic hover:classic cellpose:classic scellseg:classic scellseg:contrastive"
#   QUERY=              folder of unlabelled images for contrastive; the images of the pool. Not those of TEST, as the
#                       paper has it: a model that has seen the images that it is scored on is transductive, and its
#                       score says nothing of other images
#   CONTRAST=           folder of other kinds of images, a folder each; the crops that travel in the base
#   RETAIN=             labelled images of the base's own kind, to see what it forgets; none. Best those that neither
#                       trained nor chose the bases. RETAIN_NAMES=: file that lists the images to take
#   DIAMETER=30         working diameter of the bases, to which the images of RETAIN are brought once
#   METRICS="ap_dsb@0.5 ap_dsb maji"
#   STEPS=100  CROP=224  RATE=1e-3
#   SETTINGS=           more NAME=VALUE of 'cellkit finetune --settings', separated by blanks
#   DEVICE=auto PRECISION=auto WORKERS=1
#   KEEP=               yes: label images and states of trainings stay; no: they go when they are scored
#   PYTHON=python       one that has cellkit
set -euo pipefail
if (($# != 4)); then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
fi
bases=$1 pool=$2 test=$3 output=$4
trap 'exit 130' INT TERM
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}
name=$(basename "$test")
case $name in test | test.csv) name=$(basename "$(cd "$(dirname "$test")" && pwd)") ;; esac
dataset=${DATASET:-$name}
methods=${METHODS:-unet2:classic unet3:classic hover:classic cellpose:classic scellseg:classic scellseg:contrastive}
machine=(--device "${DEVICE:-auto}" --precision "${PRECISION:-auto}")
read -ra metrics <<<"${METRICS:-ap_dsb@0.5 ap_dsb maji}"
read -ra more <<<"${SETTINGS:-}"
settings=(crop="${CROP:-224}" "${more[@]}")
runs="$output/runs/$dataset"

"$python" "$here/scellseg_target.py" "$pool" "$test" "$runs" steps="${STEPS:-100}" rate="${RATE:-1e-3}" \
    "settings=${settings[*]}" "query=${QUERY:-pool}" "contrast=${CONTRAST:-base}" \
    "retain=${RETAIN:-} ${RETAIN_NAMES:-}" "diameter=${DIAMETER:-30}"
mapfile -t test_images <"$runs/test.txt"
mapfile -t pool_images <"$runs/pool.txt"
typical=$(<"$runs/diameter.txt")
queries=("${pool_images[@]/#/--query=}")
[[ -z ${QUERY:-} ]] || queries=("--query=$QUERY")
contrast=(${CONTRAST:+--contrast "$CONTRAST"})
retained="$output/retained"
if [[ -n ${RETAIN:-} ]]; then
    origin="$RETAIN ${RETAIN_NAMES:-} ${DIAMETER:-30}"
    if [[ ! -d $retained ]]; then
        "$python" "$here/scellseg_rescale.py" "$RETAIN" "$retained" "${DIAMETER:-30}" ${RETAIN_NAMES:+"$RETAIN_NAMES"}
        echo "$origin" >"$retained/origin.txt"
    elif [[ $(<"$retained/origin.txt") != "$origin" ]]; then
        echo "scellseg-shots: $retained: was made from $(<"$retained/origin.txt"), now $origin (choose another OUT)" >&2
        exit 2
    fi
fi

# The parts of a run follow each other by &&: where a function is asked whether it failed, set -e does not hold in it.

is_scored() { # MODEL SCORES.json: a model that was trained again since is not
    [[ -s $2 && ! $1 -nt $2 ]]
}

score() { # MODEL TRUTH SCORES.json IMAGES and options...
    ! is_scored "$1" "$3" || return 0
    local labels=${3%.json}
    mkdir -p "$labels" &&
        cellkit segment "${@:4}" -o "$labels/" -m "$1" "${machine[@]}" --workers "${WORKERS:-1}" --quiet &&
        cellkit evaluate "$2" "$labels" --json --no-surfaces --quiet >"$3.part" &&
        mv "$3.part" "$3" && { [[ ${KEEP:-} == yes ]] || rm -r "$labels"; }
}

score_retained() { # MODEL SCORES.json: at the working diameter, whatever the model was tuned to
    [[ -z ${RETAIN:-} ]] || score "$1" "$retained" "$2" "$retained/images" --diameter "${DIAMETER:-30}"
}

score_base() { # MODEL: once per dataset, at the diameter of the pool
    local scores="$output/bases/$1"
    mkdir -p "$scores" &&
        score "$bases/$1.ckpt" "$test" "$scores/$dataset.target.json" "${test_images[@]}" --diameter "$typical" &&
        score_retained "$bases/$1.ckpt" "$scores/retained.json"
}

tune_and_score() { # MODEL METHOD SHOTS DRAW
    local base="$bases/$1.ckpt" folder="$runs/$1/$2/shots$3-draw$4" unlabelled=()
    if is_scored "$base" "$folder/target.json" && [[ -z ${RETAIN:-} || -s $folder/retained.json ]]; then
        return 0
    fi
    if [[ $2 == contrastive ]]; then
        unlabelled=("${queries[@]}" "${contrast[@]}")
    fi
    mkdir -p "$folder" &&
        cellkit finetune "$pool" -m "$base" -o "$folder/tuned.ckpt" --shots "$3" --draw "$4" --seed "$4" \
            --method "$2" "${unlabelled[@]}" --steps "${STEPS:-100}" --lr "${RATE:-1e-3}" "${settings[@]/#/--set=}" \
            "${machine[@]}" --quiet &&
        score "$folder/tuned.ckpt" "$test" "$folder/target.json" "${test_images[@]}" &&
        score_retained "$folder/tuned.ckpt" "$folder/retained.json" &&
        { [[ ${KEEP:-} == yes ]] || rm -f "$folder/tuned.last.ckpt"; }
}

failed=()
for draw in ${DRAWS:-0 1 2}; do
    for shots in ${SHOTS:-1 3 8}; do
        for run in $methods; do
            model=${run%%:*} method=${run#*:}
            printf '%s %s %s: %s shots, draw %s\n' "$dataset" "$model" "$method" "$shots" "$draw" >&2
            { score_base "$model" && tune_and_score "$model" "$method" "$shots" "$draw"; } ||
                failed+=("$run shots $shots draw $draw")
        done
    done
    "$python" "$here/scellseg_report.py" "$output" "${metrics[@]}" >/dev/null || failed+=("the report of draw $draw")
done
if [[ -s $output/tables.md ]]; then
    cat "$output/tables.md"
    cellkit evaluate --curve "$output/results.csv" || true # one that does not level off is told, and is no failed run
fi
if ((${#failed[@]})); then
    printf 'scellseg-shots: failed: %s (run it again to go on)\n' "${failed[@]}" >&2
    exit 1
fi
