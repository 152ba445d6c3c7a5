# The routing mesh of a cluster of two nodes: the client asks the node of its own host, which has no task of the service and
# carries what it is asked for to the other node, over TLS.
. "$BENCH_DIR/systems/svc-direct.sh"
SVC_GATEWAY=198.19.0.254
sys_info() { echo "version=$("$VSWITCHD" --version | sed 's/^vswitchd //')"; echo "enc=tls 1.3"; echo "layer=L4"; }
sys_up() {
  local task port ports=()
  svc_hosts "$NS_A" "$NS_B" && rm -rf a b || return
  spawn node-a "$NS_A" "$VSWITCHD" daemon --state-dir "$WORK/a" --socket "$WORK/a.sock"
  spawn node-b "$NS_B" "$VSWITCHD" daemon --state-dir "$WORK/b" --socket "$WORK/b.sock"
  wait_for 10 node a status && wait_for 10 node b status || return
  node a init --name a && node a token worker -q | node b join --name b --token - $UL_A || return
  # Addresses of its own choice are out of the way of those that are given here.
  node a network create --attachable --subnet ${OV_A%.*}.0/$OV_LEN --gateway $SVC_GATEWAY \
    --ip-range ${OV_A%.*}.128/25 bench || return
  # Published on this host only: on the other one the load's servers have these ports.
  for port in $SVC_PORTS; do ports+=(-p "$UL_A:$port:$port"); done
  node a service create --name web --network bench "${ports[@]}" || return
  wait_for 10 node b service inspect web || return
  node a attach --network bench --name client --tap tapa --ip $OV_A || return
  for task in $SVC_TASKS; do mesh_task "tap${task##*.}" "$task" || return; done
  wait_for 10 tcp_bound "$NS_A" "${SVC_PORTS##* }" || return
  for task in $SVC_TASKS; do wait_for 10 knows "task${task##*.}" || return; done
  TARGET=$UL_A
}
sys_down() { rm -rf a b; }

node() { # a|b ARGUMENT...: a command, to that host's daemon
  VSWITCHD_SOCKET=$WORK/$1.sock "$VSWITCHD" "${@:2}"
}
knows() { node a network inspect bench | grep -q "$1"; } # ENDPOINT
# mesh_task INTERFACE ADDRESS: as svc_task, with the gateway as the way to whoever asks from outside.
mesh_task() {
  local task=${2##*.}
  node b attach --network bench --name "task$task" --tap "$1" --ip "$2" --service web &&
    ip -n "$NS_B" rule add from "$2" table "$task" &&
    ip -n "$NS_B" route add default via $SVC_GATEWAY dev "$1" table "$task"
}
