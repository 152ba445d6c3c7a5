# A virtual address, balanced by the switch of the client's host.
. "$BENCH_DIR/systems/svc-direct.sh"
sys_up() {
  SVC_ARGS="--service 42:$SVC_VIP=${SVC_TASKS// /,}"
  TARGET=$SVC_VIP
  svc_up
}
