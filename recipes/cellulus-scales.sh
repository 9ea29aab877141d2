#!/usr/bin/env bash
# How much the size of objects matters that Cellulus is told: trains and segments at several scale factors (Table 2 of
# the paper).
#
#   recipes/cellulus-scales.sh DATA OUT
#
# DATA: images with labels in any layout; the labels are only for scoring. At factor 2 the images are magnified twice as
# much as at factor 1, where objects have the working diameter of the model: it is told half the size of its objects,
# and patches and bandwidth cover half of them. Not as in the paper: bandwidth and shrink are not searched with the
# labels at each factor; DECODE sets them. OUT gets scale-FACTOR/, each as cellulus.sh makes it, and results.csv,
# tables.md, figure.svg. Finished runs are not run again; interrupted, it goes on when run again.
#
# Environment, each with its default:
#   FACTORS="0.5 0.75 1 1.25 1.5"
#   OBJECT_SIZE=        diameter of an object in pixels, at factor 1, of all images; estimated once
#   METHODS="oce watershed"            the baseline is told the same sizes
# NAMES, TEST_NAMES, TEST, STEPS, METRICS and all else: see cellulus.sh.
set -euo pipefail
if (($# != 2)); then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
fi
data=$1 output=$2
trap 'exit 130' INT TERM
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}
read -ra metrics <<<"${METRICS:-f1@0.5 ctc/SEG}"
mkdir -p "$output"
"$python" "$here/cellulus_images.py" "$data" "$output/images" names="${NAMES:-}" test="${TEST:-}" \
    test_names="${TEST_NAMES:-}" size="${OBJECT_SIZE:-}"
size=$(<"$output/images/size.txt")

failed=()
for factor in ${FACTORS:-0.5 0.75 1 1.25 1.5}; do
    told=$(LC_ALL=C awk -v size="$size" -v factor="$factor" 'BEGIN { printf "%.2f", size / factor }')
    printf 'x %s: objects of %s px are told\n' "$factor" "$told" >&2
    OBJECT_SIZE=$told METHODS=${METHODS:-oce watershed} \
        "$here/cellulus.sh" "$data" "$output/scale-$factor" >/dev/null || failed+=("scale $factor")
done
"$python" "$here/cellulus_report.py" scales "$output" "${metrics[@]}" || failed+=("the tables")
if ((${#failed[@]})); then
    printf 'cellulus-scales: failed: %s (run it again to go on)\n' "${failed[@]}" >&2
    exit 1
fi
