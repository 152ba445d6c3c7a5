//! What one switch with static peers is told, parsed and checked.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::str::FromStr;

use super::gateway::{GatewayError, GatewaySpec};
use super::service::{ServiceSpec, ServiceSpecError};
use crate::api::IpPrefix;
use crate::switch::fdb::Limits;
use crate::switch::io::netns::NetnsRef;
use crate::switch::storm::StormLimit;
use crate::switch::switch::WORKERS_MAX;
use crate::switch::wire::{MacAddr, Vni};

/// Everything that [`super::run`] needs, consistent.
#[derive(Debug)]
pub struct Config {
    /// Our address and port in the underlay.
    pub local: SocketAddr,
    /// Networks with their TAPs, each VNI once.
    pub networks: Vec<NetworkSpec>,
    /// Peers, each with the networks that it is in; empty means all.
    pub peers: Vec<PeerSpec>,
    /// MTU of the TAPs; by default what the paths carry.
    pub mtu: Option<u32>,
    /// Bounds of the forwarding table.
    pub limits: Limits,
    /// Storm limit of each port.
    pub storm: StormLimit,
    /// Whether TAPs may hand over unfinished checksums and super-frames.
    pub offload: bool,
    /// Whether to probe the paths to peers.
    pub probe: bool,
    /// Networks' gateways, at most one each.
    pub gateways: Vec<GatewaySpec>,
    /// Virtual addresses with their tasks.
    pub services: Vec<ServiceSpec>,
    /// What gateways that lead out may not reach beside what none may.
    pub denied: Vec<IpPrefix>,
    /// Threads that move frames, at most [`crate::switch::switch::WORKERS_MAX`].
    pub workers: NonZeroUsize,
}

/// A TAP device: `NAME[@NETNS]`.
#[derive(Clone, Debug)]
pub struct TapSpec {
    /// Its name.
    pub name: String,
    /// The namespace that it is in, or to be made in.
    pub netns: Option<NetnsRef>,
    /// Its MAC address, if not the kernel's choice.
    pub mac: Option<MacAddr>,
}

/// A network with its TAPs: `VNI[:TAP[,TAP]…]`.
#[derive(Clone, Debug)]
pub struct NetworkSpec {
    /// The network.
    pub vni: Vni,
    /// Its TAPs.
    pub taps: Vec<TapSpec>,
}

/// A peer with its networks: `ADDRESS[@VNI[,VNI]…]`.
#[derive(Clone, Debug)]
pub struct PeerSpec {
    /// Its address in the underlay.
    pub address: IpAddr,
    /// The networks that it is in; empty means all of ours.
    pub vnis: Vec<Vni>,
}

/// A contradiction in what was given.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not a VNI.
    #[error("\"{0}\" is no VNI: want a number from 0 to 16777215")]
    Vni(String),
    /// An empty name of a TAP.
    #[error("\"{0}\" names no TAP: want NAME or NAME@NETNS")]
    Tap(String),
    /// Not a namespace.
    #[error("\"{0}\" names no network namespace: want a name, a path, or a process id")]
    Netns(String),
    /// Not an address.
    #[error("\"{0}\" is no IP address of a peer")]
    Peer(String),
    /// A VNI twice.
    #[error("--vni {0} is given twice: list its TAPs together, as in --vni {0}:tap0,tap1")]
    VniTwice(Vni),
    /// A TAP twice in one namespace.
    #[error("TAP {0} is given twice")]
    TapTwice(String),
    /// `--tap` with several networks.
    #[error("--tap needs exactly one --vni: with several, write --vni VNI:{0}")]
    TapWhere(String),
    /// A network without TAP.
    #[error("network {0} has no TAP: add --tap NAME or write --vni {0}:NAME")]
    NoTap(Vni),
    /// More addresses than TAPs.
    #[error("{given} --mac are more than there are TAPs ({taps}): give one for each, in their order")]
    Macs {
        /// Addresses given.
        given: usize,
        /// TAPs given.
        taps: usize,
    },
    /// A group's address.
    #[error("{0} is a multicast address, and can't be a TAP's")]
    MacMulticast(MacAddr),
    /// An address for two TAPs.
    #[error("--mac {0} is given twice: two TAPs can't have one address")]
    MacTwice(MacAddr),
    /// Not one host's address.
    #[error("--local must be one address of this host, not {0}")]
    Local(IpAddr),
    /// A peer twice.
    #[error("peer {0} is given twice: list its networks together, as in --peer {0}@42,43")]
    PeerTwice(IpAddr),
    /// A peer that we are ourselves.
    #[error("--peer {0} is this host's own address, --local")]
    PeerLocal(IpAddr),
    /// A peer of the other IP version.
    #[error("--peer {0} can't be reached from --local {1}: one is IPv4, the other IPv6")]
    PeerFamily(IpAddr, IpAddr),
    /// A link-local address, which means nothing without a link.
    #[error("--local {0} is link-local: give an address that other hosts can route to")]
    LinkLocal(IpAddr),
    /// A peer in a network that we don't serve.
    #[error("peer {0} is given network {1}, which has no --vni")]
    PeerVni(IpAddr, Vni),
    /// What gateways are told.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// What services are told.
    #[error(transparent)]
    Service(#[from] ServiceSpecError),
}

