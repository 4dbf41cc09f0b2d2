# Serves a run, an ensemble or an export, as a user without rights; what it serves is mounted, read-only:
#
#   docker build -f launch/serve.Dockerfile -t jaxtl-serve .
#   docker run --rm -p 8000:8000 --read-only --tmpfs /tmp -v "$PWD/runs/mine:/run/model:ro" -v jaxtl-compiled:/cache jaxtl-serve
#
# Flags of `serve` come after the name of the image, as in: ... jaxtl-serve --latency_ms=500
FROM python:3.12-slim
WORKDIR /jaxtl
COPY pyproject.toml README.md LICENSE ./
COPY jaxtl jaxtl
COPY configs configs
RUN pip install --no-cache-dir ".[serve]" \
 && useradd --uid 10001 --no-create-home jaxtl \
 && mkdir /cache && chown jaxtl /cache
WORKDIR /
USER 10001
# What is compiled stays there from one start to the next, if a volume is mounted.
ENV JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR=/cache PYTHONUNBUFFERED=1
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["jaxtl", "serve", "--workdir=/run/model", "--host=0.0.0.0", "--port=8000"]
