# tinc without cipher and digest.
TINC_CIPHER=none TINC_DIGEST=none
. "$BENCH_DIR/systems/tinc.sh"
