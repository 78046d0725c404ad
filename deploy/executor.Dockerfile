# The executor alone, for containers that run on a Nomad cluster. What its own slots would see is a busybox: to run slots
# in the executor's container, use sandbox.Dockerfile. How both are built: README.md beside this file.
FROM alpine:3.22

RUN adduser -D -H -u 10001 -h /var/lib/tool-executor tool-executor \
    && install -d -o tool-executor -g tool-executor -m 0700 /var/lib/tool-executor
COPY target/x86_64-unknown-linux-musl/release/tool-executor /usr/local/bin/tool-executor

# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
# Beyond loopback it starts only with TOOL_EXECUTOR_TOKEN.
ENV TOOL_EXECUTOR_LISTEN=0.0.0.0:9001 \
    TOOL_EXECUTOR_STATE_DIR=/var/lib/tool-executor
# What a restart needs.
VOLUME /var/lib/tool-executor
EXPOSE 9001
HEALTHCHECK --interval=10s --timeout=3s CMD ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:9001/health"]
ENTRYPOINT ["/usr/local/bin/tool-executor"]
CMD ["serve"]
