//! The paths to all peers of a switch, in the order in which they fall due.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::{Path, PathEvent, PathReport, ProbeConfig};
use crate::tables::Topology;
use crate::tunnel::ProbeTunnel;
use crate::vtep::{PathMtu, VtepId};
use crate::wire::probe::Probe;

/// As many as there are peers, so bounded by [`crate::tables::PEERS_MAX`].
#[derive(Debug)]
pub(crate) struct Paths {
    config: ProbeConfig,
    /// Seeds those of the paths.
    random: fastrand::Rng,
    entries: BTreeMap<VtepId, Entry>,
    /// Each path once, at its [`Entry::due`].
    agenda: BTreeSet<(Instant, VtepId)>,
    /// Those that may have something to tell.
    changed: BTreeSet<VtepId>,
    /// The peers that [`Self::entries`] are those of.
    topology: Option<Arc<Topology>>,
}

#[derive(Debug)]
struct Entry {
    path: Path,
    address: SocketAddr,
    due: Instant,
    /// Where what is found is used.
    mtu: PathMtu,
}

impl Drop for Entry {
    /// What is measured no more is not known.
    fn drop(&mut self) {
        self.mtu.set(None);
    }
}

impl Paths {
    pub(crate) fn new(config: ProbeConfig) -> Self {
        Self {
            config,
            random: fastrand::Rng::with_seed(config.seed),
            entries: BTreeMap::new(),
            agenda: BTreeSet::new(),
            changed: BTreeSet::new(),
            topology: None,
        }
    }

    /// Begins with peers that have come, and forgets those that have gone.
    pub(crate) fn follow(&mut self, topology: &Arc<Topology>, now: Instant) {
        if self.topology.as_ref().is_some_and(|known| Arc::ptr_eq(known, topology)) {
            return;
        }
        let peers = &topology.peers;
        let gone: Vec<_> = self.entries.keys().copied().filter(|&id| peers.peer(id).is_none()).collect();
        for id in gone {
            self.entries.remove(&id).inspect(|entry| {
                self.agenda.remove(&(entry.due, id));
            });
            self.changed.remove(&id);
        }
        for (id, vtep) in peers.sorted() {
            self.entries.entry(id).or_insert_with(|| {
                let path = Path::new(ProbeConfig { seed: self.random.u64(..), ..self.config }, now);
                let due = path.next_deadline();
                self.agenda.insert((due, id));
                Entry { path, address: vtep.address, due, mtu: vtep.path_mtu.clone() }
            });
        }
        self.topology = Some(Arc::clone(topology));
    }

    /// The next request that is due, with its peer; [`Self::follow`] has been called with the same tables.
    pub(crate) fn poll_transmit<'t>(
        &mut self,
        topology: &'t Topology,
        now: Instant,
    ) -> Option<(ProbeTunnel<'t>, Probe)> {
        while let Some(&(due, id)) = self.agenda.first() {
            if due > now {
                return None;
            }
            let request = self.with(id, |path| {
                path.handle_timeout(now);
                let tunnel = ProbeTunnel::find(id, topology.peers.peer(id)?);
                Some((tunnel, path.poll_transmit(tunnel.around(), now)?))
            });
            match request {
                Some(Some(request)) => return Some(request),
                Some(None) => {}
                // It has no path, so nothing would ever be due.
                None => {
                    self.agenda.pop_first();
                }
            }
        }
        None
    }

    /// Takes a reply of a peer. Gives whether it was asked for.
    pub(crate) fn handle_reply(&mut self, peer: VtepId, reply: &Probe, now: Instant) -> bool {
        self.with(peer, |path| path.handle_reply(reply, now)).unwrap_or(false)
    }

    /// A request was not sent because it is larger than the path.
    pub(crate) fn handle_too_big(&mut self, peer: VtepId, sequence: u32, now: Instant) {
        self.with(peer, |path| path.handle_too_big(sequence, now));
    }

    /// What has changed since it was last asked.
    pub(crate) fn poll_event(&mut self) -> Option<PathEvent> {
        while let Some(&peer) = self.changed.first() {
            let entry = self.entries.get_mut(&peer);
            let event = entry.and_then(|entry| {
                let change = entry.path.poll_change()?;
                // It is used no later than told.
                entry.mtu.set(entry.path.mtu());
                Some(PathEvent { peer, address: entry.address, change })
            });
            if event.is_some() {
                return event;
            }
            self.changed.pop_first();
        }
        None
    }

    /// When [`Self::poll_transmit`] is due; `None` without peers.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.agenda.first().map(|&(due, _)| due)
    }

    /// What is known of each, in the order of peers.
    pub(crate) fn report(&self) -> Vec<PathReport> {
        self.entries.iter().map(|(&id, entry)| entry.path.report(id, entry.address)).collect()
    }

    /// Whether [`Self::poll_event`] may have something.
    pub(crate) fn has_news(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Lets something be done to a path, and keeps its place in the agenda.
    fn with<T>(&mut self, id: VtepId, act: impl FnOnce(&mut Path) -> T) -> Option<T> {
        let entry = self.entries.get_mut(&id)?;
        let result = act(&mut entry.path);
        let due = entry.path.next_deadline();
        if due != entry.due {
            self.agenda.remove(&(entry.due, id));
            self.agenda.insert((due, id));
            entry.due = due;
        }
        self.changed.insert(id);
        Some(result)
    }
}
