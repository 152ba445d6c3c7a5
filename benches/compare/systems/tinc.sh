# tinc 1.0 in switch mode. Debian packages: tinc openssl.
: "${TINC_CIPHER:=aes-256-cbc}"
: "${TINC_DIGEST:=sha256}"
sys_check() { have tincd && have openssl; }
sys_info() {
  echo "version=$(tincd --version | sed -n '1s/^tinc version \([^ ]*\).*/\1/p')"
  echo "enc=$TINC_CIPHER+$TINC_DIGEST"; echo "layer=L2"
}
host() { # SIDE UNDERLAY: its key, and the file that tells others of it
  mkdir -p "conf-$1/hosts" &&
    openssl genrsa -traditional -out "conf-$1/rsa_key.priv" 2048 || return
  printf 'Address = %s\nCipher = %s\nDigest = %s\nCompression = 0\n' "$2" "$TINC_CIPHER" "$TINC_DIGEST"
  openssl rsa -in "conf-$1/rsa_key.priv" -RSAPublicKey_out
}
sys_up() {
  rm -rf conf-a conf-b
  { (umask 077; host a $UL_A) >host-a && (umask 077; host b $UL_B) >host-b; } 2>openssl.log || return
  node() {
    local other=b
    [ "$1" = a ] || other=a
    cp host-a "conf-$1/hosts/a" && cp host-b "conf-$1/hosts/b" || return
    cat >"conf-$1/tinc.conf" <<END
Name = $1
Mode = switch
DeviceType = tap
Interface = tinc$1
ConnectTo = $other
AddressFamily = ipv4
UDPRcvBuf = 2097152
UDPSndBuf = 2097152
END
    spawn "node-$1" "$2" tincd -D -c "$PWD/conf-$1" --pidfile="$PWD/$1.pid"
    addr "$2" "tinc$1" "$5" $((UL_MTU - 100))
  }
  both node
}
