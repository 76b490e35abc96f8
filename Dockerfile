# The image of kuberaft. Base images are arguments, so that it also builds where only local images exist.
ARG RUST_IMAGE=docker.io/library/rust:1-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
COPY tests tests
# What the build is of, for build_info; empty: unknown.
ARG REVISION=unknown
ENV KUBERAFT_REVISION=${REVISION}
RUN cargo build --locked --release --bin kuberaft \
    && install -D --strip target/release/kuberaft /out/kuberaft

FROM ${RUNTIME_IMAGE}
COPY --from=build /out/kuberaft /usr/local/bin/kuberaft
# Not root, by number, so that Kubernetes can check it.
USER 65532:65532
EXPOSE 7000 7001 7002
VOLUME /var/lib/kuberaft
ENTRYPOINT ["/usr/local/bin/kuberaft"]
CMD ["--help"]
