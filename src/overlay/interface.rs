//! An endpoint's TAP as an interface of its namespace: name, MAC address, addresses, MTU, routes.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;

use super::endpoint::{AttachError, EndpointSpec};
use super::envoy::Abroad;
use super::plane::random;
use crate::api::EndpointDevice;
use crate::namespace::netlink::{Netlink, NetlinkError};
use crate::namespace::netns::NetNs;
use crate::switch::io::tap::TapError;

/// Settles which MAC address an endpoint has, and gives its TAP this and the addresses if it was `made` for the
/// endpoint. One that was there before stays as it is: its MAC address is the endpoint's, unless another was
/// asked for, which is that of something behind it then.
///
/// Routes are set only in a namespace of the endpoint's own, and a default route only if it has none: the first
/// network's counts. The host's way out is never changed. Gives the gateways that are the way out of whatever has the
/// endpoint; a machine has been told of its gateways, and what a TAP has that was there is not known.
pub(super) fn settle(spec: &mut EndpointSpec, made: bool) -> Result<Vec<IpAddr>, AttachError> {
    match Abroad::find(spec)? {
        Some(abroad) => Ok(abroad.settle(spec, made)?),
        None => settle_here(spec, made),
    }
}

/// The same where this process may do it itself.
pub(super) fn settle_here(spec: &mut EndpointSpec, made: bool) -> Result<Vec<IpAddr>, AttachError> {
    let EndpointDevice::Tap { tap, netns } = &spec.device else {
        // A machine has the address that its owner gives it, and is told which.
        spec.mac = Some(spec.mac.unwrap_or_else(|| spec.usual_mac(random())));
        return Ok(spec.gateways.clone());
    };
    let mut netlink = open(spec)?;
    if !made {
        let link = netlink.link(tap)?;
        spec.mac = spec.mac.or(link.mac);
        if !link.up {
            set_up(&mut netlink, tap)?;
        }
        return Ok(Vec::new());
    }
    let mac = spec.mac.unwrap_or_else(|| spec.usual_mac(random()));
    spec.mac = Some(mac);
    netlink.set_mac(tap, mac)?;
    if netns.is_none() && spec.addresses.iter().any(|own| own.address().is_ipv6()) {
        hear_no_routers(tap)?;
    }
    netlink.set_up(tap)?;
    for own in &spec.addresses {
        netlink.add_address(tap, own.address(), own.length())?;
    }
    if netns.is_none() {
        return Ok(Vec::new());
    }
    for subnet in &spec.beside {
        add_route(&mut netlink, (subnet.first(), subnet.length()), None, tap)?;
    }
    add_default_routes(&mut netlink, spec)
}

/// Names a TAP that is to be made beside others: the first of eth0, eth1, … that no interface of its namespace has.
pub(super) fn name(spec: &mut EndpointSpec) -> Result<(), AttachError> {
    let free = match Abroad::find(spec)? {
        Some(abroad) => abroad.name(spec)?,
        None => name_here(spec)?,
    };
    if let EndpointDevice::Tap { tap, .. } = &mut spec.device {
        *tap = free;
    }
    Ok(())
}

/// The same where this process may look itself.
pub(super) fn name_here(spec: &EndpointSpec) -> Result<String, AttachError> {
    let links = open(spec)?.links()?;
    let is_free = |name: &String| links.iter().all(|link| link.name != *name);
    let free = (0..=links.len()).map(|number| format!("eth{number}")).find(is_free);
    Ok(free.expect("one more than there are links"))
}

/// Sets the MTU of a TAP that is in use.
pub(super) fn set_mtu(spec: &EndpointSpec, mtu: u32) -> Result<(), AttachError> {
    match Abroad::find(spec)? {
        Some(abroad) => Ok(abroad.set_mtu(spec, mtu)?),
        None => set_mtu_here(spec, mtu),
    }
}

/// The same where this process may do it itself.
pub(super) fn set_mtu_here(spec: &EndpointSpec, mtu: u32) -> Result<(), AttachError> {
    Ok(open(spec)?.set_mtu(spec.device.interface(), mtu)?)
}

