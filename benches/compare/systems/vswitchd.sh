# vswitchd: one TAP a host, VXLAN to the other. VSWITCHD names the program, VSWITCHD_ARGS adds options.
: "${VSWITCHD:=$BENCH_DIR/../../target/release/vswitchd}"
: "${VSWITCHD_ARGS:=}"
sys_check() { have "$VSWITCHD"; }
sys_info() { echo "version=$("$VSWITCHD" --version | sed 's/^vswitchd //')"; echo "enc=none"; echo "layer=L2"; }
sys_up() {
  node() {
    spawn "node-$1" "$2" "$VSWITCHD" switch --vni 42 --tap "tap$1" --local "$3" --peer "$4" $VSWITCHD_ARGS
    addr "$2" "tap$1" "$5"
  }
  both node
}
