# The testbed, and what system files may use. Sourced by bench.sh before a system file.
# Two hosts are two network namespaces, joined by one veth pair.
: "${BENCH_PREFIX:=vsb}"                # beginning of the namespaces' names
: "${BENCH_WORK:=/run/vswitchd-compare}" # a directory for each system: keys, logs, process ids
: "${UL_MTU:=1500}"                     # of the underlay
: "${UL_PROFILE:=default}"              # see ul_profile
: "${READY_SECS:=25}"                   # until the overlay must answer a ping
NS_A=${BENCH_PREFIX}A NS_B=${BENCH_PREFIX}B
UL_IF=ul0                               # the veth, at both ends
UL_A=198.18.0.1 UL_B=198.18.0.2 UL_LEN=24   # RFC 2544: addresses for benchmarks
OV_A=198.19.0.1 OV_B=198.19.0.2 OV_LEN=24
TARGET=$OV_B                            # what load goes to; a system may have it otherwise
TOOLS=$BENCH_DIR/tools/bin

inA() { ip netns exec "$NS_A" "$@"; }
have() { command -v "$1" >/dev/null 2>&1; }

# both FN: calls FN SIDE NAMESPACE OWN-UNDERLAY PEER-UNDERLAY OWN-OVERLAY PEER-OVERLAY for each host.
both() {
  "$1" a "$NS_A" $UL_A $UL_B $OV_A $OV_B || return
  "$1" b "$NS_B" $UL_B $UL_A $OV_B $OV_A
}

# spawn NAME NAMESPACE COMMAND...: runs it in the background; its CPU time counts as the switch's, and `down` ends it.
spawn() {
  local name=$1 ns=$2
  shift 2
  setsid ip netns exec "$ns" "$@" >"$WORK/$name.log" 2>&1 </dev/null &
  adopt "$name" $!
}
# adopt NAME PID: the same for a process started otherwise.
adopt() { echo "$2 $1" >>"$WORK/pids"; }

wait_for() { # SECONDS COMMAND...: until the command succeeds
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.1
  done
}
wait_if() { wait_for 10 ip -n "$1" link show dev "$2"; } # NAMESPACE INTERFACE
udp_bound() { [ -n "$(ip netns exec "$1" ss -Hlun "sport = :$2")" ]; } # NAMESPACE PORT

# addr NAMESPACE INTERFACE ADDRESS [MTU]: waits for the overlay's interface, addresses and raises it.
addr() {
  wait_if "$1" "$2" || { echo "no interface $2 in $1" >&2; return 1; }
  [ -z "${4:-}" ] || ip -n "$1" link set dev "$2" mtu "$4" || return
  ip -n "$1" addr add "$3/$OV_LEN" dev "$2" && ip -n "$1" link set dev "$2" up
}

# The underlay's profile:
#   default  veth as it comes: packets of 64 KiB cross whole, better than any network card
#   nooff    no offload, no segmentation or joining in software either: the worst card
#   gro      the card does nothing, the stack segments and joins: nearest to a plain card
ul_profile() {
  local ns
  for ns in "$NS_A" "$NS_B"; do
    case $UL_PROFILE in
      default) ;;
      nooff)
        ip netns exec "$ns" ethtool -K $UL_IF tso off gso off gro off tx off rx off sg off \
          tx-udp-segmentation off ;;
      gro)
        ip netns exec "$ns" ethtool -K $UL_IF tso off tx off rx off tx-udp-segmentation off &&
          ip netns exec "$ns" ethtool -K $UL_IF gso on gro on rx-udp-gro-forwarding off ;;
      *) echo "no underlay profile $UL_PROFILE" >&2; false ;;
    esac >"$WORK/ethtool.log" || return
  done
}

