//! Router advertisements (RFC 4861 §6.2): when they are due, and what they say.
//!
//! Addresses are given out by the cluster, and there is no DHCPv6, so neither is announced: prefixes are on the
//! link, and nobody makes addresses of them (no autonomous flag). What a host learns is its router (none on an
//! internal network: lifetime 0), resolver and search domain (RFC 8106), and the MTU. A gateway is a router of
//! low preference (RFC 4191), so that a host which also has a way out of its own keeps to that.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use hickory_proto::serialize::binary::BinEncodable;

use super::addresses::Addresses;
use super::tables::Tables;

/// RFC 4861 §6.2.1: MinRtrAdvInterval and MaxRtrAdvInterval, in seconds.
const INTERVAL_S: std::ops::RangeInclusive<u64> = 200..=600;
/// RFC 4861 §10: MAX_INITIAL_RTR_ADVERTISEMENTS, and the interval of those.
const INITIAL: (u32, Duration) = (3, Duration::from_secs(16));
/// AdvDefaultLifetime, and how long resolvers and domains hold: three intervals (RFC 4861 §6.2.1, RFC 8106 §5.1).
const LIFETIME_S: u16 = 1_800;
/// AdvValidLifetime and AdvPreferredLifetime of prefixes: thirty days, seven days.
const PREFIX_S: (u32, u32) = (2_592_000, 604_800);
/// AdvCurHopLimit.
const HOP_LIMIT: u8 = 64;
/// RFC 4191 §2.1: a low preference, among the flags.
const LOW_PREFERENCE: u8 = 0b11 << 3;
/// The prefix is on the link.
const ON_LINK: u8 = 0x80;
/// RFC 8106 §5.3.1: more resolvers than these are used by nobody.
const RESOLVERS_MAX: usize = 3;
/// Types of options: RFC 4861 §4.6, RFC 8106 §5.
const SOURCE_LINK_LAYER: u8 = 1;
const PREFIX: u8 = 3;
const MTU: u8 = 5;
const RDNSS: u8 = 25;
const DNSSL: u8 = 31;
/// Options have lengths in units of so many bytes.
const UNIT: usize = 8;

/// When the next one is due that nobody has asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beacon {
    due: Instant,
    sent: u32,
}

impl Beacon {
    /// The first is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now, sent: 0 }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Whether it is due; then the next one is set.
    pub(super) fn poll(&mut self, rng: &mut fastrand::Rng, now: Instant) -> bool {
        if now < self.due {
            return false;
        }
        self.sent = self.sent.saturating_add(1);
        let pause = Duration::from_secs(rng.u64(INTERVAL_S));
        self.due = now + if self.sent < INITIAL.0 { pause.min(INITIAL.1) } else { pause };
        true
    }
}

/// The message behind its type, code and checksum: first the four bytes that ICMP's header has, then the rest.
pub(super) fn message(tables: &Tables, at: &Addresses) -> ([u8; 4], Vec<u8>) {
    let lifetime = if tables.zone.is_internal() { 0 } else { LIFETIME_S };
    let [high, low] = lifetime.to_be_bytes();
    // RFC 4191 §2.2: a router that is none has no preference.
    let flags = if lifetime == 0 { 0 } else { LOW_PREFERENCE };
    // Reachable time and retransmission timer are left to the host.
    let mut rest = vec![0; 8];
    option(&mut rest, SOURCE_LINK_LAYER, &at.mac().0);
    if tables.mtu > 0 {
        option(&mut rest, MTU, &[&[0, 0][..], &u32::from(tables.mtu).to_be_bytes()].concat());
    }
    for net in at.all().iter().filter_map(|own| own.subnet) {
        if let IpAddr::V6(first) = net.first() {
            option(&mut rest, PREFIX, &prefix(first, net.length()));
        }
    }
    let resolvers = at.all().iter().filter_map(|own| match own.address {
        IpAddr::V6(address) => Some(address.octets()),
        IpAddr::V4(_) => None,
    });
    let resolvers: Vec<_> = resolvers.take(RESOLVERS_MAX).collect();
    option(&mut rest, RDNSS, &[&timed()[..], &resolvers.concat()].concat());
    // As DNS has it (RFC 1035 §3.1).
    if let Some(domain) = tables.domain().and_then(|domain| domain.to_bytes().ok()) {
        option(&mut rest, DNSSL, &[&timed()[..], &domain].concat());
    }
    ([HOP_LIMIT, flags, high, low], rest)
}

