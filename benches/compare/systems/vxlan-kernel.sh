# The kernel's vxlan device in a bridge, the address on the bridge: what every figure is compared with.
sys_info() { echo "version=kernel $(uname -r)"; echo "enc=none"; echo "layer=L2"; }
sys_up() { vxlan_up; }
vxlan_up() {
  node() {
    local ns=$2 mtu=$((UL_MTU - 50))
    ip -n "$ns" link add vx0 mtu $mtu type vxlan id 42 local "$3" remote "$4" dstport 4789 dev $UL_IF || return
    ip -n "$ns" link add br0 type bridge && ip -n "$ns" link set vx0 master br0 up && addr "$ns" br0 "$5" $mtu
  }
  both node
}
