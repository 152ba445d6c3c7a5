//! On loopback, without rights.

use std::net::{Ipv4Addr, Ipv6Addr};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::outbox::Transmit;
use crate::tables::*;
use crate::vtep::VtepId;

fn bound(local: IpAddr, source_ports: usize, segmentation: bool) -> Udp {
    Udp::bind(&UdpConfig { port: 0, source_ports, segmentation, ..UdpConfig::new(local, 7) }).unwrap()
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
