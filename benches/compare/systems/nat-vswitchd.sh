# The way out of a network's gateway, with the MTU that networks have over Ethernet.
. "$BENCH_DIR/systems/vswitchd.sh"
sys_info() { echo "version=$("$VSWITCHD" --version | sed 's/^vswitchd //')"; echo "enc=none"; echo "layer=L4"; }
sys_up() {
  nat_up || return
  spawn nat "$NS_HOST" "$VSWITCHD" switch --vni 42 --tap "eth0@$NS_A" --local $UL_A --mtu $((UL_MTU - 50)) \
    --gateway 42:$NAT_GW --nat 42 $VSWITCHD_ARGS
  addr "$NS_A" eth0 $NAT_IN && ip -n "$NS_A" route add default via $NAT_GW
}
sys_down() { nat_down; }
