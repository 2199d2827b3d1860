# One image for all processes: `cashback serve`, `cashback worker default`, `cashback worker sync`, `cashback migrate`.
# It runs as an ordinary user on a read-only root filesystem. Only /tmp must be writable; where feeds are synced they
# pass through it, up to FEED_MAX_BYTES each, so there it should be disk and not memory.

# Pin it by digest where builds must be repeatable: --build-arg PYTHON_IMAGE=python:3.12-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /srv/cashback
# No pip in the environment that is shipped; the build's own pip installs into it.
RUN python -m venv --without-pip /opt/venv

# Wheels only, each checked against the lock's hashes: nothing is compiled, and nothing runs that is not pinned.
COPY deploy/requirements.lock deploy/requirements.lock
RUN pip --python /opt/venv/bin/python install --require-hashes --only-binary :all: -r deploy/requirements.lock

# What builds the package comes from a lock as well, into a folder that stays behind in this stage.
COPY requirements.lock requirements.lock
RUN awk '/^[^ ]/ { keep = /^(editables|hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } keep' \
        requirements.lock > /tmp/build.lock \
    && pip install --require-hashes --only-binary :all: --target /opt/build -r /tmp/build.lock

COPY pyproject.toml README.md LICENSE alembic.ini ./
COPY app app
COPY migrations migrations
COPY deploy/entrypoint.sh deploy/healthcheck.py deploy/
# In place (editable): `cashback migrate` looks for the migrations beside the package.
RUN PYTHONPATH=/opt/build pip --python /opt/venv/bin/python install --no-deps --no-build-isolation --editable . \
    && /opt/venv/bin/python -m compileall -q app migrations deploy


FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="cashback-service" \
      org.opencontainers.image.description="Cashback platform backend: API, job workers and migrations." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A number, so that Kubernetes can see that it is not root.
RUN groupadd --gid 10001 cashback \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin cashback
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/cashback /srv/cashback
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    PROMETHEUS_MULTIPROC_DIR=/tmp/cashback-metrics
WORKDIR /srv/cashback
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "/srv/cashback/deploy/healthcheck.py"]
# Empties the metrics folder, then becomes the command, which so gets the signals itself.
ENTRYPOINT ["sh", "/srv/cashback/deploy/entrypoint.sh"]
CMD ["cashback", "serve"]
