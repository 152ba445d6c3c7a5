# OpenVPN between two hosts, TAP over UDP, self-signed certificates. Debian packages: openvpn openssl.
: "${OPENVPN_CIPHER:=AES-256-GCM}"
sys_check() { have openvpn && have openssl; }
sys_info() {
  echo "version=$(openvpn --version | sed -n '1s/^OpenVPN \([^ ]*\).*/\1/p')"
  echo "enc=$OPENVPN_CIPHER"; echo "layer=L2"
}
certificates() {
  local side
  openssl ecparam -name prime256v1 -genkey -noout -out ca.key &&
    openssl req -x509 -new -key ca.key -days 30 -subj /CN=ca -out ca.crt || return
  for side in a b; do
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout $side.key -subj /CN=$side \
      -out $side.csr &&
      openssl x509 -req -in $side.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out $side.crt || return
  done
}
sys_up() {
  (umask 077; certificates) 2>openssl.log || return
  node() {
    local role=--tls-server
    [ "$1" = a ] || role=--tls-client
    spawn "node-$1" "$2" openvpn --dev "ovpn$1" --dev-type tap --proto udp4 --local "$3" --lport 1194 --remote "$4" 1194 \
      $role --dh none --ca ca.crt --cert "$1.crt" --key "$1.key" --data-ciphers "$OPENVPN_CIPHER" \
      --cipher "$OPENVPN_CIPHER" --ifconfig "$5" 255.255.255.0 --tun-mtu $((UL_MTU - 80)) --mssfix 0 --fast-io \
      --sndbuf 2097152 --rcvbuf 2097152 --txqueuelen 1000
  }
  both node
}
