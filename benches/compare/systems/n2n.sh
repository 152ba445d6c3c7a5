# n2n: two edges and a supernode, L2. Debian package: n2n.
sys_check() { have edge && have supernode; }
sys_info() { echo "version=$(edge -h 2>&1 | grep -io -m1 'v\.[0-9][^ ]*')"; echo "enc=twofish"; echo "layer=L2"; }
sys_up() {
  spawn supernode "$NS_A" supernode -l 7654
  wait_for 5 udp_bound "$NS_A" 7654 || return
  node() {
    spawn "node-$1" "$2" edge -d "n2n$1" -c bench -k bench -a "$5" -s 255.255.255.0 -l $UL_A:7654 -p 7655 \
      -M $((UL_MTU - 100)) -u 0 -g 0
    wait_if "$2" "n2n$1"
  }
  both node
}
