# vswitchd with a plain TAP: one frame of MTU size for each system call.
VSWITCHD_ARGS=--no-offload
. "$BENCH_DIR/systems/vswitchd.sh"
