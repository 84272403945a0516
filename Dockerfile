# The daemon and its commands in an image. docs/operations/container.md explains the flags of `docker run`.

FROM debian:bookworm-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN python3 -m venv /opt/promptlog \
    && /opt/promptlog/bin/pip install --no-cache-dir '/src[deno,http,metrics]' \
    && /opt/promptlog/bin/python -m compileall -q /opt/promptlog/lib

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 promptlog \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/promptlog --shell /usr/sbin/nologin promptlog \
    && install -d -o promptlog -g promptlog -m 0700 /var/lib/promptlog \
    && install -d -o promptlog -g promptlog -m 0755 /run/promptlog
COPY --from=build /opt/promptlog /opt/promptlog
ENV PATH=/opt/promptlog/bin:/usr/bin:/bin PROMPTLOG_SOCKET=/run/promptlog/promptlog.sock
USER 10001:10001
VOLUME ["/var/lib/promptlog", "/run/promptlog"]
# Docker sends SIGTERM to stop the container. The daemon then drains, and Docker waits for 10 s.
ENTRYPOINT ["promptlogd", "--state-dir", "/var/lib/promptlog"]
HEALTHCHECK --interval=30s --timeout=10s CMD ["promptlogctl", "ping"]
