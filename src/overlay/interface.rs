//! An endpoint's TAP as an interface of its namespace: MAC address, addresses and the way out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;

use super::endpoint::{AttachError, EndpointSpec};
use super::envoy::Abroad;
use super::plane::random;
use crate::api::EndpointDevice;
use crate::namespace::netlink::Netlink;
use crate::namespace::netns::NetNs;

/// Settles which MAC address an endpoint has, and gives its TAP this and the addresses if it was `made` for the
/// endpoint. One that was there before stays as it is: its MAC address is the endpoint's, unless another was
/// asked for, which is that of something behind it then.
///
/// A default route is set only in a namespace of the endpoint's own, and only if it has none: the first
/// network's counts. The host's way out is never changed.
pub(super) fn settle(spec: &mut EndpointSpec, made: bool) -> Result<(), AttachError> {
    match Abroad::find(spec)? {
        Some(abroad) => Ok(abroad.settle(spec, made)?),
        None => settle_here(spec, made),
    }
}

/// The same where this process may do it itself.
pub(super) fn settle_here(spec: &mut EndpointSpec, made: bool) -> Result<(), AttachError> {
    let EndpointDevice::Tap { tap, netns } = &spec.device else {
        // A machine has the address that its owner gives it, and is told which.
        spec.mac = Some(spec.mac.unwrap_or_else(|| spec.usual_mac(random())));
        return Ok(());
    };
    let mut netlink = match spec.netns_ref()? {
        Some(netns) => Netlink::open(&NetNs::from(netns.open()?))?,
        None => Netlink::open_here()?,
    };
    if !made {
        spec.mac = match spec.mac {
            None => netlink.link(tap)?.mac,
            given => given,
        };
        return Ok(());
    }
    let mac = spec.mac.unwrap_or_else(|| spec.usual_mac(random()));
    spec.mac = Some(mac);
    netlink.set_mac(tap, mac)?;
    netlink.set_up(tap)?;
    for own in &spec.addresses {
        netlink.add_address(tap, own.address(), own.length())?;
    }
    if netns.is_some() {
        spec.gateways.iter().try_for_each(|&gateway| add_default_route(&mut netlink, tap, gateway))?;
    }
    Ok(())
}

fn add_default_route(netlink: &mut Netlink, tap: &str, gateway: IpAddr) -> Result<(), AttachError> {
    let everywhere = match gateway {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    match netlink.add_route((everywhere, 0), Some(gateway), tap) {
        // That of another network.
        Err(error) if error.errno() == Some(Errno::EXIST) => Ok(()),
        outcome => Ok(outcome?),
    }
}