pub(super) fn vni(text: &str) -> Result<Vni, ConfigError> {
    text.parse().ok().and_then(Vni::new).ok_or_else(|| ConfigError::Vni(text.into()))
}

impl FromStr for TapSpec {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (name, netns) = match text.split_once('@') {
            Some((name, netns)) => (name, Some(netns)),
            None => (text, None),
        };
        if name.is_empty() {
            return Err(ConfigError::Tap(text.into()));
        }
        let parse = |netns: &str| netns.parse().map_err(|_| ConfigError::Netns(netns.into()));
        Ok(Self { name: name.into(), netns: netns.map(parse).transpose()?, mac: None })
    }
}

impl FromStr for NetworkSpec {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (id, taps) = match text.split_once(':') {
            Some((id, taps)) => (id, taps.split(',').map(str::parse).collect::<Result<_, _>>()?),
            None => (text, Vec::new()),
        };
        Ok(Self { vni: vni(id)?, taps })
    }
}

impl FromStr for PeerSpec {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (address, vnis) = match text.split_once('@') {
            Some((address, vnis)) => (address, vnis.split(',').map(vni).collect::<Result<_, _>>()?),
            None => (text, Vec::new()),
        };
        let address = address.parse().map_err(|_| ConfigError::Peer(address.into()))?;
        Ok(Self { address, vnis })
    }
}

impl fmt::Display for TapSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.netns {
            Some(netns) => write!(f, "@{netns}"),
            None => Ok(()),
        }
    }
}

/// Brings networks, loose TAPs, the common namespace and MAC addresses together.
///
/// # Errors
/// What contradicts, in one line.
pub fn assign(
    mut networks: Vec<NetworkSpec>,
    taps: Vec<TapSpec>,
    netns: Option<&NetnsRef>,
    macs: &[MacAddr],
) -> Result<Vec<NetworkSpec>, ConfigError> {
    match (&mut networks[..], taps.first()) {
        ([only], Some(_)) => only.taps.extend(taps),
        (_, Some(first)) => return Err(ConfigError::TapWhere(first.to_string())),
        (_, None) => {}
    }
    let mut vnis = HashSet::new();
    for network in &networks {
        if !vnis.insert(network.vni) {
            return Err(ConfigError::VniTwice(network.vni));
        }
        if network.taps.is_empty() {
            return Err(ConfigError::NoTap(network.vni));
        }
    }
    let count = networks.iter().map(|network| network.taps.len()).sum();
    if macs.len() > count {
        return Err(ConfigError::Macs { given: macs.len(), taps: count });
    }
    if let Some(&group) = macs.iter().find(|mac| mac.is_multicast()) {
        return Err(ConfigError::MacMulticast(group));
    }
    let mut given = HashSet::new();
    if let Some(&twice) = macs.iter().find(|mac| !given.insert(**mac)) {
        return Err(ConfigError::MacTwice(twice));
    }
    let mut macs = macs.iter().copied();
    let mut names = HashSet::new();
    for tap in networks.iter_mut().flat_map(|network| &mut network.taps) {
        tap.mac = macs.next();
        if tap.netns.is_none() {
            tap.netns = netns.cloned();
        }
        if !names.insert(tap.to_string()) {
            return Err(ConfigError::TapTwice(tap.to_string()));
        }
    }
    Ok(networks)
}

/// How many workers a switch gets: what was asked for, or one for each core that this process may use.
#[must_use]
pub fn workers(asked: Option<usize>) -> NonZeroUsize {
    let cores = || std::thread::available_parallelism().ok();
    let most = NonZeroUsize::new(WORKERS_MAX).expect("more than one");
    asked.and_then(NonZeroUsize::new).or_else(cores).unwrap_or(NonZeroUsize::MIN).min(most)
}

/// Checks that an address can be this host's own end of tunnels.
///
/// # Errors
/// An unspecified, multicast or broadcast address: our own datagrams could not be told from others. A link-local one of
/// IPv6, which names no link.
pub fn check_local(address: IpAddr) -> Result<IpAddr, ConfigError> {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(ConfigError::Local(address));
    }
    if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return Err(ConfigError::LinkLocal(address));
    }
    Ok(address)
}