/// Those of some endpoints that are in the namespace of another, in the order of interfaces; none if that is gone, or
/// the daemon's own.
pub(super) fn those_beside<'s>(
    spec: &EndpointSpec,
    others: impl Iterator<Item = &'s EndpointSpec>,
) -> Result<Vec<EndpointSpec>, AttachError> {
    let place = match spec.place() {
        Err(error) if error.is_gone() => None,
        place => place?,
    };
    let is_beside = |other: &&EndpointSpec| place.is_some() && other.place().ok() == Some(place);
    let mut beside: Vec<EndpointSpec> = others.filter(is_beside).cloned().collect();
    beside.sort_by(|one, other| one.device.interface().cmp(other.device.interface()));
    Ok(beside)
}

/// Removes the TAP of an endpoint that has been detached, at once, with the routes over it; where the way out of its
/// namespace was one of these, one of those [`those_beside`] it is it then.
pub(super) fn remove(gone: &EndpointSpec, beside: Vec<EndpointSpec>) -> Result<(), AttachError> {
    match gone.place() {
        // With everything in it.
        Err(error) if error.is_gone() => return Ok(()),
        place => place?,
    };
    match Abroad::find(gone)? {
        Some(abroad) => Ok(abroad.remove(gone, beside)?),
        None => remove_here(gone, &beside),
    }
}

/// The same where this process may do it itself; `beside` are endpoints of that namespace.
pub(super) fn remove_here(gone: &EndpointSpec, beside: &[EndpointSpec]) -> Result<(), AttachError> {
    let mut netlink = open(gone)?;
    match netlink.delete(gone.device.interface()) {
        // Whoever had the last queue of it has closed that.
        Err(NetlinkError::NoLink(_)) => {}
        Err(error) if error.errno() == Some(Errno::NODEV) => {}
        outcome => outcome?,
    }
    beside.iter().try_for_each(|other| add_default_routes(&mut netlink, other).map(drop))
}

/// Sets up what somebody else has made, and left down.
fn set_up(netlink: &mut Netlink, tap: &str) -> Result<(), AttachError> {
    netlink.set_up(tap).map_err(|error| match error.errno() {
        Some(Errno::PERM | Errno::ACCESS) => AttachError::Tap(TapError::SettingNotPermitted {
            name: tap.into(),
            setting: "state",
            command: format!("ip link set {tap} up"),
        }),
        _ => error.into(),
    })
}

fn open(spec: &EndpointSpec) -> Result<Netlink, AttachError> {
    Ok(match spec.netns_ref()? {
        Some(netns) => Netlink::open(&NetNs::from(netns.open()?))?,
        None => Netlink::open_here()?,
    })
}

/// Has the host not take a network's gateway for its router (RFC 4861 §6.3.4): its way out is not ours.
fn hear_no_routers(tap: &str) -> Result<(), AttachError> {
    let setting = format!("/proc/sys/net/ipv6/conf/{tap}/accept_ra");
    fs::write(&setting, "0").map_err(|source| AttachError::Setting { setting, source })
}

/// Gives those that are the way out now.
fn add_default_routes(netlink: &mut Netlink, spec: &EndpointSpec) -> Result<Vec<IpAddr>, AttachError> {
    let mut added = Vec::new();
    for &gateway in &spec.gateways {
        if add_default_route(netlink, spec.device.interface(), gateway)? {
            added.push(gateway);
        }
    }
    Ok(added)
}

/// Gives whether there was none before.
fn add_default_route(netlink: &mut Netlink, tap: &str, gateway: IpAddr) -> Result<bool, AttachError> {
    let everywhere = match gateway {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    add_route(netlink, (everywhere, 0), Some(gateway), tap)
}

/// Gives whether there was none before.
fn add_route(
    netlink: &mut Netlink,
    prefix: (IpAddr, u8),
    gateway: Option<IpAddr>,
    tap: &str,
) -> Result<bool, AttachError> {
    match netlink.add_route(prefix, gateway, tap) {
        // That of another network.
        Err(error) if error.errno() == Some(Errno::EXIST) => Ok(false),
        outcome => Ok(outcome.map(|()| true)?),
    }
}
