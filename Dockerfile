# syntax=docker/dockerfile:1
# Builds for amd64 and arm64: docker buildx build --platform linux/amd64,linux/arm64 .

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
COPY requirements.txt /tmp/requirements.txt
RUN /opt/venv/bin/pip install -r /tmp/requirements.txt

FROM build AS compile
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
WORKDIR /app
COPY requirements.txt requirements-build.txt ./
RUN /opt/venv/bin/pip install -r requirements-build.txt
COPY . .
RUN /opt/venv/bin/python compiled.py

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 middleware \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /app --shell /usr/sbin/nologin middleware \
    && install -d -o 10001 -g 10001 -m 0700 /app/data
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY . .
COPY --from=compile /app/.make .make

# Inside the container the server must listen on all addresses, so MIDDLEWARE_PASSWORD has to be set.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=5000

USER 10001:10001
VOLUME /app/data
EXPOSE 5000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ.get('PORT', '5000')}/livez\", timeout=4)"]
# The event-loop worker; DRIVER=threads in the environment gives each proxied call a thread instead.
CMD ["python", "main.py"]
