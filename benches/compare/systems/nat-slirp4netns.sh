# slirp4netns (libslirp), with the MTU that rootless container engines give it: it knows no segmentation by the device.
: "${SLIRP4NETNS:=slirp4netns}"
sys_check() { have "$SLIRP4NETNS"; }
sys_info() { echo "version=$("$SLIRP4NETNS" --version | sed -n '1s/.* //p')"; echo "enc=none"; echo "layer=L4"; }
sys_up() {
  nat_up || return
  spawn nat "$NS_HOST" "$SLIRP4NETNS" --configure --mtu=65520 --cidr=10.0.9.0/24 --netns-type=path \
    "/run/netns/$NS_A" eth0
  wait_if "$NS_A" eth0
}
sys_down() { nat_down; }
