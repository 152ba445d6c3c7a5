# HAProxy in TCP mode, an endpoint of the same network with an address of its own, as who runs it in a container has it:
# here on the servers' host, so that one of its two connections stays there. SVC_LOCAL=1: on the client's host instead, in
# its namespace, which is the shortest way that there can be.
. "$BENCH_DIR/systems/svc-direct.sh"
: "${HAPROXY:=haproxy}" "${SVC_LOCAL:=}"
sys_check() { have "$VSWITCHD" && have "$HAPROXY"; }
sys_info() { echo "version=$("$HAPROXY" -v | sed -n '1s/^HAProxy version \([^ ]*\).*/\1/p')"; echo "enc=none"; echo "layer=L4"; }
sys_up() { proxy_up && haproxy_up; }
sys_down() { ip netns del "$NS_PROXY" 2>/dev/null; }

# The overlay, with room for a proxy; says where as PROXY_NS.
proxy_up() {
  if [ -n "$SVC_LOCAL" ]; then
    PROXY_NS=$NS_A TARGET=$OV_A
    svc_up
    return
  fi
  PROXY_NS=$NS_PROXY TARGET=$SVC_PROXY
  ip netns add "$NS_PROXY" && ip -n "$NS_PROXY" link set lo up && svc_hosts "$NS_PROXY" || return
  SVC_TAPS=(--tap "tapp@$NS_PROXY") SVC_MACS=(--mac "$(svc_mac $SVC_PROXY)")
  svc_up && addr "$NS_PROXY" tapp $SVC_PROXY
}

# Without splicing, with which HAProxy was a fifth slower here. Neither proxy asks its servers whether they are well: these
# take any connection for a test's.
haproxy_up() {
  local task port number=0
  {
    echo "global"
    echo "  maxconn 4000"
    echo "  nbthread $(nproc)"
    echo "defaults"
    echo "  mode tcp"
    echo "  timeout connect 5s"
    echo "  timeout client 1h"
    echo "  timeout server 1h"
    echo "listen service"
    for port in $SVC_PORTS; do echo "  bind :$port"; done
    echo "  balance roundrobin"
    # Without a port it is the one that was asked.
    for task in $SVC_TASKS; do echo "  server task$((number += 1)) $task"; done
  } >haproxy.cfg
  spawn haproxy "$PROXY_NS" "$HAPROXY" -db -f "$WORK/haproxy.cfg"
  wait_for 10 tcp_bound "$PROXY_NS" "${SVC_PORTS##* }"
}
