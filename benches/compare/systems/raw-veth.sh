# Limit: no overlay, straight over the veth pair.
sys_info() { echo "version=kernel $(uname -r)"; echo "enc=none"; echo "layer=L3"; }
sys_up() {
  node() { ip -n "$2" addr add "$5/$OV_LEN" dev $UL_IF; }
  both node
}
