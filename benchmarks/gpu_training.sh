#!/bin/sh
# Trains on a GPU within a time limit; if that fails, tries again with --plain-steps in the time left.
#
#   TRAIN_SECONDS=270 sh benchmarks/gpu_training.sh DATA OUT [flags of benchmarks.gpu_training]
#
# OUT gets the checkpoint, metrics.csv, curves.png, report.json and log.txt.
set -u

data=$1 out=$2
shift 2
limit=${TRAIN_SECONDS:-270}
python=${PYTHON:-python3}
began=$(date +%s)
mkdir -p "$out"
rm -f "$out/report.json" "$out/last.pt" "$out/steady.pt" "$out/log.txt"

attempt() { # seconds, flags…
	seconds=$1
	shift
	timeout "$((seconds + 30))" "$python" -m benchmarks.gpu_training "$data" --out "$out" \
		--seconds "$seconds" "$@" >>"$out/log.txt" 2>&1
}

if attempt "$limit" "$@"; then
	status=0
else
	status=$?
	left=$((limit - $(date +%s) + began))
	echo "# the first attempt failed with status $status; retrying with --plain-steps in the $left s left" |
		tee -a "$out/log.txt"
	if [ "$left" -ge 60 ] && [ ! -e "$out/report.json" ]; then
		rm -f "$out/last.pt" "$out/steady.pt"
		attempt "$left" --plain-steps "$@"
		status=$?
	fi
fi
rm -f "$out/last.pt" "$out/steady.pt" # to go on from: as large as all else together
grep -v '^epoch' "$out/log.txt" | tail -n 40
grep '^epoch' "$out/log.txt" | tail -n 3
exit "$status"
