# HAProxy in the client's own namespace.
SVC_LOCAL=1
. "$BENCH_DIR/systems/svc-haproxy.sh"
