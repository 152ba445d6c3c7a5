//! TCP over links that lose, double, overtake and mark: every byte compared, with each of TCP's ways of coping.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vswitchd::lab::underlay::Underlay;
use vswitchd::lab::{ENDPOINT_LINK, Endpoint, Lab, Plan, Shape, UnderlayKind, WirePlan};
use vswitchd::namespace::netlink::Netlink;
use vswitchd::namespace::netns::NetNs;
use vswitchd::switch::io::Frame;
use vswitchd::switch::io::mem::Faults;
use vswitchd::switch::io::tap::{Offloads, Tap, TapConfig};

use crate::Test;
use crate::fixture::{counted, lab, lab_of, seeded, set, shape, tcp, udp_both_ways};
use crate::relay::{Relay, mark, tag, untag};
use crate::station::station;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("links::tcp_over_one_that_loses", || faulty(Faults { loss: 0.01, ..SLOW }, false)),
        ("links::tcp_over_one_that_doubles", || faulty(Faults { duplicate: 0.05, ..SLOW }, false)),
        ("links::tcp_over_one_that_overtakes", || faulty(Faults { reorder: 0.02, ..SLOW }, true)),
        ("links::tcp_over_one_that_does_all_of_it", || faulty(ALL, true)),
        ("links::tcp_over_one_that_marks_congestion", marking),
        ("links::tcp_and_udp_in_vlan_tags", tagged),
    ]
}

/// Slow enough for several packets to be on their way.
const SLOW: Faults = Faults {
    loss: 0.0,
    duplicate: 0.0,
    reorder: 0.0,
    delay: Duration::from_micros(200),
    jitter: Duration::from_micros(100),
};
const ALL: Faults = Faults { loss: 0.005, duplicate: 0.02, reorder: 0.02, ..SLOW };

/// Of each transfer; 4 ways of coping, 2 IP versions.
const BYTES: usize = 3 << 20;
const BULK: usize = 64 << 20;

fn faulty(faults: Faults, ipv6_underlay: bool) -> Result<()> {
    let seed = seeded().u64(..);
    let underlay = UnderlayKind::Wire;
    let plan = Plan::new(Shape { underlay, ..shape(2, 1, 1, ipv6_underlay) })?;
    let lab = lab_of(Plan { wire: WirePlan { faults, seed }, ..plan }, &[])?;
    let [a, b] = [0, 1].map(|node| &lab.nodes()[node].endpoints()[0]);
    for coping in [["1", "1"], ["1", "0"], ["0", "1"], ["0", "0"]] {
        for netns in [a.netns(), b.netns()] {
            set(netns, "ipv4/tcp_ecn", "1")?;
            set(netns, "ipv4/tcp_sack", coping[0])?;
            set(netns, "ipv4/tcp_timestamps", coping[1])?;
        }
        let context = || format!("SACK and timestamps {coping:?}");
        tcp(a.netns(), b.netns(), b.plan().v4.into(), BYTES).with_context(context)?;
        tcp(b.netns(), a.netns(), a.plan().v6.into(), BYTES).with_context(context)?;
    }
    check_counts(&lab, faults)
}

/// The link did what it was there for.
fn check_counts(lab: &Lab, faults: Faults) -> Result<()> {
    let Underlay::Wire(wire) = lab.underlay() else { unreachable!("a wire was planned") };
    let counts = wire.counts();
    for (share, count) in [
        (faults.loss, counts.lost),
        (faults.duplicate, counts.duplicated),
        (faults.reorder, counts.reordered),
    ] {
        ensure!((share > 0.0) == (count > 0), "{counts:?}");
    }
    Ok(())
}

/// A host behind an endpoint's: its TAP and the endpoint's are joined by a relay.
struct Behind {
    netns: NetNs,
    v4: IpAddr,
    v6: IpAddr,
    relay: Relay,
}

impl Behind {
    /// Host `number` of the endpoint's network, whose packets are `less` bytes shorter than the endpoint's.
    fn new(
        endpoint: &Endpoint,
        number: u8,
        less: u32,
        change: impl FnMut(usize, &mut Frame) -> bool + Send + 'static,
    ) -> Result<Self> {
        let netns = NetNs::create()?;
        let outside = station(endpoint, Offloads::ALL)?;
        let mtu = Netlink::open(endpoint.netns())?.link(ENDPOINT_LINK)?.mtu - less;
        let inside = TapConfig { mtu: Some(mtu), ..TapConfig::new(ENDPOINT_LINK) };
        let inside = netns.run(|| Tap::open(&inside))??;
        let v4 = Ipv4Addr::new(10, 1, 99, number).into();
        let v6 = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 99, number.into()).into();
        let mut netlink = Netlink::open(&netns)?;
        netlink.set_up("lo")?;
        netlink.add_address(ENDPOINT_LINK, v4, 16)?;
        netlink.add_address(ENDPOINT_LINK, v6, 64)?;
        let relay = Relay::start([inside, outside], change)?;
        Ok(Self { netns, v4, v6, relay })
    }
}

/// Super-frames that carry CE, ECE and CWR: marked behind the second switch as by a congested router.
fn marking() -> Result<()> {
    const MARKED: u32 = 16;
    let lab = lab(shape(2, 1, 1, false), &[])?;
    let [a, b] = [0, 1].map(|node| &lab.nodes()[node].endpoints()[0]);
    let mut rng = seeded();
    let b = Behind::new(b, 1, 0, move |_, frame| {
        // What can't be marked is carried all the same.
        let _marked = rng.u32(..MARKED) == 0 && mark(frame);
        true
    })?;
    for netns in [a.netns(), &b.netns] {
        set(netns, "ipv4/tcp_ecn", "1")?;
    }
    tcp(a.netns(), &b.netns, b.v4, BULK).context("IPv4, there")?;
    tcp(&b.netns, a.netns(), a.plan().v4.into(), BULK).context("IPv4, back")?;
    tcp(a.netns(), &b.netns, b.v6, BULK).context("IPv6, there")?;
    tcp(&b.netns, a.netns(), a.plan().v6.into(), BULK).context("IPv6, back")?;
    b.relay.stop()?;
    for netns in [a.netns(), &b.netns] {
        // What was marked arrived so, and who had sent it was told.
        ensure!(
            counted(netns, "netstat", "InCEPkts")? > 0 && counted(netns, "netstat", "TCPDeliveredCE")? > 0
        );
    }
    Ok(())
}

/// Tagged super-frames, cut by one switch and delivered by the other.
fn tagged() -> Result<()> {
    let lab = lab(shape(2, 1, 1, false), &[])?;
    let host = |node: usize, number| {
        let endpoint = &lab.nodes()[node].endpoints()[0];
        // The tag is among the bytes that the underlay carries.
        Behind::new(endpoint, number, 4, |from, frame| match from {
            0 => tag(frame, 7),
            _ => untag(frame, 7),
        })
    };
    let (a, b) = (host(0, 1)?, host(1, 2)?);
    tcp(&a.netns, &b.netns, b.v4, BULK).context("IPv4, there")?;
    tcp(&b.netns, &a.netns, a.v6, BULK).context("IPv6, back")?;
    udp_both_ways(&a.netns, &b.netns, a.v4, b.v4, 1_446 - 28)?;
    udp_both_ways(&b.netns, &a.netns, b.v6, a.v6, 1_446 - 48)?;
    a.relay.stop()?;
    b.relay.stop()
}
