//! What a whole cluster shares: where networks without a subnet of their own get theirs from, and the data port.
//!
//! Names and defaults are those of Docker's `swarm init`; unlike there, both can be changed later.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::{IpPrefix, Ipv4Prefix};
use crate::switch::wire::vxlan;

/// Ports that data may take: neither the system's nor those that the kernel gives to clients (IANA, RFC 6335 §6).
pub const DATA_PATH_PORTS: RangeInclusive<u16> = 1024..=49151;
/// Pools of a cluster: more than anybody has, and few enough to compare each with each.
pub const POOLS_MAX: usize = 64;
/// Bits of a block's prefix at most: a /29 has room for a gateway and five more.
pub const MASK_LENGTH_MAX: u8 = 29;
/// Bits of a block's prefix if nobody says.
const MASK_LENGTH: u8 = 24;
/// What no host in a network can have (RFC 6890 §2.2): this network, loopback, link-local, multicast and above; and of
/// IPv6 what stands for such, for IPv4 addresses, or for one link.
const UNUSABLE: [&str; 7] =
    ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8"];

/// Settings of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// The UDP port of data, unless a node has its own.
    pub data_path_port: u16,
    /// Where networks' blocks are taken from, in this order.
    pub default_addr_pools: Vec<Ipv4Prefix>,
    /// Bits of a block's prefix.
    pub default_addr_pool_mask_length: u8,
}

/// Changes of them; what is not given stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterUpdate {
    /// See [`ClusterSettings::data_path_port`]; 0 is the default, 4789.
    #[serde(default)]
    pub data_path_port: Option<u16>,
    /// Replaces all pools. Empty: they stay.
    #[serde(default)]
    pub default_addr_pools: Vec<Ipv4Prefix>,
    /// See [`ClusterSettings::default_addr_pool_mask_length`].
    #[serde(default)]
    pub default_addr_pool_mask_length: Option<u8>,
}

/// Why a cluster can't have these settings. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Not a port for data.
    #[error("data path port {0}: want {start} to {end}", start = DATA_PATH_PORTS.start(), end = DATA_PATH_PORTS.end())]
    Port(u16),
    /// Too many.
    #[error("{0} address pools are too many: want at most {POOLS_MAX}")]
    Pools(usize),
    /// An address would be in two networks.
    #[error("address pools {0} and {1} overlap")]
    Overlap(Ipv4Prefix, Ipv4Prefix),
    /// Addresses that hosts can't have.
    #[error("address pool {0}: {1} has no addresses for hosts")]
    Unusable(Ipv4Prefix, IpPrefix),
    /// Blocks that are larger than their pool, or too small for use.
    #[error("address pool {pool} can't be cut into blocks of /{mask_length}: want /{min} to /{MASK_LENGTH_MAX}", min = .pool.length())]
    MaskLength {
        /// The pool.
        pool: Ipv4Prefix,
        /// The blocks' length.
        mask_length: u8,
    },
    /// A pool that is smaller than the smallest block.
    #[error("address pool {0} is too small: want at most /{MASK_LENGTH_MAX}")]
    Small(Ipv4Prefix),
}

impl Default for ClusterSettings {
    fn default() -> Self {
        let pool: Ipv4Prefix = "10.0.0.0/8".parse().expect("this is a prefix");
        Self {
            data_path_port: vxlan::PORT,
            default_addr_pools: vec![pool],
            default_addr_pool_mask_length: MASK_LENGTH,
        }
    }
}

impl ClusterSettings {
    /// The same with what `update` changes.
    ///
    /// # Errors
    /// If they would make no sense together.
    pub fn updated(mut self, update: &ClusterUpdate) -> Result<Self, SettingsError> {
        match update.data_path_port {
            None => {}
            Some(0) => self.data_path_port = vxlan::PORT,
            Some(port) => self.data_path_port = data_path_port(port)?,
        }
        if !update.default_addr_pools.is_empty() {
            self.default_addr_pools.clone_from(&update.default_addr_pools);
        }
        if let Some(length) = update.default_addr_pool_mask_length {
            self.default_addr_pool_mask_length = length;
        }
        self.check_pools()?;
        Ok(self)
    }

