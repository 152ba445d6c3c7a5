//! Peers: the VXLAN tunnel end points (RFC 7348 §3) that share a network with this switch.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use vswitchd_crypto::envelope::SessionId;
use vswitchd_crypto::open::{OpenError, Opener};
use vswitchd_crypto::seal::Sealer;

use crate::counters::Traffic;
use crate::storm::StormBucket;

/// A peer of this switch. Never given twice in a switch's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VtepId(pub u32);

/// Keys of one peer that open at a time: as many as a [`vswitchd_crypto::renewal::Renewal`] keeps, and the newest one,
/// which is there before it lets go of the oldest.
pub const SESSIONS_PER_PEER_MAX: usize = vswitchd_crypto::renewal::OPENERS_MAX + 1;

/// What is known of a peer.
#[derive(Clone, Debug)]
pub struct Vtep {
    /// Where its datagrams go; it may send from any port of that address, but where it shares that with others: see
    /// [`Vteps::find`].
    pub address: SocketAddr,
    /// Counters, shared by every snapshot.
    pub traffic: Arc<Traffic>,
    /// What is sealed for it; without, it gets nothing of sealed networks.
    pub sealer: Option<Arc<Sealer>>,
    /// How many of its probes may still be answered, shared by every snapshot and worker.
    pub(crate) replies: Arc<Mutex<StormBucket>>,
    /// What the path to it carries.
    pub(crate) path_mtu: PathMtu,
    /// How many senders may still be told that their packets are too big for that, shared likewise.
    pub(crate) too_big: Arc<Mutex<StormBucket>>,
}

/// Bytes of the largest IP packet that a path carries, shared by every snapshot and worker; unknown at first.
#[derive(Clone, Debug, Default)]
pub(crate) struct PathMtu(Arc<AtomicU16>);

impl PathMtu {
    /// It is this, or not known any more.
    pub(crate) fn set(&self, mtu: Option<u16>) {
        self.0.store(mtu.unwrap_or_default(), Ordering::Relaxed);
    }

    /// What it is, if it is known.
    pub(crate) fn get(&self) -> Option<u16> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&mtu| mtu > 0)
    }
}

/// A key that opens what a peer seals.
#[derive(Clone, Debug)]
pub struct Session {
    /// Who has the other end.
    pub peer: VtepId,
    /// Our end, with its replay window, shared by every snapshot.
    pub opener: Arc<Opener>,
    /// Whether it has opened something since it was last asked, shared likewise.
    heard: Arc<AtomicBool>,
}

impl Session {
    pub(crate) fn new(peer: VtepId, opener: Arc<Opener>) -> Self {
        Self { peer, opener, heard: Arc::default() }
    }

    /// Opens a datagram in place as [`Opener::open`] does, and notes that it did.
    pub(crate) fn open(&self, datagram: &mut [u8]) -> Result<Range<usize>, OpenError> {
        let range = self.opener.open(datagram)?;
        // Seldom written, so that the workers don't take the cache line away from each other for each datagram.
        if !self.heard.load(Ordering::Relaxed) {
            self.heard.store(true, Ordering::Relaxed);
        }
        Ok(range)
    }
}

/// Peers at one address, with their ports. More than one only where switches share a host.
#[derive(Clone, Debug)]
struct Home {
    /// The one with the lowest port.
    first: (u16, VtepId),
    /// In the order of ports.
    others: Vec<(u16, VtepId)>,
}

impl Home {
    fn at(&self, port: u16) -> Option<VtepId> {
        std::iter::once(&self.first).chain(&self.others).find(|of| of.0 == port).map(|of| of.1)
    }

    fn insert(&mut self, mut of: (u16, VtepId)) {
        if of.0 < self.first.0 {
            std::mem::swap(&mut of, &mut self.first);
        }
        self.others.push(of);
        self.others.sort_unstable();
    }

