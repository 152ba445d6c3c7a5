# Open vSwitch's userspace datapath, without DPDK. Debian package: openvswitch-switch.
: "${OVS_SHARE:=/usr/share/openvswitch}"
sys_check() { have ovs-vswitchd && have ovsdb-server && have ovsdb-tool; }
sys_info() { echo "version=$(ovs-vswitchd --version | sed -n '1s/.* //p')"; echo "enc=none"; echo "layer=L2"; }
sys_up() {
  node() {
    local ns=$2 dir=$PWD/ovs-$1 mac
    rm -rf "$dir" && mkdir -p "$dir" && ovsdb-tool create "$dir/conf.db" "$OVS_SHARE/vswitch.ovsschema" || return
    export OVS_RUNDIR=$dir OVS_DBDIR=$dir OVS_LOGDIR=$dir
    spawn "ovsdb-$1" "$ns" ovsdb-server "$dir/conf.db" --remote="punix:$dir/db.sock" --unixctl="$dir/db.ctl"
    wait_for 5 test -S "$dir/db.sock" || return
    spawn "node-$1" "$ns" ovs-vswitchd "unix:$dir/db.sock" --unixctl="$dir/vs.ctl"
    wait_for 5 test -S "$dir/vs.ctl" || return
    vsctl() { ip netns exec "$ns" ovs-vsctl --timeout=10 --db="unix:$dir/db.sock" "$@"; }
    vsctl --no-wait init
    # The underlay is a port of a second bridge: only so can the userspace datapath send tunnel packets over it.
    mac=$(ip netns exec "$ns" cat /sys/class/net/$UL_IF/address)
    vsctl add-br "under$1" -- set bridge "under$1" datapath_type=netdev "other-config:hwaddr=\"$mac\"" -- \
      add-port "under$1" $UL_IF || return
    ip -n "$ns" addr flush dev $UL_IF && ip -n "$ns" addr add "$3/$UL_LEN" dev "under$1" &&
      ip -n "$ns" link set "under$1" up || return
    vsctl add-br "over$1" -- set bridge "over$1" datapath_type=netdev -- add-port "over$1" "vx$1" -- \
      set interface "vx$1" type=vxlan "options:remote_ip=$4" options:key=42 || return
    addr "$ns" "over$1" "$5" $((UL_MTU - 50))
  }
  both node
}