    fn check_pools(&self) -> Result<(), SettingsError> {
        let (pools, mask_length) = (&self.default_addr_pools, self.default_addr_pool_mask_length);
        if pools.len() > POOLS_MAX {
            return Err(SettingsError::Pools(pools.len()));
        }
        for (index, &pool) in pools.iter().enumerate() {
            if let Some(unusable) = unusable(pool.into()) {
                return Err(SettingsError::Unusable(pool, unusable));
            }
            if let Some(&other) = pools[..index].iter().find(|other| other.overlaps(pool)) {
                return Err(SettingsError::Overlap(other, pool));
            }
            if pool.length() > MASK_LENGTH_MAX {
                return Err(SettingsError::Small(pool));
            }
            if !(pool.length()..=MASK_LENGTH_MAX).contains(&mask_length) {
                return Err(SettingsError::MaskLength { pool, mask_length });
            }
        }
        Ok(())
    }
}

/// What of a prefix no host in a network can have, if there is such.
pub(crate) fn unusable(prefix: IpPrefix) -> Option<IpPrefix> {
    let all = UNUSABLE.iter().map(|text| text.parse().expect("these are prefixes"));
    all.into_iter().find(|&unusable| prefix.overlaps(unusable))
}

/// A port that data may take.
///
/// # Errors
/// [`SettingsError::Port`].
pub fn data_path_port(port: u16) -> Result<u16, SettingsError> {
    if DATA_PATH_PORTS.contains(&port) { Ok(port) } else { Err(SettingsError::Port(port)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn updated(pools: &[&str], mask_length: Option<u8>) -> Result<ClusterSettings, SettingsError> {
        ClusterSettings::default().updated(&ClusterUpdate {
            default_addr_pools: pools.iter().map(|pool| pool.parse().unwrap()).collect(),
            default_addr_pool_mask_length: mask_length,
            ..ClusterUpdate::default()
        })
    }

    fn line(outcome: Result<ClusterSettings, SettingsError>) -> String {
        outcome.unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_given_stays() {
        assert_eq!(updated(&[], None), Ok(ClusterSettings::default()));
        let pools = updated(&["10.20.0.0/16", "10.30.0.0/16"], Some(26)).unwrap();
        let port = ClusterUpdate { data_path_port: Some(4790), ..ClusterUpdate::default() };
        let both = pools.clone().updated(&port).unwrap();
        assert_eq!(both, ClusterSettings { data_path_port: 4790, ..pools });
        let back = ClusterUpdate { data_path_port: Some(0), ..ClusterUpdate::default() };
        assert_eq!(both.updated(&back).unwrap().data_path_port, 4789);
    }

    #[test]
    fn ports_are_dockers() {
        assert_eq!([1024, 49151].map(data_path_port), [Ok(1024), Ok(49151)]);
        for port in [1, 1023, 49152, 65535] {
            assert_eq!(data_path_port(port), Err(SettingsError::Port(port)));
        }
        assert_eq!(data_path_port(80).unwrap_err().to_string(), "data path port 80: want 1024 to 49151");
    }

    #[test]
    fn pools_fit_each_other_and_their_blocks() {
        assert_eq!(
            line(updated(&["10.0.0.0/8", "10.20.0.0/16"], None)),
            "address pools 10.0.0.0/8 and 10.20.0.0/16 overlap"
        );
        assert_eq!(
            line(updated(&["10.0.0.0/16"], Some(8))),
            "address pool 10.0.0.0/16 can't be cut into blocks of /8: want /16 to /29"
        );
        // The default mask length, with a pool that is smaller than such a block.
        assert!(matches!(updated(&["10.0.0.0/25"], None), Err(SettingsError::MaskLength { .. })));
        assert!(matches!(updated(&["10.0.0.0/16"], Some(30)), Err(SettingsError::MaskLength { .. })));
        assert!(matches!(updated(&["10.0.0.0/30"], Some(30)), Err(SettingsError::Small(_))));
        assert!(updated(&["10.0.0.0/29"], Some(29)).is_ok());
        for pool in ["0.0.0.0/0", "127.1.0.0/16", "224.0.0.0/4", "240.0.0.0/8", "169.254.4.0/24"] {
            assert!(matches!(updated(&[pool], None), Err(SettingsError::Unusable(..))), "{pool}");
        }
        let many: Vec<_> = (0..=POOLS_MAX).map(|i| format!("10.{i}.0.0/16")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(updated(&many, None), Err(SettingsError::Pools(65)));
    }
}