    /// Gives whether others are left.
    fn remove(&mut self, id: VtepId) -> bool {
        self.others.retain(|of| of.1 != id);
        if self.first.1 == id {
            let Some(next) = (!self.others.is_empty()).then(|| self.others.remove(0)) else { return false };
            self.first = next;
        }
        true
    }
}

/// The peers, by id, by address, and by the session numbers that we gave them.
#[derive(Clone, Debug, Default)]
pub struct Vteps {
    by_id: HashMap<VtepId, Vtep, foldhash::fast::RandomState>,
    by_address: HashMap<IpAddr, Home, foldhash::fast::RandomState>,
    by_session: HashMap<SessionId, Session, foldhash::fast::RandomState>,
}

impl Vteps {
    /// A peer by its id.
    #[must_use]
    pub fn peer(&self, id: VtepId) -> Option<&Vtep> {
        self.by_id.get(&id)
    }

    /// A peer by the address that its datagrams come from, from any port, which flows differ by (RFC 7348 §5).
    ///
    /// Of several at one address it is the one that has this port, since those send from their own
    /// ([`crate::io::udp::UdpConfig::source_ports`]), or else the one with the lowest, which may not.
    #[must_use]
    pub fn find(&self, from: SocketAddr) -> Option<VtepId> {
        let home = self.by_address.get(&from.ip())?;
        let exact = if home.others.is_empty() { None } else { home.at(from.port()) };
        Some(exact.unwrap_or(home.first.1))
    }

    /// The peer whose datagrams go to this address and port.
    #[must_use]
    pub fn exact(&self, address: SocketAddr) -> Option<VtepId> {
        self.by_address.get(&address.ip())?.at(address.port())
    }

    /// The key that a sealed datagram asks for.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.by_session.get(&id)
    }

    /// Keys that have opened something since the last call, in the order of their numbers.
    pub(crate) fn take_heard(&self) -> Vec<SessionId> {
        let heard =
            self.by_session.iter().filter(|(_, session)| session.heard.swap(false, Ordering::Relaxed));
        let mut heard: Vec<_> = heard.map(|(&id, _)| id).collect();
        heard.sort_unstable();
        heard
    }

    /// Peers known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether no peer is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Every peer, in the order of ids.
    #[must_use]
    pub fn sorted(&self) -> Vec<(VtepId, &Vtep)> {
        let mut all: Vec<_> = self.by_id.iter().map(|(&id, vtep)| (id, vtep)).collect();
        all.sort_unstable_by_key(|&(id, _)| id);
        all
    }

    pub(crate) fn insert(&mut self, id: VtepId, vtep: Vtep) {
        let of = (vtep.address.port(), id);
        let home = self.by_address.entry(vtep.address.ip());
        home.and_modify(|home| home.insert(of)).or_insert(Home { first: of, others: Vec::new() });
        self.by_id.insert(id, vtep);
    }

    pub(crate) fn remove(&mut self, id: VtepId) {
        if let Some(vtep) = self.by_id.remove(&id) {
            let ip = vtep.address.ip();
            if self.by_address.get_mut(&ip).is_some_and(|home| !home.remove(id)) {
                self.by_address.remove(&ip);
            }
            self.by_session.retain(|_, session| session.peer != id);
        }
    }

    /// Gives whether there is such a peer.
    pub(crate) fn set_sealer(&mut self, id: VtepId, sealer: Option<Arc<Sealer>>) -> bool {
        self.by_id.get_mut(&id).map(|vtep| vtep.sealer = sealer).is_some()
    }

    /// How many keys open what the peer seals.
    pub(crate) fn sessions_of(&self, id: VtepId) -> usize {
        self.by_session.values().filter(|session| session.peer == id).count()
    }

    pub(crate) fn insert_session(&mut self, session: Session) {
        self.by_session.insert(session.opener.session(), session);
    }

    /// Gives whether there was such a session.
    pub(crate) fn remove_session(&mut self, id: SessionId) -> bool {
        self.by_session.remove(&id).is_some()
    }
}
