//! Our switches with Linux's own vxlan device at the other end.
//!
//! On a veth underlay that device leaves inner checksums unfinished: ping works and TCP hangs where nobody minds.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use vswitchd::lab::underlay::UPLINK;
use vswitchd::lab::{Lab, Plan, Shape};
use vswitchd::namespace::netlink::{Netlink, VethEnd, VxlanDevice};
use vswitchd::namespace::netns::NetNs;
use vswitchd::switch::wire::{MacAddr, vxlan};

use crate::Test;
use crate::fixture::{counters, offload_arguments, program, shape, start, tcp, udp_both_ways};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("kernel_vxlan::one_remote_over_an_ipv4_underlay", || one_remote(false, 1_500, &[])),
        ("kernel_vxlan::one_remote_over_an_ipv6_underlay", || one_remote(true, 1_500, &[])),
        ("kernel_vxlan::one_remote_over_a_jumbo_underlay", || one_remote(false, 9_000, &[])),
        ("kernel_vxlan::one_remote_without_offloads", || one_remote(false, 1_500, &["--no-offload"])),
        ("kernel_vxlan::a_bridge_and_two_of_our_hosts_over_ipv4", || bridge(false)),
        ("kernel_vxlan::a_bridge_and_two_of_our_hosts_over_ipv6", || bridge(true)),
    ]
}

const GIBIBYTE: usize = 1 << 30;
const BULK: usize = 64 << 20;

/// The addresses that the plan would have given to an endpoint of a node that runs the kernel's device instead.
pub(crate) struct Foreign {
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
    mac: MacAddr,
}

/// A plan whose last node has no switch and no endpoints, and the address of its first one.
pub(crate) fn plan(shape: Shape) -> Result<(Plan, Foreign)> {
    let mut plan = Plan::new(shape)?;
    let last = plan.nodes.last_mut().context("there are nodes")?;
    let endpoint = last.endpoints.drain(..).next().context("an endpoint was asked for")?;
    Ok((plan, Foreign { v4: endpoint.v4.into(), v6: endpoint.v6.into(), mac: endpoint.mac }))
}

/// The kernel's device for a node, in the first network.
pub(crate) fn device(lab: &Lab, node: usize, remote: Option<IpAddr>) -> VxlanDevice {
    let plan = &lab.plan().networks[0];
    VxlanDevice {
        vni: plan.vni,
        local: lab.nodes()[node].plan().address,
        remote,
        port: vxlan::PORT,
        lower: Some(UPLINK.into()),
        learning: true,
        mac: None,
        mtu: None,
    }
}

pub(crate) fn give_addresses(netlink: &mut Netlink, link: &str, foreign: &Foreign) -> Result<()> {
    netlink.set_mac(link, foreign.mac)?;
    netlink.set_up(link)?;
    netlink.add_address(link, foreign.v4, 16)?;
    netlink.add_address(link, foreign.v6, 64)?;
    Ok(())
}

/// Bulk and datagrams of all sizes between one of our endpoints and the foreign one, both ways, both families.
fn exchange(lab: &Lab, node: usize, there: &NetNs, foreign: &Foreign, bulk: usize) -> Result<()> {
    let ours = &lab.nodes()[node].endpoints()[0];
    let (here, plan) = (ours.netns(), ours.plan());
    tcp(here, there, foreign.v4, bulk).context("IPv4, to the kernel")?;
    tcp(there, here, plan.v4.into(), bulk).context("IPv4, from the kernel")?;
    tcp(here, there, foreign.v6, bulk).context("IPv6, to the kernel")?;
    tcp(there, here, plan.v6.into(), bulk).context("IPv6, from the kernel")?;
    udp_both_ways(here, there, plan.v4.into(), foreign.v4, 1_300).context("UDP, IPv4")?;
    udp_both_ways(there, here, foreign.v6, plan.v6.into(), 1_300).context("UDP, IPv6")
}

fn one_remote(ipv6: bool, underlay_mtu: u32, arguments: &[&str]) -> Result<()> {
    let (plan, foreign) = plan(shape(2, 1, 1, ipv6))?;
    let mut lab = Lab::build(Plan { underlay_mtu, ..plan })?;
    start(&mut lab, 0..1, arguments)?;
    let there = lab.nodes()[1].netns();
    let mut netlink = Netlink::open(there)?;
    netlink.add_vxlan("vx0", &device(&lab, 1, Some(lab.nodes()[0].plan().address)))?;
    give_addresses(&mut netlink, "vx0", &foreign)?;
    let plain = !ipv6 && underlay_mtu == 1_500 && arguments.is_empty() && offload_arguments().is_empty();
    exchange(&lab, 0, there, &foreign, if plain { GIBIBYTE } else { BULK })?;
    let drops = &counters(program(&lab, 0)?)?["drops"];
    ensure!(drops.as_object().is_some_and(serde_json::Map::is_empty), "drops on a clean network: {drops}");
    Ok(())
}

/// As Docker lays it: a bridge with the vxlan device, flooding to every remote, and a veth into the container.
fn bridge(ipv6: bool) -> Result<()> {
    let (plan, foreign) = plan(shape(3, 1, 1, ipv6))?;
    let mut lab = Lab::build(plan)?;
    start(&mut lab, 0..2, &[])?;
    let container = NetNs::create()?;
    let mut host = Netlink::open(lab.nodes()[2].netns())?;
    host.add_vxlan("vx0", &device(&lab, 2, None))?;
    let mtu = host.link("vx0")?.mtu;
    for node in &lab.nodes()[..2] {
        host.append_fdb("vx0", MacAddr([0; 6]), node.plan().address)?;
    }
    host.add_bridge("br0", mtu)?;
    let (outer, inner) =
        (VethEnd { name: "veth0", mac: None, mtu }, VethEnd { name: "eth0", mac: Some(foreign.mac), mtu });
    host.add_veth(outer, inner, Some(&container))?;
    for port in ["vx0", "veth0"] {
        host.attach(port, "br0")?;
        host.set_up(port)?;
    }
    host.set_up("br0")?;
    give_addresses(&mut Netlink::open(&container)?, "eth0", &foreign)?;
    for node in [0, 1] {
        exchange(&lab, node, &container, &foreign, BULK).with_context(|| format!("with node {node}"))?;
    }
    let [a, b] = [0, 1].map(|node| &lab.nodes()[node].endpoints()[0]);
    tcp(a.netns(), b.netns(), b.plan().v4.into(), BULK).context("between our hosts")?;
    Ok(())
}