tb_up() {
  local ns
  for ns in "$NS_A" "$NS_B"; do
    ip netns add "$ns" && ip -n "$ns" link set lo up || return
    ip netns exec "$ns" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
  done
  ip link add $UL_IF netns "$NS_A" mtu "$UL_MTU" type veth \
    peer name $UL_IF netns "$NS_B" mtu "$UL_MTU" || return
  ip -n "$NS_A" addr add $UL_A/$UL_LEN dev $UL_IF && ip -n "$NS_A" link set $UL_IF up || return
  ip -n "$NS_B" addr add $UL_B/$UL_LEN dev $UL_IF && ip -n "$NS_B" link set $UL_IF up || return
  ul_profile
}

# A way out instead of an overlay: namespace A gets a host of its own in front of it, which has the underlay and can reach
# the overlay's address of host B. What leads there is the system's to make, in 10.0.9.0/24; `nat_down` ends it.
NS_HOST=${NS_A}h
NAT_GW=10.0.9.1 NAT_IN=10.0.9.2
nat_up() {
  ip netns add "$NS_HOST" && ip -n "$NS_HOST" link set lo up || return
  ip -n "$NS_A" link set $UL_IF netns "$NS_HOST" && ip -n "$NS_HOST" addr add $UL_A/$UL_LEN dev $UL_IF &&
    ip -n "$NS_HOST" link set $UL_IF up && ip -n "$NS_HOST" route add default via $UL_B || return
  ip -n "$NS_B" addr add $OV_B/32 dev $UL_IF || return
  # Who pings by a socket needs leave.
  ip netns exec "$NS_HOST" sysctl -qw net.ipv4.ping_group_range="0 2147483647"
}
nat_down() { ip netns del "$NS_HOST" 2>/dev/null; }

# A service instead of one server: host B has several addresses, and load goes to one that stands for them all. The same
# servers listen at each, because iperf3's connections of one test have to come to one server.
SVC_TASKS="198.19.0.2 198.19.0.3 198.19.0.4 198.19.0.5"
SVC_VIP=198.19.0.100 SVC_PROXY=198.19.0.10
SVC_PORTS="80 5201 5400"                # of run.py's servers
NS_PROXY=${NS_B}p                       # for a proxy that is an endpoint of its own, on host B
tcp_bound() { [ -n "$(ip netns exec "$1" ss -Hltn "sport = :$2")" ]; } # NAMESPACE PORT
# svc_hosts NAMESPACE...: as who has many short connections sets them, and with several interfaces in one subnet.
svc_hosts() {
  local ns
  for ns; do
    ip netns exec "$ns" sysctl -qw net.ipv4.ip_local_port_range="1024 65535" net.ipv4.tcp_tw_reuse=1 \
      net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 || return
  done
}
svc_mac() { printf '02:42:%02x:%02x:%02x:%02x' ${1//./ }; } # ADDRESS
# svc_task INTERFACE ADDRESS: one of host B's; what is sent from that address leaves by that interface.
svc_task() {
  addr "$NS_B" "$1" "$2" && ip -n "$NS_B" rule add from "$2" table "${2##*.}" &&
    ip -n "$NS_B" route add "${2%.*}.0/$OV_LEN" dev "$1" table "${2##*.}"
}

alive() { # whether any recorded process is
  local pid name
  while read -r pid name; do kill -0 "$pid" 2>/dev/null && return; done <"$WORK/pids"
  false
}
signal_all() {
  local pid name
  while read -r pid name; do kill "$1" "$pid" 2>/dev/null; done <"$WORK/pids"
}

# Undoes tb_up and spawn, however far they came; what isn't there is no error.
tb_down() {
  local ns pid
  if [ -s "$WORK/pids" ]; then
    signal_all -TERM
    gone() { ! alive; }
    wait_for 3 gone || signal_all -KILL
  fi
  for ns in "$NS_A" "$NS_B"; do
    # Whatever made itself a daemon there.
    for pid in $(ip netns pids "$ns" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null; done
    ip netns del "$ns" 2>/dev/null
  done
  rm -f "$WORK/pids"
}

# What a system file overrides.
sys_check() { :; }                       # whether its programs are there
sys_info() { :; }                        # version=, enc=, layer= (a line each)
sys_up() { echo "the system file defines no sys_up" >&2; return 1; }
sys_down() { :; }                        # what tb_down does not undo
