# The kernel's vxlan device as a container overlay lays it: the endpoint in a namespace of its own behind a veth,
# bridge, vxlan and underlay in the host's.
sys_info() { echo "version=kernel $(uname -r)"; echo "enc=none"; echo "layer=L2"; }
sys_up() {
  node() {
    local ns=$2 host=$2h mtu=$((UL_MTU - 50))
    ip netns add "$host" && ip -n "$host" link set lo up || return
    ip -n "$ns" link set $UL_IF netns "$host" && ip -n "$host" addr add "$3/$UL_LEN" dev $UL_IF &&
      ip -n "$host" link set $UL_IF up || return
    ip -n "$host" link add vx0 mtu $mtu type vxlan id 42 local "$3" remote "$4" dstport 4789 dev $UL_IF || return
    ip -n "$host" link add br0 type bridge && ip -n "$host" link set br0 mtu $mtu up &&
      ip -n "$host" link set vx0 master br0 up || return
    ip -n "$host" link add p0 mtu $mtu type veth peer name eth0 netns "$ns" mtu $mtu &&
      ip -n "$host" link set p0 master br0 up || return
    addr "$ns" eth0 "$5" $mtu
  }
  both node
}
sys_down() {
  local host
  for host in "${NS_A}h" "${NS_B}h"; do ip netns del "$host" 2>/dev/null; done
}
