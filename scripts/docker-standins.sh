#!/usr/bin/env bash
# Makes local stand-ins for base images that cannot be pulled, for docker-smoke.sh only. Their names
# differ from those of the real images.
#
#   docker-standins.sh python NAME        Debian's Python in a bare Debian, with this host's pip
#                                         settings and the CA bundle and wheels that they name
#   docker-standins.sh prometheus NAME PYTHON_STANDIN
#                                         Debian's Prometheus, at the real image's paths
#
# Needs root on Debian, mmdebstrap, and a docker engine.
set -euo pipefail

docker=${DOCKER:-docker}
fast=/tmp
[ -w /dev/shm ] && fast=/dev/shm # dpkg calls sync often
work=$(mktemp -d "$fast/standin.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

# Copies pip.conf and the files it refers to below ./files, at their paths in the image, except for a
# local index folder, which may be a whole mirror, and wheels of more than 1 GB.
collect_pip_settings() {
  mkdir -p files/etc
  python3 - files <<'PYTHON'
import pathlib, shutil, subprocess, sys

root = pathlib.Path(sys.argv[1])
wanted = {"cert", "constraint", "default-timeout", "extra-index-url", "find-links", "index-url",
          "proxy", "retries", "timeout", "trusted-host"}
settings = {}
listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"],
                        capture_output=True, text=True, check=True).stdout
for line in listed.splitlines():
    name, _, value = line.partition("=")
    option = name.rpartition(".")[2]
    # The environment takes precedence; settings of single commands are left out.
    if name.startswith(("global.", ":env:.")) and option in wanted:
        settings.setdefault(option.removeprefix("default-"), value.strip("'\""))

def travels(option, word):
    path = pathlib.Path(word.removeprefix("file://"))
    if not path.is_absolute():
        return True
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    if "index" in option or not path.exists() or sum(f.stat().st_size for f in files) > 1e9:
        return False
    for file in files:
        copy = root / file.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    return True

lines = ["[global]"]
for option, value in settings.items():
    if kept := [word for word in value.split() if travels(option, word)]:
        lines.append(f"{option} = {' '.join(kept)}")
(root / "etc/pip.conf").write_text("\n".join(lines) + "\n")
PYTHON
  chmod -R u=rwX,go=rX files
}

make_python() {
  local name=$1 release
  release=$(. /etc/os-release && echo "$VERSION_CODENAME")
  collect_pip_settings
  # The real image has Python in /usr/local/bin, without Debian's lock on pip.
  TMPDIR=$work mmdebstrap --quiet --variant=minbase --dpkgopt=force-unsafe-io \
    --include=ca-certificates,python3-pip,python3-venv \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED' \
    --customize-hook='ln -s /usr/bin/python3 "$1/usr/local/bin/python"' \
    --customize-hook="cp -a files/. \"\$1\"" \
    "$release" root.tar
  "$docker" import --change 'ENV LANG=C.UTF-8' --change 'CMD ["python"]' root.tar "$name" >/dev/null
}

make_prometheus() {
  local name=$1 base=$2
  apt-get download prometheus >/dev/null 2>&1 # unpacked, not installed: installing starts it
  dpkg-deb --extract prometheus_*.deb package
  mkdir image
  mv package/usr/bin/prometheus package/usr/bin/promtool image/
  printf '%s\n' "FROM $base" 'COPY prometheus promtool /bin/' \
    'RUN mkdir /prometheus && chown 65534:65534 /prometheus' 'VOLUME /prometheus' \
    'USER 65534:65534' 'WORKDIR /prometheus' 'ENTRYPOINT ["/bin/prometheus"]' \
    'CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]' \
    >image/Dockerfile
  "$docker" build --quiet --tag "$name" image >/dev/null
}

"make_$1" "${@:2}"