/// RFC 4861 §4.6.2, behind type and length.
fn prefix(first: Ipv6Addr, length: u8) -> Vec<u8> {
    let (valid, preferred) = PREFIX_S;
    let times = [valid.to_be_bytes(), preferred.to_be_bytes()].concat();
    [&[length, ON_LINK][..], &times, &[0; 4], &first.octets()].concat()
}

/// RFC 8106 §5: what is reserved, and how long the rest holds.
fn timed() -> Vec<u8> {
    [&[0, 0][..], &u32::from(LIFETIME_S).to_be_bytes()].concat()
}

/// Adds an option, filled with zeros to whole units.
fn option(rest: &mut Vec<u8>, kind: u8, body: &[u8]) {
    let units = (2 + body.len()).div_ceil(UNIT);
    let Ok(length) = u8::try_from(units) else { return };
    rest.extend([kind, length]);
    rest.extend(body);
    rest.resize(rest.len() + units * UNIT - 2 - body.len(), 0);
}

#[cfg(test)]
mod tests {
    use super::super::addresses::Own;
    use super::*;
    use crate::api::IpPrefix;
    use crate::names::Zone;

    fn at() -> Addresses {
        let own = |address: &str, length| {
            let address: IpAddr = address.parse().unwrap();
            Own { address, subnet: IpPrefix::around(address, length) }
        };
        Addresses::of(vec![own("10.0.9.1", 24), own("fd00:9::1", 64), own("fd00:7::1", 60)]).unwrap()
    }

    /// Type and body of each option.
    fn options(rest: &[u8]) -> Vec<(u8, &[u8])> {
        let (mut found, mut rest) = (Vec::new(), &rest[8..]);
        while let [kind, units, ..] = *rest {
            let (option, behind) = rest.split_at(usize::from(units) * UNIT);
            found.push((kind, &option[2..]));
            rest = behind;
        }
        found
    }

    #[test]
    fn hosts_hear_of_router_prefixes_resolver_and_mtu() {
        let tables = Tables { mtu: 1_400, ..Tables::from(Zone::new("front.end", false)) };
        let (head, rest) = message(&tables, &at());
        assert_eq!(head, [64, 0x18, 0x07, 0x08]);
        let lifetime = [0, 0, 0, 0, 0x07, 0x08];
        let net = |first: &str| first.parse::<Ipv6Addr>().unwrap().octets();
        let prefix = |first, length| {
            [&[length, ON_LINK, 0, 0x27, 0x8d, 0, 0, 9, 0x3a, 0x80, 0, 0, 0, 0], &net(first)[..]].concat()
        };
        let expected = [
            (SOURCE_LINK_LAYER, at().mac().0.to_vec()),
            (MTU, vec![0, 0, 0, 0, 0x05, 0x78]),
            (PREFIX, prefix("fd00:9::", 64)),
            (PREFIX, prefix("fd00:7::", 60)),
            (RDNSS, [&lifetime[..], &net("fd00:9::1"), &net("fd00:7::1")].concat()),
            (DNSSL, [&lifetime[..], b"\x05front\x03end\0", &[0; 5]].concat()),
        ];
        let found = options(&rest);
        assert_eq!(found, expected.each_ref().map(|(kind, body)| (*kind, &body[..])));
    }

    #[test]
    fn an_internal_networks_gateway_is_no_router() {
        let tables = Tables::from(Zone::new("front", true));
        let (head, rest) = message(&tables, &at());
        assert_eq!(head, [64, 0, 0, 0]);
        let found = options(&rest);
        assert!(found.iter().any(|(kind, _)| *kind == RDNSS) && found.iter().all(|(kind, _)| *kind != MTU));
    }

    #[test]
    fn the_first_three_come_soon_and_others_seldom() {
        let (mut rng, start) = (fastrand::Rng::with_seed(7), Instant::now());
        let mut beacon = Beacon::new(start);
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..50 {
            assert!(beacon.poll(&mut rng, now));
            assert!(!beacon.poll(&mut rng, now));
            pauses.push((beacon.due() - now).as_secs());
            now = beacon.due();
        }
        assert_eq!(pauses[..2], [16, 16]);
        assert!(pauses[2..].iter().all(|pause| INTERVAL_S.contains(pause)), "{pauses:?}");
    }
}
