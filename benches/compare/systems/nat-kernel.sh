# The way out as the kernel has it and container engines lay it: a veth, a bridge, forwarding, and masquerading by nftables.
sys_check() { have nft; }
sys_info() { echo "version=kernel $(uname -r)"; echo "enc=none"; echo "layer=L3"; }
sys_up() {
  nat_up || return
  ip -n "$NS_HOST" link add br0 type bridge && ip -n "$NS_HOST" addr add $NAT_GW/24 dev br0 &&
    ip -n "$NS_HOST" link set br0 up || return
  ip -n "$NS_HOST" link add p0 type veth peer name eth0 netns "$NS_A" &&
    ip -n "$NS_HOST" link set p0 master br0 up && addr "$NS_A" eth0 $NAT_IN || return
  ip -n "$NS_A" route add default via $NAT_GW
  ip netns exec "$NS_HOST" sysctl -qw net.ipv4.ip_forward=1
  ip netns exec "$NS_HOST" nft -f - <<NFT
table ip nat {
  chain out { type nat hook postrouting priority 100; oifname "$UL_IF" masquerade; }
}
NFT
}
sys_down() { nat_down; }
