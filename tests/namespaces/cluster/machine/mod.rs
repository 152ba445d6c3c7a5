//! A virtual machine in a network, and an endpoint on another node.

mod archive;
mod guest;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use ring::digest::{SHA256, digest};
use vswitchd::lab::ENDPOINT_LINK;
use vswitchd::namespace::netlink::Netlink;
use vswitchd::namespace::netns::NetNs;

use self::guest::Parts;
use super::daemons::{Daemons, wait_until, with_daemons};
use super::overlay::wait_until_carried;
use crate::fixture::PATIENCE;

const NETWORK: &str = "gooseberry";
const WEB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
const MACHINE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 20);
/// The gateway, which gives addresses to machines.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Bytes of the page: many segments, and windows.
const PAGE: usize = 3 << 20;
/// Takes what DHCP has to give, and says what it was.
const LEASE: &str = "\
#!/bin/sh
[ $1 = bound ] || exit 0
ip addr add $ip/$mask dev $interface && ip route add default via $router
echo nameserver $dns >/etc/resolv.conf
echo guest: LEASE $ip/$mask $router $dns $mtu
";

/// At a stream: one machine after the other, on an encrypted network, with an address by DHCP.
pub(super) fn at_a_stream() -> Result<()> {
    machine("stream", "--qemu-stream", &["--opt", "encrypted"], None, 2)
}

/// By datagrams, on a plain network, with an address that was asked for and is set by hand.
pub(super) fn by_datagrams() -> Result<()> {
    machine("datagrams", "--qemu-dgram", &[], Some(MACHINE), 1)
}

fn machine(name: &str, option: &str, kind: &[&str], ip: Option<Ipv4Addr>, boots: usize) -> Result<()> {
    let Some(parts) = Parts::find()? else { return Ok(()) };
    with_daemons(&format!("machine-{name}"), 2, |daemons| {
        daemons.form(2, 1)?;
        let create = [&["network", "create", "--subnet", "10.77.0.0/24"], kind, &[NETWORK]].concat();
        daemons.hosts[0].say(&create)?;
        wait_until("the network is known", || Ok(daemons.hosts[1].networks()? == [NETWORK]))?;
        let web = attach_web(daemons)?;
        let folder = daemons.hosts[0].socket.parent().context("it is in a directory")?.to_owned();
        let socket = folder.join("vm");
        let socket = socket.to_str().context("scratch paths are UTF-8")?;
        let wanted = ip.map(|ip| format!("--ip={ip}"));
        let place = ["attach", "--network", NETWORK, "--name", "vm", option, socket];
        let place: Vec<&str> = place.into_iter().chain(wanted.as_deref()).collect();
        let attached = daemons.hosts[0].say(&place)?;
        wait_until_carried(daemons, &[0, 1])?;
        let told = Told::by(&attached)?;
        ensure!(ip.is_none_or(|ip| told.address == format!("{ip}/24")), "{attached}");
        for _ in 0..boots {
            boot(&parts, &folder, &told, ip.is_none(), web)?;
        }
        daemons.hosts[0].say(&["detach", "vm"])?;
        ensure!(!Path::new(socket).exists(), "the socket's file goes with the endpoint");
        Ok(())
    })
}

/// Gives the second node an endpoint.
fn attach_web(daemons: &Daemons) -> Result<&NetNs> {
    let netns = daemons.lab.nodes()[1].endpoints()[0].netns();
    let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd());
    // By which the endpoint reaches itself.
    Netlink::open(netns)?.set_up("lo")?;
    let (place, ip) = (["--tap", ENDPOINT_LINK, "--netns", &path], WEB.to_string());
    daemons.hosts[1]
        .say(&[&["attach", "--network", NETWORK, "--name", "web", "--ip", &ip], &place[..]].concat())?;
    Ok(netns)
}

/// What `attach` says of a machine.
struct Told {
    /// With its prefix length.
    address: String,
    /// What QEMU is to be told.
    network: Vec<String>,
    mtu: String,
}

impl Told {
    fn by(attached: &str) -> Result<Self> {
        let Some((said, line)) = attached.trim_end().split_once('\n') else { bail!("one line: {attached}") };
        let own = said.split_once(": ").map(|(_, own)| own.split(", ").collect::<Vec<_>>());
        let [address, mac, ..] = own.as_deref().unwrap_or_default() else {
            bail!("no addresses: {attached}")
        };
        let mut network: Vec<String> = line.split(' ').map(Into::into).collect();
        let device = network.last_mut().context("a device")?;
        let is_it = device.starts_with(&format!("virtio-net-pci,netdev=n0,mac={mac},host_mtu="));
        ensure!(is_it && mac.starts_with("02:42:0a:4d:00:"), "{attached}");
        let mtu = device.split("host_mtu=").nth(1).context("an MTU")?.to_owned();
        // Without a program to boot from the network, which takes its time.
        device.push_str(",romfile=");
        Ok(Self { address: (*address).into(), network, mtu })
    }
}

/// Boots a machine that pings the endpoint with the largest packets there are, and fetches a page from it: by name, if
/// it has been told by DHCP whom to ask.
fn boot(parts: &Parts, folder: &Path, told: &Told, dhcp: bool, web: &NetNs) -> Result<()> {
    let page: Vec<u8> = (0..PAGE).map(|at| (at.wrapping_mul(0x9e37) >> 7).to_le_bytes()[0]).collect();
    let listener = web.run(|| TcpListener::bind((WEB, 80)))??;
    let Told { address, network, mtu } = told;
    let (settle, server) = if dhcp {
        let client = "udhcpc -f -n -q -t 10 -O mtu -i eth0 -s /bin/lease";
        (format!("mkdir /etc; cat >/bin/lease <<'E'\n{LEASE}E\nchmod +x /bin/lease; {client}"), "web".into())
    } else {
        (format!("ip addr add {address} dev eth0"), WEB.to_string())
    };
    let script = format!(
        "ip link set eth0 up\n{settle}\n\
         mtu=$(cat /sys/class/net/eth0/mtu); echo guest: MTU $mtu\n\
         ping -q -c 3 -w 20 -s $((mtu - 28)) {server} >/ping; echo guest: PING $?\n\
         wget -q -O /page http://{server}/page; echo guest: PAGE $? $(sha256sum </page)"
    );
    let said = thread::scope(|scope| {
        let server = scope.spawn(|| serve(&listener, &page));
        let said = parts.run(folder, network, &script);
        // Let the server end: it may still wait for the guest.
        web.run(|| TcpStream::connect((WEB, 80)))?.ok();
        let served = server.join().expect("the server returns its errors");
        let said = said?;
        served.with_context(|| format!("{said:?}")).map(|()| said)
    })?;
    let sum: String = digest(&SHA256, &page).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let lease = dhcp.then(|| format!("LEASE {address} {GATEWAY} {GATEWAY} {mtu}"));
    let rest = [format!("MTU {mtu}"), "PING 0".into(), format!("PAGE 0 {sum} -"), "END".into()];
    let expected: Vec<String> = lease.into_iter().chain(rest).collect();
    ensure!(said == expected, "{said:?}, not {expected:?}");
    Ok(())
}

/// Answers one request.
fn serve(listener: &TcpListener, page: &[u8]) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("reading the request")?;
        request.extend(byte);
    }
    stream.write_all(format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", page.len()).as_bytes())?;
    stream.write_all(page).context("sending the page")
}
