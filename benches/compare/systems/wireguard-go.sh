# WireGuard in userspace, L3. Debian packages: wireguard-go wireguard-tools. WIREGUARD_GO names the program.
: "${WIREGUARD_GO:=wireguard-go}"
sys_check() { have "$WIREGUARD_GO" && have wg; }
sys_info() {
  echo "version=$("$WIREGUARD_GO" --version | sed -n '1s/^wireguard-go //p')"
  echo "enc=chacha20-poly1305"; echo "layer=L3"
}
sys_up() {
  local side
  umask 077
  for side in a b; do wg genkey >$side.key && wg pubkey <$side.key >$side.pub || return; done
  node() {
    local side=$1 ns=$2 other=b
    [ "$side" = a ] || other=a
    spawn "node-$side" "$ns" "$WIREGUARD_GO" -f "wgo$side"
    wait_for 10 ip netns exec "$ns" wg show "wgo$side" || return
    ip netns exec "$ns" wg set "wgo$side" private-key $side.key listen-port 51820 \
      peer "$(cat $other.pub)" endpoint "$4:51820" allowed-ips "$6/32" || return
    addr "$ns" "wgo$side" "$5" $((UL_MTU - 80))
  }
  both node
}
