# What a service is compared with: host B's first address by itself, over our overlay, with all that the others have.
. "$BENCH_DIR/systems/vswitchd.sh"
SVC_ARGS=                # for the client's switch
SVC_TAPS=() SVC_MACS=()  # more for host B's
sys_up() { svc_up; }
svc_up() {
  local task tap taps=() macs=()
  svc_hosts "$NS_A" "$NS_B" || return
  for task in $SVC_TASKS; do
    taps+=(--tap "tap${task##*.}") macs+=(--mac "$(svc_mac "$task")")
  done
  spawn node-a "$NS_A" "$VSWITCHD" switch --vni 42 --tap tapa --local $UL_A --peer $UL_B $SVC_ARGS $VSWITCHD_ARGS
  spawn node-b "$NS_B" "$VSWITCHD" switch --vni 42 "${taps[@]}" "${SVC_TAPS[@]}" "${macs[@]}" "${SVC_MACS[@]}" \
    --local $UL_B --peer $UL_A $VSWITCHD_ARGS
  addr "$NS_A" tapa $OV_A || return
  for task in $SVC_TASKS; do svc_task "tap${task##*.}" "$task" || return; done
}
