#!/usr/bin/env bash
# Measures the service on a machine with an NVIDIA GPU, and runs the tests that need one.
#
#   benchmarks/gpu.sh OUT_DIR
#   benchmarks/gpu.sh --rehearse OUT_DIR   the same parts on the CPU, with minimal work
#
# Writes OUT_DIR/tables.md and OUT_DIR/log.txt. Each part has its own time limit. If a part fails or
# runs out of time, the tables get a line, the log gets its error, and the next part runs; the exit
# status is then 1. Only the Python packages need to be installed.
#
# Variables:
#   LIMIT    seconds for all parts together, plus 5 for the last one to end [480]
#   PARTS    the parts to run [machine starting inputs tests large workers engines reloads bare-large bare compiled small training]
#   DATA     labelled images to train with: a folder or an archive; without it nothing is trained
#   DEVICE   device of the service [cuda]
#   CLIENTS  processes that send load [4]
#   WORKERS  numbers of HTTP workers in the part `workers` [0 1 2 4 8 14]
#   SERVERS  flags of `xcit-serve serve`, one server per line; an empty line means the defaults
#   PYTHON   [python3]
set -uo pipefail

usage() {
  echo "usage: benchmarks/gpu.sh [--rehearse] OUT_DIR" >&2
  exit 2
}

rehearse=false
if [ "${1-}" = --rehearse ]; then
  rehearse=true
  shift
fi
[ $# -eq 1 ] || usage
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit 2

python=${PYTHON:-python3}
parts=${PARTS:-machine starting inputs tests large workers engines reloads bare-large bare compiled small training}
for name in $parts; do
  case $name in
    machine | starting | inputs | tests | large | workers | engines) ;;
    reloads | bare-large | bare | compiled | small | training) ;;
    *)
      echo "PARTS: unknown part '$name'" >&2
      exit 2
      ;;
  esac
done
bundled=model/checkpoints/xcit-cifar10.safetensors
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
photos=$work/photos
large=$work/dim384.safetensors
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH=$PWD/clients/python${PYTHONPATH:+:$PYTHONPATH}  # the client need not be installed
export XCIT_CACHE_DIR=$work/cache XCIT_DRAIN_DELAY_S=0

if $rehearse; then
  limit=${LIMIT:-600} device=${DEVICE:-cpu} clients=${CLIENTS:-1} slowness=3 photo_count=2
  export XCIT_BACKEND=torch XCIT_PRECISION=float32 XCIT_MAX_BATCH_SIZE=2
  export XCIT_STREAMS=$(nproc) OMP_NUM_THREADS=1  # threads that share a pass wait for each other
  starting=(--rounds 0)
  bare=(--only "torch, float32, 1 x" --batch-sizes 1 2 --rounds 1 --seconds 0.02)
  loads=(--closed 1 2 --share 0.8 --seconds 0.3 --warm-up 0.1)
  reloads=(--times 1 --callers 2 --settle 0.1)
  training=(--depth 1 --dim 16 --heads 2 --batch-size 8 --holdout 4 --most-epochs 2 --average 0.8)
  workers=${WORKERS:-2} most=(--closed 2 --seconds 0.3 --warm-up 0.1) served=$bundled
else
  limit=${LIMIT:-480} device=${DEVICE:-cuda} clients=${CLIENTS:-4} slowness=1 photo_count=32
  starting=(--rounds 1 --kept-only)
  bare=(--only torch cudagraphs --rounds 1 --seconds 0.2)
  loads=(--closed 64 256 --share 0.8 --seconds 3 --warm-up 1)
  reloads=(--times 5 --callers 16 --on-device)
  training=()
  workers=${WORKERS:-0 1 2 4 8 14} most=(--closed 256 --seconds 3 --warm-up 1) served=$large
fi
export XCIT_DEVICE=$device

tables=$out/tables.md log=$out/log.txt
: >"$log"
echo "# Measured on $device" >"$tables"
failed=()

# part NAME SECONDS COMMAND...: the command's stdout goes into the tables, its stderr into the log.
# At its time limit it is interrupted, so that it can still print its results.
part() {
  local name=$1 seconds=$(($2 * slowness)) left=$((limit - SECONDS)) begun=$SECONDS status=0
  shift 2
  [[ " $parts " == *" $name "* ]] || return 0
  printf '\n## %s\n\n' "$name" >>"$tables"
  printf '\n=== %s ===\n' "$name" >>"$log"
  if ((left <= 0)); then
    fail "$name" "not run: the time limit of $limit s is used up"
    return 0
  fi
  ((seconds < left)) || seconds=$left
  timeout --signal=INT --kill-after=5 "$seconds" "$@" >>"$tables" 2>>"$log" || status=$?
  local taken=$((SECONDS - begun))
  if ((status == 0)); then
    echo "$name: done in $taken s"
  elif ((status == 124 || (status == 137 && taken >= seconds))); then
    fail "$name" "stopped after $seconds s, its time limit"
  else
    fail "$name" "failed with status $status after $taken s"
  fi
}

