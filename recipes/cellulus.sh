#!/usr/bin/env bash
# Cells without a single label: learns from images alone, segments them, and scores that beside a classical baseline
# (Otsu's threshold and a watershed) and the bundled model, which learned from labels of other images.
#
#   recipes/cellulus.sh DATA OUT
#
# DATA: images with labels in any layout. The labels are only for scoring: OUT/images/learn, from which the model
# learns, holds images alone. OUT gets oce.ckpt, maps/ (its predictions), labels/METHOD/, overlays/METHOD.png (true
# cells green), embeddings.png, scores.csv and table.md (printed): SEG and F1 with bootstrap intervals. Finished parts
# are not run again; interrupted, it goes on when run again. Nothing is chosen by the labels: baseline and model know of
# the objects their typical diameter alone, which is estimated from the images where it is not given.
#
# Environment, each with its default:
#   METHODS="oce watershed nuclei"     which, in this order
#   NAMES=              file that lists the images to learn from, one per line; all, also those without labels
#   TEST_NAMES=         file that lists the images to score on; all labelled ones. Without labels, learning from the
#                       images that are segmented is no fraud, but says less of other images
#   TEST=               labelled images to score on, in place of those of DATA
#   OBJECT_SIZE=        diameter of an object in pixels, or each: of each image as estimated from it; else estimated
#                       from all, or each where their sizes differ much
#   STEPS=1000  LR=1e-3  BATCH=8  CROP=128  WIDTHS=24,72  SEED=0
#   SETTINGS=           more NAME=VALUE of 'cellkit pretrain --method oce --settings', separated by blanks
#   DECODE=             NAME=VALUE of 'cellkit postprocess --settings', without the network, e.g. "post=nucleus" for
#                       fluorescent nuclei, or "shrink=3"
#   METRICS="f1@0.5 ctc/SEG"
#   DEVICE=auto PRECISION=auto WORKERS=1
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
methods=${METHODS:-oce watershed nuclei}
machine=(--device "${DEVICE:-auto}" --precision "${PRECISION:-auto}")
read -ra metrics <<<"${METRICS:-f1@0.5 ctc/SEG}"
read -ra more <<<"${SETTINGS:-}"
read -ra decode <<<"${DECODE:-}"
settings=(batch="${BATCH:-8}" crop="${CROP:-128}" widths="${WIDTHS:-24,72}" "${more[@]}")
for method in $methods; do
    case $method in
        oce | watershed | nuclei) ;;
        *)
            echo "cellulus: METHODS: there is no $method (choose from oce watershed nuclei)" >&2
            exit 2
            ;;
    esac
done

mkdir -p "$output/labels" "$output/scores" "$output/overlays"
images="$output/images"
"$python" "$here/cellulus_images.py" "$data" "$images" names="${NAMES:-}" test="${TEST:-}" \
    test_names="${TEST_NAMES:-}" size="${OBJECT_SIZE:-}"
size=$(<"$images/size.txt") told=$(<"$images/told.txt")

# The parts of a run follow each other by &&: where a function is asked whether it failed, set -e does not hold in it.

is_newer() { # FILE FOLDER...: the file is there, and no file of the folders was written since
    [[ -s $1 && -z $(find "${@:2}" -type f -newer "$1" -print -quit) ]]
}

segment_oce() {
    local again=()
    [[ -f $output/decode.txt && $(<"$output/decode.txt") == "${decode[*]}" ]] || again=(--on-exists overwrite)
    cellkit pretrain "$images/learn" -o "$output/oce.ckpt" --method oce --object-size "$told" \
        --steps "${STEPS:-1000}" --lr "${LR:-1e-3}" --seed "${SEED:-0}" "${settings[@]/#/--set=}" "${machine[@]}" &&
        cellkit predict "$images/test" -o "$output/maps/" -m "$output/oce.ckpt" --set brightness=true "${machine[@]}" \
            --quiet &&
        cellkit postprocess "$output/maps" -o "$output/labels/oce/" "${decode[@]/#/--set=}" "${again[@]}" \
            --workers "${WORKERS:-1}" --quiet &&
        echo "${decode[*]}" >"$output/decode.txt" &&
        cellkit view "$output/maps" -o "$output/embeddings.png" --quiet
}

segment_watershed() {
    [[ -d $output/labels/watershed ]] ||
        "$python" "$here/cellulus_watershed.py" "$images/test" "$output/labels/watershed" "$size" "$told"
}

segment_nuclei() {
    cellkit segment "$images/test" -o "$output/labels/nuclei/" -m nuclei "${machine[@]}" \
        --workers "${WORKERS:-1}" --quiet
}

score() { # METHOD
    local labels="$output/labels/$1" scores="$output/scores/$1.json"
    is_newer "$scores" "$labels" ||
        { cellkit evaluate "$truth" "$labels" --names "$images/test.txt" --json --no-surfaces --quiet >"$scores.part" &&
            mv "$scores.part" "$scores"; }
}

compare() { # METHOD: with Cellulus, image by image; also one of an earlier run
    local ours="$output/labels/oce" labels="$output/labels/$1" scores="$output/scores/oce-$1.json"
    [[ -s $output/scores/oce.json && -s $output/scores/$1.json ]] || return 0
    is_newer "$scores" "$ours" "$labels" ||
        { cellkit evaluate "$truth" --compare "$labels" "$ours" --names "$images/test.txt" --json --no-surfaces \
            --quiet >"$scores.part" && mv "$scores.part" "$scores"; }
}

draw() { # METHOD
    local picture="$output/overlays/$1.png"
    is_newer "$picture" "$output/labels/$1" ||
        cellkit view "$images/test" "$output/labels/$1" -o "$picture" --truth "$truth" --on-exists overwrite --quiet
}

failed=()
for method in $methods; do
    { "segment_$method" && score "$method" && draw "$method"; } || failed+=("$method")
done
for method in watershed nuclei; do
    compare "$method" || failed+=("the comparison of oce and $method")
done
"$python" "$here/cellulus_report.py" methods "$output" "${metrics[@]}" || failed+=("the table")
if ((${#failed[@]})); then
    printf 'cellulus: failed: %s (run it again to go on)\n' "${failed[@]}" >&2
    exit 1
fi