/// Checks that peers are other hosts, each given once, and in networks that are served only.
///
/// # Errors
/// The first that is not.
pub fn check_peers(
    peers: Vec<PeerSpec>,
    local: IpAddr,
    networks: &[NetworkSpec],
) -> Result<Vec<PeerSpec>, ConfigError> {
    let mut known = HashSet::new();
    for peer in &peers {
        if peer.address == local {
            return Err(ConfigError::PeerLocal(peer.address));
        }
        if peer.address.is_ipv4() != local.is_ipv4() {
            return Err(ConfigError::PeerFamily(peer.address, local));
        }
        if !known.insert(peer.address) {
            return Err(ConfigError::PeerTwice(peer.address));
        }
        let served = |vni| networks.iter().any(|network| network.vni == vni);
        if let Some(&vni) = peer.vnis.iter().find(|&&vni| !served(vni)) {
            return Err(ConfigError::PeerVni(peer.address, vni));
        }
    }
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<NetworkSpec> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn shown(networks: &[NetworkSpec]) -> Vec<String> {
        let taps = |network: &NetworkSpec| {
            network.taps.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        networks.iter().map(|network| format!("{}:{}", network.vni, taps(network))).collect()
    }

    #[test]
    fn both_spellings_of_taps() {
        let one = assign(networks(&["42"]), vec!["tap0".parse().unwrap()], None, &[]).unwrap();
        assert_eq!(shown(&one), ["42:tap0"]);
        let two = assign(networks(&["42:a,b@web", "43:c@/proc/1/ns/net"]), vec![], None, &[]).unwrap();
        assert_eq!(shown(&two), ["42:a,b@web", "43:c@/proc/1/ns/net"]);
        let common = assign(networks(&["42:a,b@web"]), vec![], Some(&"lab".parse().unwrap()), &[]).unwrap();
        assert_eq!(shown(&common), ["42:a@lab,b@web"]);
    }

    #[test]
    fn macs_go_to_taps_in_order() {
        let (first, second) = ("02:00:00:00:00:01".parse().unwrap(), "02:00:00:00:00:02".parse().unwrap());
        let networks = assign(networks(&["1:a", "2:b,c"]), vec![], None, &[first, second]).unwrap();
        let macs: Vec<_> = networks.iter().flat_map(|network| &network.taps).map(|tap| tap.mac).collect();
        assert_eq!(macs, [Some(first), Some(second), None]);
    }

    #[test]
    fn contradictions_are_named() {
        let tap = || vec!["tap0".parse().unwrap()];
        let vni = |id| Vni::new(id).unwrap();
        let refused = |vnis: &[&str], taps| assign(networks(vnis), taps, None, &[]).unwrap_err();
        assert_eq!(refused(&["1", "1"], vec![]), ConfigError::NoTap(vni(1)));
        assert_eq!(refused(&["1:a", "1:b"], vec![]), ConfigError::VniTwice(vni(1)));
        assert_eq!(refused(&["1:a", "2:b"], tap()), ConfigError::TapWhere("tap0".into()));
        assert_eq!(refused(&["1:tap0"], tap()), ConfigError::TapTwice("tap0".into()));
        let group = MacAddr([1, 0, 0, 0, 0, 0]);
        assert_eq!(
            assign(networks(&["1:a"]), vec![], None, &[group]).unwrap_err(),
            ConfigError::MacMulticast(group)
        );
        let many = [MacAddr([2; 6]); 2];
        let error = assign(networks(&["1:a"]), vec![], None, &many).unwrap_err();
        assert_eq!(error, ConfigError::Macs { given: 2, taps: 1 });
        let error = assign(networks(&["1:a,b"]), vec![], None, &many).unwrap_err();
        assert_eq!(error, ConfigError::MacTwice(MacAddr([2; 6])));
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let refused = |peers: &[&str]| {
            let peers = peers.iter().map(|peer| peer.parse().unwrap()).collect();
            check_peers(peers, ip("192.0.2.9"), &networks(&["1:a"])).unwrap_err()
        };
        assert_eq!(refused(&["192.0.2.1@1,2"]), ConfigError::PeerVni(ip("192.0.2.1"), vni(2)));
        assert_eq!(refused(&["192.0.2.1", "192.0.2.1@1"]), ConfigError::PeerTwice(ip("192.0.2.1")));
        assert_eq!(refused(&["192.0.2.9"]), ConfigError::PeerLocal(ip("192.0.2.9")));
        assert_eq!(refused(&["2001:db8::1"]), ConfigError::PeerFamily(ip("2001:db8::1"), ip("192.0.2.9")));
    }

    #[test]
    fn our_own_address_is_one_hosts() {
        for text in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "fe80::1"] {
            assert!(check_local(text.parse().unwrap()).is_err(), "{text}");
        }
        assert!(check_local("127.0.0.1".parse().unwrap()).is_ok());
    }

    #[test]
    fn texts_that_are_none() {
        assert!("16777216:a".parse::<NetworkSpec>().is_err());
        assert!("-1".parse::<NetworkSpec>().is_err());
        assert!("1:".parse::<NetworkSpec>().is_err());
        assert!("1:@web".parse::<NetworkSpec>().is_err());
        assert!("a@".parse::<TapSpec>().is_err());
        assert!("192.0.2.300".parse::<PeerSpec>().is_err());
        assert!("192.0.2.1@".parse::<PeerSpec>().is_err());
        assert_eq!("2001:db8::1@7".parse::<PeerSpec>().unwrap().vnis, [Vni::new(7).unwrap()]);
    }
}
