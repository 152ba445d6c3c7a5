//! Whether a task's program takes connections yet: whether somebody listens at its ports, in its namespace.
//!
//! The kernel says so in `/proc/PID/net/tcp` and `tcp6` (proc_pid_net(5)), for the namespace of that process: of a task it is
//! the one that holds its namespaces, which is there as long as the task is.
//!
//! ```text
//!   sl  local_address rem_address   st tx_queue rx_queue ...
//!    0: 00000000:0050 00000000:0000 0A 00000000:00000000 ...
//! ```
//!
//! An address is one or four 32-bit words in the machine's byte order, a port is a number, and state `0A` is LISTEN.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP's state of a socket that listens, as the kernel's tables have it.
const LISTEN: &str = "0A";
/// Bytes of a table that are read, about 1,700 sockets: those that listen come first.
const TABLE_MAX: u64 = 256 << 10;

/// Why a task that has that process does not take connections at these TCP ports yet; nothing if it does.
pub(super) fn waits_for(pid: u32, ports: &[u16]) -> Option<String> {
    if ports.is_empty() {
        return None;
    }
    let mut table = Vec::new();
    for name in ["tcp", "tcp6"] {
        match read(pid, name, &mut table) {
            Ok(()) => {}
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && name == "tcp6" => {}
            Err(error) => return Some(format!("whether it listens can't be seen: {error}")),
        }
    }
    missing(&listening(&table), ports)
}

fn read(pid: u32, name: &str, table: &mut Vec<u8>) -> io::Result<()> {
    File::open(format!("/proc/{pid}/net/{name}"))?.take(TABLE_MAX).read_to_end(table).map(drop)
}

/// Of the first port that nobody listens at.
fn missing(listening: &BTreeMap<u16, IpAddr>, ports: &[u16]) -> Option<String> {
    ports.iter().find_map(|port| match listening.get(port) {
        None => Some(format!("port {port}/tcp of it does not listen yet")),
        Some(at) if at.is_loopback() => Some(format!("port {port}/tcp of it listens at {at} only")),
        Some(_) => None,
    })
}

/// The ports of a table that somebody listens at, each with an address: one that is no loopback's if there is one.
fn listening(table: &[u8]) -> BTreeMap<u16, IpAddr> {
    let mut found = BTreeMap::<u16, IpAddr>::new();
    for line in table.split(|&byte| byte == b'\n') {
        let Some((address, port)) = str::from_utf8(line).ok().and_then(socket) else { continue };
        let known = found.entry(port).or_insert(address);
        if known.is_loopback() {
            *known = address;
        }
    }
    found
}

/// The local address of a socket that listens.
fn socket(line: &str) -> Option<(IpAddr, u16)> {
    let mut words = line.split_ascii_whitespace();
    let (local, state) = (words.nth(1)?, words.nth(1)?);
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == LISTEN).then_some((ip(address)?.to_canonical(), port))
}

fn ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (at, four) in octets.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use proptest::prelude::*;

    use super::*;

    /// An address as this machine's kernel writes it.
    fn written(address: IpAddr) -> String {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let word = |four: &[u8]| format!("{:08X}", u32::from_ne_bytes(four.try_into().unwrap()));
        octets.chunks(4).map(word).collect()
    }

    fn line(address: &str, port: u16, state: &str) -> String {
        let address = written(address.parse().unwrap());
        format!(
            "   0: {address}:{port:04X} {address}:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 1\n"
        )
    }

    fn why(table: &str, ports: &[u16]) -> Option<String> {
        missing(&listening(table.as_bytes()), ports)
    }

    #[test]
    fn all_ports_must_listen_where_others_reach_them() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n";
        let yet = Some("port 80/tcp of it does not listen yet".to_owned());
        assert_eq!([why("", &[80]), why(head, &[80])], [yet.clone(), yet.clone()]);
        assert_eq!(why(&(head.to_owned() + &line("0.0.0.0", 80, "0A")), &[80]), None);
        assert_eq!(why(&line("::", 80, "0A"), &[80]), None);
        assert_eq!(why(&line("10.0.9.7", 80, "01"), &[80]), yet, "a connection is no listener");
        let both = line("0.0.0.0", 80, "0A") + &line("::", 443, "0A");
        assert_eq!(why(&both, &[80, 443]), None);
        assert_eq!(why(&both, &[443, 8080]).unwrap(), "port 8080/tcp of it does not listen yet");
    }

    #[test]
    fn who_listens_to_itself_alone_is_not_reached() {
        for (address, shown) in
            [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::ffff:127.0.0.1", "127.0.0.1")]
        {
            let alone = line(address, 80, "0A");
            assert_eq!(why(&alone, &[80]).unwrap(), format!("port 80/tcp of it listens at {shown} only"));
            let other = line("10.0.9.7", 80, "0A");
            assert_eq!([why(&(alone.clone() + &other), &[80]), why(&(other + &alone), &[80])], [None, None]);
        }
    }

    #[test]
    fn the_kernels_own_tables_are_read() {
        let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = loopback.local_addr().unwrap().port();
        let _client = TcpStream::connect(loopback.local_addr().unwrap()).unwrap();
        let waits = waits_for(std::process::id(), &[port]);
        assert_eq!(waits.unwrap(), format!("port {port}/tcp of it listens at 127.0.0.1 only"));
        let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = everywhere.local_addr().unwrap().port();
        assert_eq!(waits_for(std::process::id(), &[port]), None);
        drop(everywhere);
        assert!(waits_for(std::process::id(), &[port]).is_some());
        assert_eq!(waits_for(0, &[]), None, "who publishes nothing is not looked at");
        assert!(waits_for(0, &[80]).unwrap().contains("can't be seen"));
    }

    proptest! {
        #[test]
        fn bytes_that_nobody_expects_are_no_listeners(bytes: Vec<u8>, port: u16) {
            let _some_or_none = missing(&listening(&bytes), &[port]);
        }

        #[test]
        fn lines_that_are_cut_or_changed_do_no_harm(
            at in 0_usize..150, byte: u8, cut in 0_usize..150, v6: bool,
        ) {
            let whole = line(if v6 { "::" } else { "0.0.0.0" }, 80, "0A").into_bytes();
            let mut changed = whole.clone();
            if let Some(place) = changed.get_mut(at) {
                *place = byte;
            }
            let _any = listening(&changed);
            let part = listening(&whole[..cut.min(whole.len())]);
            prop_assert!(part.keys().all(|&port| port == 80), "a part of a line is not another port");
        }
    }
}
