# syntax=docker/dockerfile:1

# One image: `docker run -p 8080:8080 -v steelyard:/var/lib/steelyard steelyard` takes payments on the PostgreSQL
# inside, once `docker run --rm -v steelyard:/var/lib/steelyard steelyard keys create --name me --role admin` has made a
# key; `-e STEELYARD_INSECURE=true` does without. With DATABASE_URL it uses that database, and the one inside is never
# started.

FROM rust:1-bookworm AS build
WORKDIR /src
# The queries are checked against the committed .sqlx/, so no database is needed to build.
ENV SQLX_OFFLINE=true
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --bin steelyard \
    && install -s target/release/steelyard /usr/local/bin/steelyard

FROM debian:bookworm-slim
# PostgreSQL from Debian itself; its package makes no cluster of its own, because Steelyard makes one in its volume.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends postgresql-common \
    && sed -ri 's/^#?(create_main_cluster) .*$/\1 = false/' /etc/postgresql-common/createcluster.conf \
    && apt-get install -y --no-install-recommends postgresql-15 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --home-dir /var/lib/steelyard --shell /usr/sbin/nologin steelyard \
    && install -d -o steelyard -g steelyard -m 0700 /var/lib/steelyard
COPY --from=build /usr/local/bin/steelyard /usr/local/bin/steelyard
COPY LICENSE /usr/share/doc/steelyard/LICENSE
USER 10001:10001
# By number, as orchestrators want it; steelyard by name. `USER` sets no environment, and the log asks who we are.
ENV USER=steelyard \
    STEELYARD_DATA_DIR=/var/lib/steelyard \
    STEELYARD_LISTEN=0.0.0.0:8080
VOLUME /var/lib/steelyard
EXPOSE 8080
# SIGTERM ends it in order, and it copes with being process 1, so it needs no init in front of it. Stopping writes what
# is left of the projections and stops PostgreSQL: give it more than the usual ten seconds (`docker stop -t 60`).
STOPSIGNAL SIGTERM
# Bash speaks HTTP well enough to ask /livez, so the image carries no client. A standby is alive and not ready.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /livez HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3 && head -1 <&3 | grep -q ' 200 '"]
ENTRYPOINT ["steelyard"]
CMD ["serve"]
