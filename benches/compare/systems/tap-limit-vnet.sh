# Limit: a TAP copied to a TAP by one process, super-frames of 64 KiB (IFF_VNET_HDR); no underlay.
: "${TAPPIPE_MODE:=vnet}"
sys_check() { have "$TOOLS/tappipe"; }
sys_info() { echo "version=tools/tappipe"; echo "enc=none"; echo "layer=L2"; }
sys_up() {
  setsid "$TOOLS/tappipe" "$NS_A" tla "$NS_B" tlb "$TAPPIPE_MODE" >pipe.log 2>&1 </dev/null &
  adopt pipe $!
  addr "$NS_A" tla $OV_A && addr "$NS_B" tlb $OV_B
}
