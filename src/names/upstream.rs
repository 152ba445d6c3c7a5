//! Who is asked for names that a zone does not have: the host's own resolvers, as resolv.conf(5) lists them.

use std::net::{IpAddr, SocketAddr};

/// Resolvers that are asked at most, as many as the C library does (resolv.conf(5), MAXNS).
pub const UPSTREAMS_MAX: usize = 3;

/// DNS (RFC 1035 §4.2).
const PORT: u16 = 53;

/// The resolvers of a resolv.conf, the first [`UPSTREAMS_MAX`] that are addresses. Link-local ones with a zone are left
/// out: it means an interface of the file's owner.
#[must_use]
pub fn upstreams(resolv_conf: &str) -> Vec<SocketAddr> {
    let servers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    });
    servers.take(UPSTREAMS_MAX).map(|server| SocketAddr::new(server, PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_servers_are_taken() {
        let file = "# nameserver 9.9.9.9\nsearch example.org\n nameserver\t192.0.2.1 # ours\nnameserver fe80::1%eth0\n\
                    nameserver 2001:db8::53\nnameserver\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        let expected = ["192.0.2.1:53", "[2001:db8::53]:53", "192.0.2.3:53"];
        assert_eq!(upstreams(file), expected.map(|server| server.parse().unwrap()));
        assert_eq!(upstreams(""), []);
    }
}
