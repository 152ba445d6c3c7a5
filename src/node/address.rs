//! Which of a host's addresses others are told.
//!
//! Given: an address, or an interface that has one. Not given: the host's only one, as in Docker's `swarm init`;
//! with several nobody but the user can know which the others reach, so they are listed.

use std::net::IpAddr;

use crate::namespace::netlink::{Netlink, NetlinkError};

/// Those that this host has.
pub(super) fn interfaces() -> Result<Vec<Interface>, NetlinkError> {
    let addresses = Netlink::open_here()?.addresses()?;
    Ok(addresses.into_iter().map(|(name, address)| Interface { name, address }).collect())
}

/// An address of this host, and the interface that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    /// The interface.
    pub(super) name: String,
    /// The address.
    pub(super) address: IpAddr,
}

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    /// None that others could reach.
    #[error(
        "this host has no address that others could reach: bring an interface up, or give {0} an address"
    )]
    None(&'static str),
    /// Several, and none was given.
    #[error("this host has several addresses ({list}): say which with {flag}")]
    Several {
        /// The flag that settles it.
        flag: &'static str,
        /// They.
        list: String,
    },
    /// An address that is no host's.
    #[error("{flag} must be one host's address, not {address}")]
    NoHost {
        /// The flag.
        flag: &'static str,
        /// What it was given.
        address: IpAddr,
    },
    /// Neither an address nor an interface of this host that has one.
    #[error("{flag}: {given:?} is neither an IP address nor an interface that is up and has one")]
    Unknown {
        /// The flag.
        flag: &'static str,
        /// What it was given.
        given: String,
    },
}

/// The address that `given` means among those of this host. `flag` is named in errors.
///
/// # Errors
/// See [`AddressError`].
pub(super) fn choose(
    flag: &'static str,
    given: Option<&str>,
    interfaces: &[Interface],
) -> Result<IpAddr, AddressError> {
    let Some(given) = given else {
        let usual = interfaces.iter().filter(|interface| is_reachable(interface.address)).collect::<Vec<_>>();
        return only(flag, &usual).unwrap_or(Err(AddressError::None(flag)));
    };
    if let Ok(address) = given.parse::<IpAddr>() {
        let is_host = !address.is_unspecified() && !address.is_multicast();
        return if is_host { Ok(address) } else { Err(AddressError::NoHost { flag, address }) };
    }
    let of_it =
        interfaces.iter().filter(|interface| interface.name == given && !is_link_local(interface.address));
    only(flag, &of_it.collect::<Vec<_>>())
        .unwrap_or_else(|| Err(AddressError::Unknown { flag, given: given.into() }))
}

/// The only one: of IPv4 if there is any, since then IPv6 comes with it. `None` without any.
fn only(flag: &'static str, candidates: &[&Interface]) -> Option<Result<IpAddr, AddressError>> {
    let v4 = candidates.iter().filter(|interface| interface.address.is_ipv4());
    let mut family: Vec<_> = v4.collect();
    if family.is_empty() {
        family = candidates.iter().collect();
    }
    match family[..] {
        [] => None,
        [interface] => Some(Ok(interface.address)),
        _ => {
            let names = family.iter().map(|interface| format!("{} on {}", interface.address, interface.name));
            let list = names.collect::<Vec<_>>().join(", ");
            Some(Err(AddressError::Several { flag, list }))
        }
    }
}

fn is_reachable(address: IpAddr) -> bool {
    !address.is_loopback() && !is_link_local(address)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAG: &str = "--advertise-addr";

    fn host(addresses: &[(&str, &str)]) -> Vec<Interface> {
        let interface = |&(name, address): &(&str, &str)| Interface {
            name: name.into(),
            address: address.parse().unwrap(),
        };
        addresses.iter().map(interface).collect()
    }

    #[test]
    fn the_only_address_needs_no_flag() {
        let usual = host(&[("lo", "127.0.0.1"), ("lo", "::1"), ("eth0", "192.0.2.1"), ("eth0", "fe80::1")]);
        assert_eq!(choose(FLAG, None, &usual), Ok("192.0.2.1".parse().unwrap()));
        let both = host(&[("eth0", "192.0.2.1"), ("eth0", "2001:db8::1"), ("eth1", "2001:db8::2")]);
        assert_eq!(choose(FLAG, None, &both), Ok("192.0.2.1".parse().unwrap()));
        let v6 = host(&[("eth0", "2001:db8::1"), ("eth0", "fe80::1")]);
        assert_eq!(choose(FLAG, None, &v6), Ok("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn several_are_listed() {
        let two = host(&[("eth0", "192.0.2.1"), ("eth1", "198.51.100.1")]);
        let error = choose(FLAG, None, &two).unwrap_err().to_string();
        assert_eq!(
            error,
            "this host has several addresses (192.0.2.1 on eth0, 198.51.100.1 on eth1): say which with \
             --advertise-addr"
        );
        assert_eq!(choose(FLAG, Some("eth1"), &two), Ok("198.51.100.1".parse().unwrap()));
        let aliases = host(&[("eth0", "192.0.2.1"), ("eth0", "192.0.2.2")]);
        assert!(matches!(choose(FLAG, Some("eth0"), &aliases), Err(AddressError::Several { .. })));
    }

    #[test]
    fn none_is_said() {
        let alone = host(&[("lo", "127.0.0.1"), ("eth0", "169.254.1.1")]);
        assert_eq!(choose(FLAG, None, &alone), Err(AddressError::None(FLAG)));
        assert_eq!(choose(FLAG, Some("lo"), &alone), Ok("127.0.0.1".parse().unwrap()));
        for given in ["eth0", "eth7", "", "192.0.2.256"] {
            assert!(
                matches!(choose(FLAG, Some(given), &alone), Err(AddressError::Unknown { .. })),
                "{given}"
            );
        }
    }

    #[test]
    fn addresses_of_no_host_are_refused() {
        for given in ["0.0.0.0", "::", "224.0.0.1", "ff02::1"] {
            assert!(matches!(choose(FLAG, Some(given), &[]), Err(AddressError::NoHost { .. })), "{given}");
        }
        // Behind a translator the address that others know is none of ours.
        assert_eq!(choose(FLAG, Some("203.0.113.9"), &[]), Ok("203.0.113.9".parse().unwrap()));
    }
}
