# xcit-serve in an image; CPU by default. Written without BuildKit's syntax: any builder will do.
#   docker build -t xcit-serve .
#   docker build -t xcit-serve:cuda --build-arg VARIANT=cuda .
ARG BASE_IMAGE=python:3.11-slim-bookworm

# --- what the service runs on: made again only when requirements.txt changes ---------------------
FROM ${BASE_IMAGE} AS dependencies

# cpu or cuda. Not settled by the index alone, so that a wrong index is an error and no surprise.
ARG VARIANT=cpu
# The package index that torch comes from. Not given: PyTorch's own, https://download.pytorch.org/
# whl/cpu or whl/cu130. Given but empty: the one in pip's own settings, as for everything else.
ARG TORCH_INDEX

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements.txt .

# pip works on the environment from outside: it is no part of the result.
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

# Headers, static libraries and test suites are a fifth of it. The import proves that nothing
# needed went, and the comparison that torch is of the variant asked for.
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

# --- the service itself: seconds, and needs no network -------------------------------------------
FROM dependencies AS application

COPY pyproject.toml README.md LICENSE NOTICE ./
COPY app app
COPY benchmarks/load benchmarks/load
COPY clients clients
COPY model model
# Without isolation: setuptools is there, as torch asks for it.
RUN python -m pip --python /opt/venv/bin/python install \
      --no-deps --no-build-isolation --target /opt/app . ./clients/python

# --- the image -----------------------------------------------------------------------------------
FROM ${BASE_IMAGE}

LABEL org.opencontainers.image.title="xcit-serve" \
      org.opencontainers.image.description="A model server for XCiT image classifiers" \
      org.opencontainers.image.licenses="MIT"

# The home is what a read-only container can write to: caches of torch and CUDA go there, if any.
# What was downloaded or compiled stays in /cache, where compose mounts a volume.
RUN groupadd --gid 10001 xcit \
 && useradd --uid 10001 --gid xcit --home-dir /tmp --no-create-home --shell /usr/sbin/nologin xcit \
 && install --directory --owner xcit --group xcit /cache

# Nothing is installed here any more, and nobody becomes another: package managers, Perl, which only
# they use, the base's own Python packages, pip among them, and whatever is setuid or setgid go.
# The shell stays, and so does the list of Debian's packages, which scanners read.
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

# Healthy means ready: what waits for this container wants to send it requests. Docker restarts
# nothing for being unhealthy, and a service that has failed ends by itself.
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 CMD ["python", "-Ic", \
    "import os, sys; from http.client import HTTPConnection as Connection; \
     probe = Connection('127.0.0.1', int(os.environ.get('XCIT_PORT', 8000)), timeout=3); \
     probe.request('GET', '/readyz'); sys.exit(probe.getresponse().status != 200)"]

ENTRYPOINT ["xcit-serve"]
CMD ["serve"]
