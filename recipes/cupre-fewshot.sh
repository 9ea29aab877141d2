#!/usr/bin/env bash
# Few-shot detection of cells after pre-training on common objects, on cells without labels, and on both (CUPre, Table
# II, Figures 3 and 6): seven baselines, by arguments alone, fine-tuned to parts of the labelled images of a target.
#
#   recipes/cupre-fewshot.sh OUT TARGET COMMON CELLS...
#
# TARGET: labelled images of cells, in any layout; COMMON: labelled images of common objects, such as COCO; CELLS:
# folders of images of cells, whose labels, if there are any, are not read. E.g. dsb2018 coco livecell phc-u373 hela.
#
# OUT gets tables.md, results.csv, curves.csv and figures/curves.svg. The target is divided once for all into a pool,
# images that tell the course of a fine-tuning, and images to score on, which must not be in CELLS. Detectors
# are pre-trained once each; of all one kind, with the same anchors. Tables are written after each draw. Finished runs
# are not run again; interrupted, it goes on when run again.
#
#   scratch     random weights (one step of a detector at a learning rate of 0), fine-tuned
#   cells-moco  trunk by MoCo on CELLS, the rest random
#   coco        COMMON, or COCO_MODEL
#   coco++      as coco, then its trunk by MoCo on CELLS; neck and heads stay
#   cupre--     as coco, then AMT2 on CELLS and COMMON without L2-SP
#   cupre       as coco, then AMT2
#   cupre++     as cupre, fine-tuned with L2-SP
#
# Environment, each with its default:
#   BASELINES="scratch cells-moco coco coco++ cupre-- cupre cupre++"
#   FRACTIONS="0.05 0.1 0.2 1"  DRAWS="0 1 2"      of the pool; seeds of the draw and of fine-tuning
#   TRAIN=  VAL=  TEST= images of the target: of the pool at most, of the curves (a tenth; 0: there are none), to
#                       score on (a third)
#   TEST_FOLDER=        labelled images to score on, instead of a part of the target
#   SEED=0              of the division and of pre-training
#   MODELS=             folder of pre-trained models (OUT/models), to share among targets: e.g. of each cell type of
#                       LIVECell, whose tables 'python recipes/cupre_table.py OUT...' puts together, as Table II
#   DETECTOR="trunk=resnest-50 anchor_set=livecell"      NAME=VALUE of 'cellkit pretrain --method detection --settings'
#                       for all detectors, COMMON and cells alike
#   CROP=512  BATCH=4   of all steps on labelled images
#   COCO_MODEL=         a checkpoint in place of training on COMMON, e.g. the official one by 'cellkit convert'; its
#                       detector is then that of all others, and scratch and cells-moco need a DETECTOR that is the same
#   COCO_STEPS=2000  COCO_LR=
#   MOCO_STEPS=2000  MOCO_LR=  MOCO_BATCH=32  VIEW=224
#   AMT_STEPS=2000  AMT_LR=  ROUNDS=10             AMT2, without another warm-up
#   COCO_SETTINGS=  MOCO_SETTINGS=  AMT_SETTINGS=  more NAME=VALUE of each
#   TUNE_STEPS=500  TUNE_LR=  TUNE_SETTINGS=  L2SP_SETTINGS=       of 'cellkit finetune', which takes all cells for one
#                       category; the last for cupre++ alone
#   VALIDATE_EVERY=50   steps between the points of a curve
#   AREAS=livecell  MAX_DETS=100,500,2000          of AP, as published with LIVECell
#   DECODE=             NAME=VALUE of 'cellkit predict --settings'
#   DEVICE=auto PRECISION=auto
#   KEEP=               yes: tuned models and predictions stay; no: they go when they are scored
#   PYTHON=python       one that has cellkit
# On two CPU cores, in about an hour and a half: FRACTIONS="0.05 0.2" TRAIN=100 TEST=30 CROP=128 VIEW=64 MOCO_BATCH=32
# VALIDATE_EVERY=100 DETECTOR="trunk=resnet-tiny width=16 pyramid=32 hidden=64 box_convs=1 mask_convs=2 norm=group-norm
# head_norm=group-norm anchor_sizes=8,16,32,64,128" COCO_STEPS=900 COCO_LR=2e-3 MOCO_STEPS=600 MOCO_LR=1e-3
# AMT_STEPS=900 AMT_LR=1e-3 ROUNDS=4 TUNE_STEPS=400 TUNE_LR=2e-3, and in COCO_, MOCO_, AMT_ and TUNE_SETTINGS
# "optimiser=adam schedule=cosine".
set -euo pipefail
if (($# < 4)); then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
fi
output=$1 target=$2 common=$3
cells=("${@:4}")
trap 'exit 130' INT TERM
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}
every="scratch cells-moco coco coco++ cupre-- cupre cupre++"
read -ra baselines <<<"${BASELINES:-$every}"
for name in "${baselines[@]}"; do
    if [[ " $every " != *" $name "* ]]; then
        echo "cupre-fewshot: BASELINES: there is no $name (choose from $every)" >&2
        exit 2
    fi
done

machine=(--device "${DEVICE:-auto}" --precision "${PRECISION:-auto}" --quiet)
read -ra detector <<<"${DETECTOR:-trunk=resnest-50 anchor_set=livecell}"
read -ra coco <<<"${COCO_SETTINGS:-}"
read -ra moco <<<"${MOCO_SETTINGS:-}"
read -ra amt <<<"${AMT_SETTINGS:-}"
read -ra tune <<<"${TUNE_SETTINGS:-}"
read -ra l2sp <<<"${L2SP_SETTINGS:-}"
read -ra decode <<<"${DECODE:-}"
crops=(crop="${CROP:-512}" batch="${BATCH:-4}")
views=(view_size="${VIEW:-224}")
moco=("${views[@]}" batch="${MOCO_BATCH:-32}" "${moco[@]}")
amt=("${views[@]}" "${crops[@]}" contrast_batch="${MOCO_BATCH:-32}" rounds="${ROUNDS:-10}" warm_part=0 "${amt[@]}")
coco=("${crops[@]}" "${coco[@]}")
tune=("${crops[@]}" categories=one validate_every="${VALIDATE_EVERY:-50}" "${tune[@]}")

mkdir -p "$output"
images="$output/images" models="${MODELS:-$output/models}"
"$python" "$here/cupre_images.py" "$images" "$target" "${cells[@]}" -- train="${TRAIN:-}" val="${VAL:-}" \
    test="${TEST:-}" test_folder="${TEST_FOLDER:-}" seed="${SEED:-}" models="${MODELS:-}" "detector=${detector[*]}" \
    "model of coco=${COCO_MODEL:-}" "coco=${coco[*]} ${COCO_STEPS:-2000} ${COCO_LR:-}" \
    "moco=${moco[*]} ${MOCO_STEPS:-2000} ${MOCO_LR:-}" "amt=${amt[*]} ${AMT_STEPS:-2000} ${AMT_LR:-}" \
    "tuning=${tune[*]} ${TUNE_STEPS:-500} ${TUNE_LR:-} ${l2sp[*]}" \
    "scores=${AREAS:-livecell} ${MAX_DETS:-100,500,2000} ${decode[*]}" >&2
held=()
[[ ! -d $images/val ]] || held=(--val "$images/val")

# The parts of a run follow each other by &&: where a function is asked whether it failed, set -e does not hold in it.

pretrain() { # OUT.ckpt STEPS LR and arguments...
    [[ ! -s $1 ]] || return 0
    mkdir -p "$models" &&
        cellkit pretrain -o "$1" --steps "$2" ${3:+--lr "$3"} "${@:4}" --seed "${SEED:-0}" "${machine[@]}"
}

common_model() { # the detector of COMMON
    if [[ -n ${COCO_MODEL:-} ]]; then
        mkdir -p "$models" && { [[ -s $models/coco.ckpt ]] || cp "$COCO_MODEL" "$models/coco.ckpt"; }
    else
        pretrain "$models/coco.ckpt" "${COCO_STEPS:-2000}" "${COCO_LR:-}" "$common" --method detection \
            "${detector[@]/#/--set=}" "${coco[@]/#/--set=}"
    fi
}

turns() { # OUT.ckpt and settings...: AMT2 after COMMON
    common_model &&
        pretrain "$1" "${AMT_STEPS:-2000}" "${AMT_LR:-}" "${cells[@]}" --labelled "$common" --method cupre \
            --set "init=$models/coco.ckpt" "${detector[@]/#/--set=}" "${amt[@]/#/--set=}" "${@:2}"
}

base_of() { # BASELINE: its checkpoint, made where it is not there; its name in the variable base
    base="$models/$1.ckpt"
    case $1 in
        scratch)
            pretrain "$base" 1 0 "$images/pool" --method detection --set=categories=one "${detector[@]/#/--set=}" \
                "${coco[@]/#/--set=}"
            ;;
        cells-moco)
            pretrain "$base" "${MOCO_STEPS:-2000}" "${MOCO_LR:-}" "${cells[@]}" --method moco \
                "${detector[@]/#/--set=}" "${moco[@]/#/--set=}"
            ;;
        coco) common_model ;;
        coco++)
            common_model &&
                pretrain "$base" "${MOCO_STEPS:-2000}" "${MOCO_LR:-}" "${cells[@]}" --method moco \
                    --set "init=$models/coco.ckpt" "${moco[@]/#/--set=}"
            ;;
        cupre--) turns "$base" --set sp_strength=0 ;;
        cupre) turns "$base" ;;
        cupre++) base="$models/cupre.ckpt" && turns "$base" ;;
    esac
}

