# Container image of xcit-serve, for CPUs by default. Builds without BuildKit, too.
#   docker build -t xcit-serve .
#   docker build -t xcit-serve:cuda --build-arg VARIANT=cuda .
ARG BASE_IMAGE=python:3.11-slim-bookworm

# --- dependencies: rebuilt only when requirements.txt changes -------------------------------------
FROM ${BASE_IMAGE} AS dependencies

# cpu or cuda. Given separately from the index, so that a wrong index fails the build.
ARG VARIANT=cpu
# Package index for torch. Unset: PyTorch's, https://download.pytorch.org/whl/cpu or whl/cu130.
# Empty: pip's configured index, as for all other packages.
ARG TORCH_INDEX

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements.txt .

# pip runs outside the environment, so the image does not contain it.
RUN set -eu; \
    case "$VARIANT" in \
      cpu)  torch=+cpu; index=https://download.pytorch.org/whl/cpu ;; \
      cuda) torch=;     index=https://download.pytorch.org/whl/cu130 ;; \
      *) echo "VARIANT is '$VARIANT'; it must be cpu or cuda" >&2; exit 1 ;; \
    esac; \
    torch="$(grep '^torch==' requirements.txt)$torch"; \
    index="${TORCH_INDEX-$index}"; \
    python -m venv --without-pip /opt/venv; \
    pip() { python -m pip --python /opt/venv/bin/python "$@"; }; \
    pip install --no-deps ${index:+--index-url "$index"} "$torch"; \
    pip install --requirement requirements.txt; \
    pip check

# Headers, static libraries and test suites are a fifth of the environment. Importing torch checks that
# nothing needed was removed, and its CUDA version must match VARIANT.
RUN set -eu; \
    cd "$(echo /opt/venv/lib/python3.*/site-packages)"; \
    rm -rf torch/include torch/share torch/test torch/lib/*.a; \
    find torch/bin -type f ! -name torch_shm_manager -delete; \
    find . -type d '(' -name test -o -name tests ')' -prune -exec rm -rf '{}' +; \
    cuda="$(/opt/venv/bin/python -c 'import torch; print(torch.version.cuda or "")')"; \
    case "$VARIANT:$cuda" in \
      cpu: | cuda:?*) ;; \
      *) echo "VARIANT is $VARIANT, and torch's CUDA version is '$cuda'" >&2; exit 1 ;; \
    esac

# --- the service: takes seconds, and needs no network ---------------------------------------------
FROM dependencies AS application

COPY pyproject.toml README.md LICENSE NOTICE ./
COPY app app
COPY benchmarks/load benchmarks/load
COPY clients clients
COPY model model
# Without isolation: setuptools is installed, because torch requires it.
RUN python -m pip --python /opt/venv/bin/python install \
      --no-deps --no-build-isolation --target /opt/app . ./clients/python

# --- the image -----------------------------------------------------------------------------------
FROM ${BASE_IMAGE}

LABEL org.opencontainers.image.title="xcit-serve" \
      org.opencontainers.image.description="A model server for XCiT image classifiers" \
      org.opencontainers.image.licenses="MIT"

# The home directory is /tmp, which is writable in a read-only container; torch and CUDA may cache
# there. Downloads and compiled models go to /cache, where compose mounts a volume.
RUN groupadd --gid 10001 xcit \
 && useradd --uid 10001 --gid xcit --home-dir /tmp --no-create-home --shell /usr/sbin/nologin xcit \
 && install --directory --owner xcit --group xcit /cache

# Remove package managers, Perl (which only they use), the base's Python packages including pip, and
# all setuid and setgid files. Keep the shell, and Debian's list of packages for scanners.
RUN set -eu; \
    dpkg --purge --force-depends --force-remove-essential apt debconf perl-base; \
    rm -rf /etc/apt /var/cache/apt /var/cache/debconf /var/lib/apt \
      /usr/bin/dpkg* /usr/sbin/dpkg* /usr/bin/perl* /usr/bin/pip* /usr/local/bin/pip*; \
    find / -xdev -type d '(' -name site-packages -o -name dist-packages -o -name ensurepip ')' \
      -prune -exec rm -rf '{}' +; \
    find / -xdev -type f -perm /6000 -delete
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=application /opt/app /opt/app

ENV PATH=/opt/app/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/app \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/cache \
    XCIT_CACHE_DIR=/cache/compiled \
    XCIT_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000

# Healthy means ready, because containers that wait for this one want to send requests. Docker does
# not restart unhealthy containers; a service that has failed exits by itself.
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 CMD ["python", "-Ic", \
    "import os, sys; from http.client import HTTPConnection as Connection; \
     probe = Connection('127.0.0.1', int(os.environ.get('XCIT_PORT', 8000)), timeout=3); \
     probe.request('GET', '/readyz'); sys.exit(probe.getresponse().status != 200)"]

ENTRYPOINT ["xcit-serve"]
CMD ["serve"]
