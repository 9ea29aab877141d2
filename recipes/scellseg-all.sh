#!/usr/bin/env bash
# The whole shot experiment on several datasets, unattended: draw by draw over all datasets, so that the tables of OUT
# can be read early. Finished runs are not run again; a failed one costs no other.
#
#   recipes/scellseg-all.sh BASES OUT TARGET...
#
# TARGET: folder with pool/ and test/, as scellseg_split.py makes it, and perhaps query/ with unlabelled images. DRAWS
# and all else: see scellseg-shots.sh. Its words go to OUT/NAME.log, one for each TARGET.
set -euo pipefail
if (($# < 3)); then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
fi
bases=$1 output=$2
shift 2
trap 'exit 130' INT TERM
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$output"

status=0
for draw in ${DRAWS:-0 1 2}; do
    for target in "$@"; do
        name=$(basename "$target")
        query=${QUERY:-}
        [[ -d $target/query ]] && query=$target/query
        DATASET=$name DRAWS=$draw QUERY=$query "$here/scellseg-shots.sh" \
            "$bases" "$target/pool" "$target/test" "$output" >>"$output/$name.log" 2>&1 || status=$?
        ((status != 130)) || exit 130
        echo "$(date '+%F %T') draw $draw of $name is done"
    done
done
if [[ -s $output/tables.md ]]; then
    cat "$output/tables.md"
    cellkit evaluate --curve "$output/results.csv" || true # one that does not level off is told, and is no failed run
fi
((status == 0)) || echo "scellseg-all: some runs failed: see $output/*.log (run it again to go on)" >&2
exit "$status"
