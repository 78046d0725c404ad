# What a model works in, with the executor's program: for containers under Nomad (`agent = "present"`), or with `serve`
# for executor and slots in one container (compose.yaml). How it is built: README.md beside this file.
FROM debian:bookworm-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl git procps python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --home-dir /var/lib/tool-executor --shell /usr/sbin/nologin tool-executor \
    && install -d -o tool-executor -g tool-executor -m 0700 /var/lib/tool-executor
COPY target/x86_64-unknown-linux-musl/release/tool-executor /usr/local/bin/tool-executor

# By number, so that Kubernetes can see that it is not root. Slots have their own user namespaces.
USER 10001:10001
# Beyond loopback `serve` starts only with TOOL_EXECUTOR_TOKEN.
ENV TOOL_EXECUTOR_LISTEN=0.0.0.0:9001 \
    TOOL_EXECUTOR_STATE_DIR=/var/lib/tool-executor
# What a restart needs, and the workspaces.
VOLUME /var/lib/tool-executor
EXPOSE 9001
ENTRYPOINT ["/usr/local/bin/tool-executor"]
CMD ["serve"]
