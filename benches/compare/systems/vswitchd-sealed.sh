# vswitchd on an encrypted network, under a static key: `cargo build --release --example sealed`. VSWITCHD_SEALED names
# the program.
: "${VSWITCHD_SEALED:=$BENCH_DIR/../../target/release/examples/sealed}"
sys_check() { have "$VSWITCHD_SEALED"; }
sys_info() { echo "version=$("$VSWITCHD_SEALED" --version | sed 's/^[^ ]* //')"; echo "enc=aes-256-gcm"; echo "layer=L2"; }
sys_up() {
  # A new one each time: it must not seal anything again after a restart.
  (umask 077; head -c 32 /dev/urandom >key) || return
  node() {
    spawn "node-$1" "$2" "$VSWITCHD_SEALED" --vni 42 --tap "tap$1" --local "$3" --peer "$4" --key-file "$PWD/key"
    addr "$2" "tap$1" "$5"
  }
  both node
}
