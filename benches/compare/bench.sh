#!/bin/bash
# Brings one system up or down; run.py calls it, and so may you to try a new system file.
#   bench.sh list | check SYSTEM | info SYSTEM | up SYSTEM | down SYSTEM
# SYSTEM is NAME or NAME@PROFILE; NAME is a file systems/NAME.sh, PROFILE is described in lib.sh.
BENCH_DIR=$(cd "$(dirname "$0")" && pwd)
command=$1 system=${2:-}
usage() { sed -n '3s/^#   /usage: /p' "$0" >&2; exit 2; }

if [ "$command" = list ]; then
  basename -s .sh "$BENCH_DIR"/systems/*.sh
  exit
fi
name=${system%@*}
[ -n "$name" ] || usage
[ "$system" = "$name" ] || UL_PROFILE=${system#*@}

. "$BENCH_DIR/lib.sh"
WORK=$BENCH_WORK/$system
mkdir -p "$WORK" && cd "$WORK" || exit
. "$BENCH_DIR/systems/$name.sh" || exit

case $command in
  check) sys_check ;;
  info) sys_info ;;
  up)
    : >pids
    tb_up && sys_up || { echo "$system did not come up" >&2; exit 1; }
    echo "$TARGET" >target
    wait_for "$READY_SECS" inA ping -c1 -W1 -q "$TARGET" || { echo "$system: the overlay carries nothing" >&2; exit 1; }
    ;;
  down)
    sys_down
    tb_down
    ;;
  *) usage ;;
esac
