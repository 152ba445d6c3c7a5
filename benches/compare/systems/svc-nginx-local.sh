# nginx's stream module in the client's own namespace.
SVC_LOCAL=1
. "$BENCH_DIR/systems/svc-nginx.sh"