run() { # BASELINE FRACTION DRAW
    local folder="$output/runs/$1/fraction$2-draw$3" base method=(--method classic)
    [[ ! -s $folder/scores.json ]] || return 0
    [[ $1 != cupre++ ]] || method=(--method l2sp "${l2sp[@]/#/--set=}")
    mkdir -p "$folder" &&
        base_of "$1" &&
        cellkit finetune "$images/pool" -m "$base" -o "$folder/tuned.ckpt" --fraction "$2" --draw "$3" --seed "$3" \
            --steps "${TUNE_STEPS:-500}" ${TUNE_LR:+--lr "$TUNE_LR"} "${held[@]}" "${method[@]}" \
            "${tune[@]/#/--set=}" "${machine[@]}" &&
        { ((${#held[@]} == 0)) || cp "$folder/tuned.metrics.csv" "$folder/curve.csv"; } &&
        cellkit predict "$images/test/images" -m "$folder/tuned.ckpt" -o "$folder/found.h5" \
            "${decode[@]/#/--set=}" "${machine[@]}" &&
        cellkit evaluate "$images/test" "$folder/found.h5" --coco-areas "${AREAS:-livecell}" \
            --max-dets "${MAX_DETS:-100,500,2000}" --json --no-surfaces --quiet >"$folder/scores.json.part" &&
        mv "$folder/scores.json.part" "$folder/scores.json" &&
        { [[ ${KEEP:-} == yes ]] || rm -f "$folder"/tuned* "$folder/found.h5"; }
}

failed=()
for fraction in ${FRACTIONS:-0.05 0.1 0.2 1}; do
    for draw in ${DRAWS:-0 1 2}; do
        for name in "${baselines[@]}"; do
            printf '%s: %s of the images, draw %s\n' "$name" "$fraction" "$draw" >&2
            run "$name" "$fraction" "$draw" || failed+=("$name: $fraction of the images, draw $draw")
        done
        "$python" "$here/cupre_report.py" "$output" "Target: $(basename "$target")." >/dev/null ||
            failed+=("the report after draw $draw of $fraction")
    done
done
[[ ! -s $output/tables.md ]] || cat "$output/tables.md"
if ((${#failed[@]})); then
    printf 'cupre-fewshot: failed: %s (run it again to go on)\n' "${failed[@]}" >&2
    exit 1
fi
