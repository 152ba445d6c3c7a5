//! A virtual machine in a network, and an endpoint on another node.

mod archive;
mod guest;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use ring::digest::{SHA256, digest};
use vswitchd::lab::ENDPOINT_LINK;
use vswitchd::namespace::netns::NetNs;

use self::guest::Parts;
use super::daemons::{Daemons, wait_until, with_daemons};
use super::overlay::wait_until_carried;
use crate::fixture::PATIENCE;

const NETWORK: &str = "gooseberry";
const WEB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
const MACHINE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 20);
/// Bytes of the page: many segments, and windows.
const PAGE: usize = 3 << 20;

/// At a stream: one machine after the other, on an encrypted network.
pub(super) fn at_a_stream() -> Result<()> {
    machine("stream", "--qemu-stream", &["--opt", "encrypted"], 2)
}

/// By datagrams, on a plain network.
pub(super) fn by_datagrams() -> Result<()> {
    machine("datagrams", "--qemu-dgram", &[], 1)
}

fn machine(name: &str, option: &str, kind: &[&str], boots: usize) -> Result<()> {
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
        let place = ["--network", NETWORK, "--name", "vm", "--ip", &MACHINE.to_string(), option, socket];
        let attached = daemons.hosts[0].say(&[&["attach"], &place[..]].concat())?;
        wait_until_carried(daemons, &[0, 1])?;
        let network = network_arguments(&attached)?;
        for _ in 0..boots {
            boot(&parts, &folder, &network, web)?;
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
    let (place, ip) = (["--tap", ENDPOINT_LINK, "--netns", &path], WEB.to_string());
    daemons.hosts[1]
        .say(&[&["attach", "--network", NETWORK, "--name", "web", "--ip", &ip], &place[..]].concat())?;
    Ok(netns)
}

/// What QEMU is to be told, as `attach` prints it; without a program to boot from the network, which takes its
/// time.
fn network_arguments(attached: &str) -> Result<Vec<String>> {
    let line = attached.lines().nth(1).context("a line for QEMU")?;
    let arguments: Vec<String> = line.split(' ').map(Into::into).collect();
    let is_whole = arguments.len() == 4 && arguments[3].contains("mac=02:42:0a:4d:00:14,host_mtu=");
    ensure!(is_whole, "{attached}");
    Ok([&arguments[..3], &[format!("{},romfile=", arguments[3])]].concat())
}

/// Boots a machine that pings the endpoint with the largest packets there are, and fetches a page from it.
fn boot(parts: &Parts, folder: &Path, network: &[String], web: &NetNs) -> Result<()> {
    let page: Vec<u8> = (0..PAGE).map(|at| (at.wrapping_mul(0x9e37) >> 7).to_le_bytes()[0]).collect();
    let listener = web.run(|| TcpListener::bind((WEB, 80)))??;
    let script = format!(
        "ip addr add {MACHINE}/24 dev eth0 && ip link set eth0 up\n\
         mtu=$(cat /sys/class/net/eth0/mtu); echo guest: MTU $mtu\n\
         ping -q -c 3 -w 20 -s $((mtu - 28)) {WEB} >/ping; echo guest: PING $?\n\
         wget -q -O /page http://{WEB}/page; echo guest: PAGE $? $(sha256sum </page)"
    );
    let said = thread::scope(|scope| {
        let server = scope.spawn(|| serve(&listener, &page));
        let said = parts.run(folder, network, &script);
        if said.is_err() {
            // Let the server end: it may still wait for the guest.
            web.run(|| TcpStream::connect((WEB, 80)))?.ok();
        }
        let served = server.join().expect("the server returns its errors");
        said.and_then(|said| served.map(|()| said))
    })?;
    let sum: String = digest(&SHA256, &page).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let mtu =
        network[3].split("host_mtu=").nth(1).and_then(|rest| rest.split(',').next()).context("an MTU")?;
    ensure!(
        said == [format!("MTU {mtu}"), "PING 0".into(), format!("PAGE 0 {sum} -"), "END".into()],
        "{said:?}"
    );
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
