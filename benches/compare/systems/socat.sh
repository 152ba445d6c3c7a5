# The floor: socat copies one frame at a time between a TAP and a UDP socket. Debian package: socat.
sys_check() { have socat; }
sys_info() { echo "version=$(socat -V | sed -n 's/^socat version \([^ ]*\).*/\1/p')"; echo "enc=none"; echo "layer=L2"; }
sys_up() {
  node() {
    spawn "node-$1" "$2" socat -b 65536 "TUN,tun-type=tap,iff-no-pi,tun-name=soc$1" "UDP4-DATAGRAM:$4:9000,bind=$3:9000"
    addr "$2" "soc$1" "$5" $((UL_MTU - 42))
  }
  both node
}
