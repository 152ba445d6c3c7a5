# The kernel's mark: its own vxlan device, and nftables on the client's host, which translates to one of the addresses by
# chance, as kube-proxy has it. (IPVS, which Docker has, is not in every kernel.)
. "$BENCH_DIR/systems/vxlan-kernel.sh"
sys_check() { have nft; }
sys_up() {
  local task number=0 map=
  svc_hosts "$NS_A" "$NS_B" && vxlan_up || return
  for task in $SVC_TASKS; do
    [ "$task" = $OV_B ] || ip -n "$NS_B" addr add "$task/$OV_LEN" dev br0 || return
    map+="$number : $task, "
    number=$((number + 1))
  done
  TARGET=$SVC_VIP
  ip netns exec "$NS_A" nft -f - <<NFT
table ip service {
  chain out {
    type nat hook output priority -100;
    ip daddr $SVC_VIP dnat to numgen random mod $number map { ${map%, } };
  }
}
NFT
}
