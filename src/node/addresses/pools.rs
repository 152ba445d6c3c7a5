//! The pools of this node and their files.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::records::NetworkRecord;
use crate::api::Subnet;
use crate::gossip::NodeId;
use crate::ipam::{LoadError, Pool, Share, Space, SpaceError};
use crate::state::{StateDir, StateError};

/// What the names of pools' files begin with.
const PREFIX: &str = "addresses-";
/// Most characters of a network's id: more than any has.
const NETWORK_ID_MAX: usize = 64;

/// Why a pool was not used. What is on disk has not changed, and what is here says the same.
#[derive(Debug, thiserror::Error)]
pub(in crate::node) enum PoolError {
    /// Its file.
    #[error(transparent)]
    State(#[from] StateError),
    /// The network's record makes no sense.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// So does its id.
    #[error("a network with an id that is none")]
    NetworkId,
}

/// A network's id and record.
pub(in crate::node) type Network = (String, NetworkRecord);

/// A subnet: the id of its network, and its place in the network's record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::node) struct Place {
    pub(super) network: String,
    pub(super) subnet: u16,
}

impl Place {
    /// The subnets of a network, with their places.
    pub(super) fn all((network, record): &Network) -> impl Iterator<Item = (Self, &Subnet)> {
        (0..).zip(&record.subnets).map(|(subnet, parts)| (Self { network: network.clone(), subnet }, parts))
    }

    fn file(&self) -> Result<String, PoolError> {
        let Self { network, subnet } = self;
        let plain =
            network.len() <= NETWORK_ID_MAX && network.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if plain { Ok(format!("{PREFIX}{network}-{subnet}")) } else { Err(PoolError::NetworkId) }
    }

    fn of_file(name: &str) -> Option<Self> {
        let (network, subnet) = name.strip_prefix(PREFIX)?.split_once('-')?;
        Some(Self { network: network.into(), subnet: subnet.parse().ok()? })
    }
}

/// Virtual addresses of services by network, each with whose it is.
pub(in crate::node) type Virtual = BTreeMap<String, Vec<(IpAddr, String)>>;

/// How many endpoints and virtual addresses a subnet has room for.
///
/// # Errors
/// If it is none.
pub(in crate::node) fn capacity(subnet: &Subnet) -> Result<u128, SpaceError> {
    Ok(space(subnet)?.capacity())
}

/// The addresses of a subnet, as its network's record has them.
fn space(subnet: &Subnet) -> Result<Space, SpaceError> {
    let range = subnet.ip_range.map(|range| (range.first(), range.length()));
    let gateway = (subnet.gateway, "gateway".to_owned());
    let reserved = subnet.reserved.iter().map(|(name, &address)| (address, name.to_string()));
    let all: Vec<(IpAddr, String)> = reserved.chain([gateway]).collect();
    Space::new(subnet.subnet.first(), subnet.subnet.length(), range, all)
}

fn addresses<'v>(virtuals: &'v Virtual, network: &str) -> impl Iterator<Item = (IpAddr, &'v str)> {
    let of = virtuals.get(network).into_iter().flatten();
    of.map(|(address, what)| (*address, what.as_str()))
}

/// Removes what is kept.
pub(in crate::node) fn forget(state: &StateDir) -> Result<(), StateError> {
    state.names(PREFIX)?.iter().try_for_each(|name| state.remove(name))
}

/// This node's pools.
#[derive(Debug)]
pub(in crate::node) struct Pools {
    state: Arc<StateDir>,
    me: NodeId,
    pools: Mutex<BTreeMap<Place, Kept>>,
    /// Endpoints that are being attached: they have addresses before they are there.
    coming: Mutex<BTreeSet<String>>,
    /// What nobody leases, besides what networks' records have.
    virtuals: Mutex<Virtual>,
    /// Networks that are being made: their pools are there before their records.
    founding: Mutex<BTreeSet<String>>,
}

/// A pool, and the bytes that are on disk.
#[derive(Debug)]
struct Kept {
    pool: Pool,
    bytes: Vec<u8>,
}

/// An endpoint that is being attached, or a network that is being made: as long as this lives.
#[derive(Debug)]
pub(in crate::node) struct Underway<'p> {
    among: &'p Mutex<BTreeSet<String>>,
    id: String,
}

