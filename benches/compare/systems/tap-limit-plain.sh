# Limit: a TAP copied to a TAP by one process, one frame for each system call.
TAPPIPE_MODE=plain
. "$BENCH_DIR/systems/tap-limit-vnet.sh"