fail() {
  failed+=("$1")
  printf '\n**%s %s; see log.txt**\n' "$1" "$2" >>"$tables"
  echo "$1 $2" | tee -a "$log"
}

# Parts that consist of several commands run in their own shell.
# shellcheck disable=SC2016
in_shell='set -euo pipefail; python=$1 device=$2; shift 2;'

part machine 20 bash -c "$in_shell"'
  if [ "$device" = cuda ]; then
    nvidia-smi --query-gpu=name,memory.total,memory.used,driver_version --format=csv,noheader
    echo
  fi
  "$python" - <<"END"
import importlib.metadata, platform
names = "torch", "triton", "numpy", "pillow", "fastapi", "starlette", "uvicorn", "uvloop", "pytest"
found = [f"{name} {importlib.metadata.version(name)}" for name in names
         if any(importlib.metadata.distributions(name=name))]
print(", ".join((f"Python {platform.python_version()}", *found)))
END
' part "$python" "$device"

part starting 50 "$python" -m benchmarks.starting "$bundled" "${starting[@]}"

# shellcheck disable=SC2016
part inputs 40 bash -c "$in_shell"'
  "$python" -m benchmarks.images "$1" --count "$3"
  [ "$device" = cpu ] || "$python" -m benchmarks.checkpoints dim384 "$2"
' part "$python" "$device" "$photos" "$large" "$photo_count"

# The shell ignores the interrupt, so that pytest's summary gets into the tables.
# shellcheck disable=SC2016
part tests 170 bash -c "$in_shell"'
  trap : INT
  status=0
  mapfile -t files < <(grep -rl --include="test_*.py" "pytest.mark.gpu" tests | sort)
  "$python" -m pytest -m "gpu and not slow" -q -ra --tb=short -p no:cacheprovider -W default "${files[@]}" \
    >>"$1" 2>&1 || status=$?
  printf "\`\`\`text\n%s\n\`\`\`\n" "$(tail -n 25 "$1")"
  exit $status
' part "$python" "$device" "$log"

servers=()
if [ -n "${SERVERS-}" ]; then
  while IFS= read -r flags; do
    servers+=("--server=$flags")
  done <<<"$SERVERS"
fi
load_seconds=$((55 * (${#servers[@]} > 1 ? ${#servers[@]} : 1)))
capacity=("$python" -m benchmarks.capacity --images "$photos" --clients "$clients" "${loads[@]}"
  "${servers[@]}")
# Most important parts first, since LIMIT may end the list early.
$rehearse || part large $load_seconds "${capacity[@]}" "$large"
by_workers=()
for count in $workers; do
  by_workers+=("--server=--http-workers=$count")
done
part workers $((40 * ${#by_workers[@]})) "$python" -m benchmarks.capacity --images "$photos" \
  --clients "$clients" "${most[@]}" "${by_workers[@]}" "$served"
# One GPU against all of them; on a machine with one, there is nothing to compare.
# shellcheck disable=SC2016
part engines 80 bash -c "$in_shell"'
  gpus=$("$python" -c "import torch; print(torch.cuda.device_count())")
  if [ "$device" = cpu ]; then
    servers=(--server=--engines=2)
  elif ((gpus > 1)); then
    servers=(--server=--device=cuda:0 --server=--device=auto)
  else
    echo "One GPU: one engine."
    exit
  fi
  env -u XCIT_DEVICE "$python" "$@" "${servers[@]}"
' part "$python" "$device" -m benchmarks.capacity --images "$photos" --clients "$clients" \
  "${most[@]}" "$served"
part reloads 90 "$python" -m benchmarks.reloads "$bundled" --images "$photos" "${reloads[@]}"
executors=("$python" -m benchmarks.executors --device "$device" "${bare[@]}")
$rehearse || part bare-large 50 "${executors[@]}" "$large"
part bare 40 "${executors[@]}" "$bundled"
$rehearse || part compiled 150 "$python" -m benchmarks.executors --device "$device" \
  --only compiled "cudagraphs, bfloat16, 2" --batch-sizes 1 16 64 --rounds 1 --seconds 0.2 "$large"
part small $load_seconds "${capacity[@]}" "$bundled"
data=${DATA-}
if $rehearse; then
  data=$work/labelled
  for class in train/first train/second test/first test/second; do
    mkdir -p "$data/$class"
    for copy in 1 2 3 4; do
      for photo in "$photos"/*.jpg; do
        cp "$photo" "$data/$class/$copy-${photo##*/}"
      done
    done
  done
fi
# shellcheck disable=SC2016
[ -z "$data" ] || part training 300 bash -c "$in_shell"'
  status=0
  printed=$(TRAIN_SECONDS=260 PYTHON=$python sh benchmarks/gpu_training.sh "$@") || status=$?
  printf "\`\`\`text\n%s\n\`\`\`\n" "$printed"
  exit $status
' part "$python" "$device" "$data" "$out/training" "${training[@]}"

if ((${#failed[@]})); then
  echo "failed: ${failed[*]}; see $log"
  exit 1
fi
echo "all parts done: $tables"
