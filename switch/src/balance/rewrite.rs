//! Other addresses for a packet, in place: MAC, IP, and those in what an ICMP error quotes.
//!
//! Checksums are changed by what the addresses have changed (RFC 1624 §3, equation 3), so a super-frame costs no more than
//! a small one, and damage stays visible. One that is unfinished holds the pseudo-header's sum, not inverted, and is
//! changed accordingly. TTL and ports stay.

use std::net::IpAddr;

use super::flows::Flow;
use super::packet::{Kind, Packet, Quoted};
use crate::wire::MacAddr;
use crate::wire::checksum::Sum;
use crate::wire::ethernet::Header;
use crate::wire::flow::field::{ipv4, ipv6};
use crate::wire::flow::{IpVersion, UDP};
use crate::wire::virtio::Checksum;

/// What a packet gets instead of what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rewrite {
    source: Option<(IpAddr, MacAddr)>,
    destination: Option<(IpAddr, MacAddr)>,
    /// In the packet that an error quotes.
    quoted_source: Option<IpAddr>,
    quoted_destination: Option<IpAddr>,
}

impl Rewrite {
    /// For a packet from the client. If the client is the task, its own address would be refused as a source: so it hears
    /// from the virtual address, and answers there.
    pub(super) fn to_task(flow: &Flow) -> Self {
        let destination = Some((flow.task, flow.task_mac));
        if flow.is_hairpin() {
            let source = Some((flow.vip, flow.vip_mac));
            return Self {
                source,
                destination,
                quoted_source: Some(flow.task),
                quoted_destination: Some(flow.vip),
            };
        }
        Self { destination, quoted_source: Some(flow.task), ..Self::default() }
    }

    /// For a packet to the client, from the task or, if it is an error, from a router on the way there, which has
    /// an address of its own.
    pub(super) fn to_client(flow: &Flow, from: IpAddr) -> Self {
        let source = (from == flow.task).then_some((flow.vip, flow.vip_mac));
        Self { source, quoted_destination: Some(flow.vip), ..Self::default() }
    }

    /// Changes a frame in which `packet` was found, and its parsed header.
    pub(super) fn apply(&self, frame: &mut [u8], header: &mut Header, packet: &Packet, checksum: Checksum) {
        if let Some((_, mac)) = self.destination {
            header.destination = mac;
            frame[..6].copy_from_slice(&mac.0);
        }
        if let Some((_, mac)) = self.source {
            header.source = mac;
            frame[6..12].copy_from_slice(&mac.0);
        }
        let [source, destination] = [self.source, self.destination].map(|to| to.map(|(address, _)| address));
        let addresses = change_ip(&mut frame[packet.ip_start..], packet.ip, source, destination);
        let Some(at) = packet.checksum() else { return };
        let pseudo = if packet.has_pseudo_header() { addresses } else { Sum::default() };
        let start_offset = (packet.start, at - packet.start);
        let unfinished = matches!(checksum, Checksum::Partial { start, offset }
            if (usize::from(start), usize::from(offset)) == start_offset);
        let content = match packet.kind {
            Kind::Error(quoted) => self.change_quoted(frame, packet.ip, quoted),
            _ => Sum::default(),
        };
        let field = &mut frame[at..at + 2];
        if unfinished {
            // It covers the content when it is finished, and the pseudo-header already.
            let sum = Sum::default().bytes(field).plus(pseudo).fold();
            field.copy_from_slice(&sum);
        } else if packet.kind == Kind::Udp {
            change_udp(field, pseudo);
        } else {
            change(field, content.plus(pseudo));
        }
    }

    /// Gives by how much the bytes quoted have changed.
    fn change_quoted(&self, frame: &mut [u8], ip: IpVersion, quoted: Quoted) -> Sum {
        let header = &mut frame[quoted.ip_start..];
        let before = ip_checksum(header, ip);
        let addresses = change_ip(header, ip, self.quoted_source, self.quoted_destination);
        let mut changed = addresses.plus(difference(&before, &ip_checksum(header, ip)));
        if let Some(at) = quoted.checksum {
            let field = &mut frame[at..at + 2];
            let before = [field[0], field[1]];
            if quoted.protocol == UDP {
                change_udp(field, addresses);
            } else {
                change(field, addresses);
            }
            changed = changed.plus(difference(&before, field));
        }
        changed
    }
}

/// The checksum of an IP header, if it has one.
fn ip_checksum(header: &[u8], ip: IpVersion) -> [u8; 2] {
    match ip {
        IpVersion::V4 => [header[ipv4::CHECKSUM.start], header[ipv4::CHECKSUM.start + 1]],
        IpVersion::V6 => [0, 0],
    }
}

/// Changes the addresses of an IP header, and its checksum. Gives by how much the addresses have changed.
fn change_ip(header: &mut [u8], ip: IpVersion, source: Option<IpAddr>, destination: Option<IpAddr>) -> Sum {
    let places = match ip {
        IpVersion::V4 => [ipv4::SOURCE, ipv4::DESTINATION],
        IpVersion::V6 => [ipv6::SOURCE, ipv6::DESTINATION],
    };
    let mut changed = Sum::default();
    for (at, to) in places.into_iter().zip([source, destination]) {
        changed = match to {
            Some(IpAddr::V4(address)) => changed.plus(put(&mut header[at..], address.octets())),
            Some(IpAddr::V6(address)) => changed.plus(put(&mut header[at..], address.octets())),
            None => changed,
        };
    }
    if ip == IpVersion::V4 {
        change(&mut header[ipv4::CHECKSUM], changed);
    }
    changed
}

/// Writes an address; gives by how much the sum over it has changed.
fn put<const N: usize>(place: &mut [u8], address: [u8; N]) -> Sum {
    let place = &mut place[..N];
    let changed = difference(place, &address);
    place.copy_from_slice(&address);
    changed
}

/// What `after` sums up to, less what `before` does.
fn difference(before: &[u8], after: &[u8]) -> Sum {
    let inverse = Sum::default().bytes(before).finish();
    Sum::default().bytes(after).bytes(&inverse)
}

/// Changes a checksum by what its bytes have changed.
fn change(field: &mut [u8], changed: Sum) {
    let inverse = [!field[0], !field[1]];
    field.copy_from_slice(&Sum::default().bytes(&inverse).plus(changed).finish());
}

/// The same, where zero means that there is no checksum (RFC 768).
fn change_udp(field: &mut [u8], changed: Sum) {
    if *field == [0, 0] {
        return;
    }
    change(field, changed);
    if *field == [0, 0] {
        field.fill(0xff);
    }
}