impl<'p> Underway<'p> {
    fn new(among: &'p Mutex<BTreeSet<String>>, id: &str) -> Self {
        among.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
        Self { among, id: id.to_owned() }
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.among.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Pools {
    /// Those of node `me`, whose files are read when they are needed.
    pub(in crate::node) fn new(state: Arc<StateDir>, me: NodeId) -> Self {
        let pools = Mutex::default();
        let (coming, virtuals, founding) = Default::default();
        Self { state, me, pools, coming, virtuals, founding }
    }

    fn pools(&self) -> MutexGuard<'_, BTreeMap<Place, Kept>> {
        // A change is made to a copy, so that none is half done.
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn virtuals(&self) -> MutexGuard<'_, Virtual> {
        self.virtuals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has these addresses leased to nobody from now on, in place of those of before.
    pub(in crate::node) fn keep(&self, virtuals: Virtual) {
        let mut pools = self.pools();
        for (place, kept) in pools.iter_mut() {
            kept.pool.keep(addresses(&virtuals, &place.network));
        }
        *self.virtuals() = virtuals;
    }

    /// The addresses of a subnet, without those that are kept for something.
    pub(super) fn space(&self, place: &Place, subnet: &Subnet) -> Result<Space, SpaceError> {
        let mut space = space(subnet)?;
        space.keep(addresses(&self.virtuals(), &place.network));
        Ok(space)
    }

    /// Notes that an endpoint is about to get addresses, which are its own even while it is not there.
    pub(in crate::node) fn begin_attach(&self, endpoint: &str) -> Underway<'_> {
        Underway::new(&self.coming, endpoint)
    }

    /// Makes the pools of a network that this node is about to make: it holds all. They are on disk when this
    /// returns.
    ///
    /// # Errors
    /// See [`PoolError`]; what was written goes with the next [`Self::sweep`].
    pub(in crate::node) fn found(&self, network: &Network) -> Result<Underway<'_>, PoolError> {
        let underway = Underway::new(&self.founding, &network.0);
        let mut pools = self.pools();
        for (place, subnet) in Place::all(network) {
            let pool = Pool::found(self.me, space(subnet)?);
            let bytes = pool.save();
            self.state.write(&place.file()?, &bytes)?;
            pools.insert(place, Kept { pool, bytes });
        }
        Ok(underway)
    }

    /// Changes a pool; what came of it is on disk before it is given. One that is not there yet holds nothing.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub(super) fn change<T>(
        &self,
        place: &Place,
        subnet: &Subnet,
        act: impl FnOnce(&mut Pool) -> T,
    ) -> Result<T, PoolError> {
        let mut pools = self.pools();
        let (mut pool, before) = match pools.get(place) {
            Some(kept) => (kept.pool.clone(), Some(&kept.bytes)),
            None => {
                (self.load(place, subnet)?.unwrap_or(Pool::join(self.me, self.space(place, subnet)?)), None)
            }
        };
        let outcome = act(&mut pool);
        let bytes = pool.save();
        if before != Some(&bytes) {
            self.state.write(&place.file()?, &bytes)?;
        }
        pools.insert(place.clone(), Kept { pool, bytes });
        Ok(outcome)
    }

    fn load(&self, place: &Place, subnet: &Subnet) -> Result<Option<Pool>, PoolError> {
        let (name, space) = (place.file()?, self.space(place, subnet)?);
        let Some(bytes) = self.state.read(&name)? else { return Ok(None) };
        let pool = Pool::load(self.me, space, &bytes);
        Ok(Some(pool.map_err(|error: LoadError| self.state.corrupt(&name, error.to_string()))?))
    }

    /// Reads all pools of these networks that are on disk and not here yet, so that [`Self::shares`] has them.
    ///
    /// # Errors
    /// Of the first that can't be read; the others are there.
    pub(in crate::node) fn load_all(&self, networks: &[Network]) -> Result<(), PoolError> {
        let mut outcome = Ok(());
        let mut pools = self.pools();
        for (place, subnet) in networks.iter().flat_map(Place::all) {
            if pools.contains_key(&place) {
                continue;
            }
            match self.load(&place, subnet) {
                Ok(Some(pool)) => {
                    let bytes = pool.save();
                    pools.insert(place, Kept { pool, bytes });
                }
                Ok(None) => {}
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// What is held here of each subnet, by network and in the order of subnets.
    pub(super) fn shares(&self) -> BTreeMap<String, Vec<Share>> {
        let mut shares = BTreeMap::<String, Vec<Share>>::new();
        for (place, kept) in self.pools().iter() {
            let of = shares.entry(place.network.clone()).or_default();
            of.resize(usize::from(place.subnet), Share::default());
            of.push(kept.pool.share());
        }
        shares
    }

    /// Takes back the addresses of endpoints that are not there: not among those that `there` gives, nor being
    /// attached. Gives what was taken back.
    ///
    /// # Errors
    /// See [`PoolError`]; it is done for some, and for the others the next time.
    pub(in crate::node) fn retain(
        &self,
        there: impl FnOnce() -> BTreeSet<String>,
    ) -> Result<Vec<(String, IpAddr)>, PoolError> {
        let mut pools = self.pools();
        // An endpoint is there before it is no longer coming; and no other gets an address while the pools are
        // held.
        let coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let there = there();
        let mut released = Vec::new();
        for (place, kept) in pools.iter_mut() {
            let mut pool = kept.pool.clone();
            let lost = pool.retain(|holder| there.contains(holder) || coming.contains(holder));
            if !lost.is_empty() {
                let bytes = pool.save();
                self.state.write(&place.file()?, &bytes)?;
                *kept = Kept { pool, bytes };
                released.extend(lost);
            }
        }
        Ok(released)
    }

    /// Removes the pools of networks that are neither among these nor being made.
    ///
    /// # Errors
    /// See [`PoolError`]; it is done for some, and for the others the next time.
    pub(in crate::node) fn sweep(&self, networks: &BTreeSet<String>) -> Result<(), PoolError> {
        let mut pools = self.pools();
        let founding = self.founding.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_there = |place: &Place| networks.contains(&place.network) || founding.contains(&place.network);
        for name in self.state.names(PREFIX)? {
            if Place::of_file(&name).is_some_and(|place| !is_there(&place)) {
                self.state.remove(&name)?;
            }
        }
        pools.retain(|place, _| is_there(place));
        Ok(())
    }
}
