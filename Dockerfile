# The image of kuberaft; scripts/image builds and measures it. Base images are arguments, so that it also builds where
# only local images exist. These are tags, which move: an image that someone shall be able to build again names both by
# digest (NAME@sha256:...).
ARG RUST_IMAGE=docker.io/library/rust:1-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${RUST_IMAGE} AS build
# The allocator is built with make, which slim images lack.
RUN command -v make >/dev/null \
    || { apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*; }
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY .cargo .cargo
COPY proto proto
COPY src src
COPY tests tests
# What the build is of, for build_info; empty: unknown.
ARG REVISION=unknown
# Seconds since 1970 that every file is dated with, so that the same sources give the same image.
ARG SOURCE_DATE_EPOCH=0
ENV KUBERAFT_REVISION=${REVISION}
# Where the crates' sources lie on the builder is no part of the program.
# Kernels for 64-bit Arm have pages of 4 to 64 KiB; an allocator built for the largest runs on all.
RUN if [ "$(uname -m)" = aarch64 ]; then export JEMALLOC_SYS_WITH_LG_PAGE=16; fi; \
    RUSTFLAGS="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" cargo build --locked --release --bin kuberaft \
    && install -D --strip target/release/kuberaft /out/usr/local/bin/kuberaft \
    && find /out -exec touch --date="@${SOURCE_DATE_EPOCH}" {} +

FROM ${RUNTIME_IMAGE}
COPY --from=build /out/ /
ARG RUNTIME_IMAGE
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="kuberaft" \
      org.opencontainers.image.description="A Raft-replicated key-value store that runs itself on Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/kuberaft/kuberaft" \
      org.opencontainers.image.documentation="https://github.com/kuberaft/kuberaft/blob/main/docs/kubernetes.md" \
      org.opencontainers.image.base.name="${RUNTIME_IMAGE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# Not root, by number, so that Kubernetes can check it.
USER 65532:65532
EXPOSE 7000 7001 7002
VOLUME /var/lib/kuberaft
ENTRYPOINT ["/usr/local/bin/kuberaft"]
CMD ["--help"]
