# pasta, of passt, with its own default MTU.
: "${PASTA:=pasta}"
sys_check() { have "$PASTA"; }
sys_info() { echo "version=$("$PASTA" --version 2>/dev/null | sed -n '1s/^pasta //p')"; echo "enc=none"; echo "layer=L4"; }
sys_up() {
  nat_up || return
  spawn nat "$NS_HOST" "$PASTA" --foreground --config-net --interface $UL_IF --ns-ifname eth0 --ipv4-only \
    --address $NAT_IN --netmask 24 --gateway $NAT_GW --runas 0 --netns "/run/netns/$NS_A"
  wait_if "$NS_A" eth0
}
sys_down() { nat_down; }
