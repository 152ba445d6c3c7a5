//! A subnet as addresses to hand out: which there are, which may be chosen freely, and which never.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::range::Range;

/// The addresses of one subnet of a network. The same on every node: it follows from records, those of the network and
/// of what else has addresses there ([`Space::keep`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    network: IpAddr,
    prefix: u8,
    /// What an endpoint may have at all.
    bounds: Range,
    /// What may be chosen for one that asks for no address in particular.
    dynamic: Range,
    /// Never an endpoint's, and what they are.
    reserved: BTreeMap<u128, String>,
    /// The same for now: of them none is among `reserved`.
    kept: BTreeMap<u128, String>,
}

/// Why it is no subnet to number endpoints in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    /// A prefix that is too long for its family.
    #[error("{0}/{1}: a prefix has at most {max} bits", max = if .0.is_ipv4() { 32 } else { 128 })]
    Prefix(IpAddr, u8),
    /// Bits beyond the prefix are set.
    #[error("{address}/{prefix} has host bits set: the subnet is {network}/{prefix}")]
    HostBits {
        /// What was said.
        address: IpAddr,
        /// The length of the prefix, in bits.
        prefix: u8,
        /// The address without those bits.
        network: IpAddr,
    },
    /// An address or range is not in the subnet, or is one that no endpoint can have.
    #[error("{what} {address} is no address for an endpoint of {subnet}")]
    Outside {
        /// What it is for.
        what: String,
        /// Which.
        address: IpAddr,
        /// Of which subnet.
        subnet: String,
    },
}

impl Space {
    /// The subnet `network`/`prefix`; with `range`, an address and a length, only that part of it is chosen from
    /// freely. `reserved` addresses are never handed out: each with what it is, for people (`gateway`, a name).
    ///
    /// Network and broadcast address are left out (RFC 919 §7), but of a /31 (RFC 3021) and /32; with IPv6 the
    /// subnet-router's (RFC 4291 §2.6.1), but of a /127 (RFC 6164) and /128.
    ///
    /// # Errors
    /// See [`SpaceError`].
    pub fn new<N: Into<String>>(
        network: IpAddr,
        prefix: u8,
        range: Option<(IpAddr, u8)>,
        reserved: impl IntoIterator<Item = (IpAddr, N)>,
    ) -> Result<Self, SpaceError> {
        let whole = block(network, prefix)?;
        let spare = u32::from(width(network) - prefix);
        let bounds = match (spare, network) {
            (0 | 1, _) => Some(whole),
            (_, IpAddr::V4(_)) => Range::new(whole.first() + 1, whole.last() - 1).ok(),
            (_, IpAddr::V6(_)) => Range::new(whole.first() + 1, whole.last()).ok(),
        };
        let bounds = bounds.expect("two spare bits leave two addresses between the first and the last");
        let mut space = Self {
            network,
            prefix,
            bounds,
            dynamic: bounds,
            reserved: BTreeMap::new(),
            kept: BTreeMap::new(),
        };
        if let Some((address, prefix)) = range {
            let inner = space.same_family(address).then(|| block(address, prefix)).transpose()?;
            let inside = inner.filter(|inner| inner.intersection(whole) == Some(*inner));
            let dynamic = inside.and_then(|inner| inner.intersection(bounds));
            space.dynamic = dynamic.ok_or_else(|| space.outside("range", address))?;
        }
        for (address, what) in reserved {
            let what = what.into();
            let number = space.number(address).ok_or_else(|| space.outside(&what, address))?;
            space.reserved.insert(number, what);
        }
        Ok(space)
    }

    /// Has these addresses handed out to nobody as long as they are among them, each with what it is for; in place of
    /// those of before. What is not an address of this subnet is left out.
    pub fn keep<'a>(&mut self, kept: impl IntoIterator<Item = (IpAddr, &'a str)>) {
        let kept =
            kept.into_iter().filter_map(|(address, what)| Some((self.number(address)?, what.to_owned())));
        self.kept = kept.filter(|(number, _)| !self.reserved.contains_key(number)).collect();
    }

    fn outside(&self, what: &str, address: IpAddr) -> SpaceError {
        SpaceError::Outside { what: what.into(), address, subnet: self.to_string() }
    }

    fn same_family(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4()
    }

    /// The number of an address that an endpoint of the subnet can have, reserved or not.
    pub(super) fn number(&self, address: IpAddr) -> Option<u128> {
        let number = number(address);
        (self.same_family(address) && self.bounds.contains(number)).then_some(number)
    }

    /// The address of a number within the bounds.
    pub(super) fn address(&self, number: u128) -> IpAddr {
        match self.network {
            IpAddr::V4(_) => Ipv4Addr::from(low_32(number)).into(),
            IpAddr::V6(_) => Ipv6Addr::from(number).into(),
        }
    }

    /// What an address is kept for.
    pub(super) fn reserved(&self, number: u128) -> Option<&str> {
        self.reserved.get(&number).or_else(|| self.kept.get(&number)).map(String::as_str)
    }

    pub(super) fn reserved_within(&self, range: Range) -> impl Iterator<Item = u128> + '_ {
        let within = range.first()..=range.last();
        let reserved = self.reserved.range(within.clone());
        reserved.chain(self.kept.range(within)).map(|(&number, _)| number)
    }

    /// All that an endpoint can have.
    #[must_use]
    pub fn bounds(&self) -> Range {
        self.bounds
    }

    /// What is chosen from for an endpoint that asks for no address in particular.
    #[must_use]
    pub fn dynamic(&self) -> Range {
        self.dynamic
    }

    /// How many addresses can be chosen freely: those of [`Self::dynamic`] that are not reserved.
    #[must_use]
    pub fn capacity(&self) -> u128 {
        self.dynamic.count() - self.reserved_within(self.dynamic).count() as u128
    }

    /// How many addresses are kept for something, besides reserved ones.
    pub(super) fn kept_count(&self) -> usize {
        self.kept.len()
    }

    /// The length of the subnet's prefix, in bits.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn low_32(number: u128) -> u32 {
    u32::try_from(number & u128::from(u32::MAX)).expect("the rest is masked out")
}

/// All addresses of a prefix.
fn block(address: IpAddr, prefix: u8) -> Result<Range, SpaceError> {
    let spare = width(address).checked_sub(prefix).ok_or(SpaceError::Prefix(address, prefix))?;
    let hosts = u128::MAX.checked_shr(128 - u32::from(spare)).unwrap_or(0);
    let first = number(address) & !hosts;
    if first != number(address) {
        let network = match address {
            IpAddr::V4(_) => Ipv4Addr::from(low_32(first)).into(),
            IpAddr::V6(_) => Ipv6Addr::from(first).into(),
        };
        return Err(SpaceError::HostBits { address, prefix, network });
    }
    Ok(Range::new(first, first | hosts).expect("host bits only add"))
}
