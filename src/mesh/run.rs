//! The mesh of a node: follows what it is told.

use std::hash::RandomState;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::datagrams::{Datagrams, Returns};
use super::ingress;
use super::links::{Dial, Peers};
use super::listen::Listening;
use super::party::Link;
use super::plan::Plan;
use super::ports::{Ports, Unbound};
use super::serve::{Incoming, serve};
use super::shares::{Origin, Shares};
use super::threads::Threads;
use crate::crypto::identity::NodeId;
use crate::overlay::Entrances;

/// Of so many sockets that this process may hold one is for a client's connection: with the link that it may need two of three
/// are, and the third is left to ways out, published ports and other nodes' clients.
const SOCKETS_PER_CLIENT: usize = 3;
/// Of so many connections of clients one client may have one, whatever [`CLIENT_MAX`] is.
const CLIENTS_MIN: usize = 4;
/// Connections of one client at a time: more than an office behind one address has.
const CLIENT_MAX: usize = 8_192;
/// Of so many sockets one is for a link of a certain other node. Each takes two more while it carries a connection: so a quarter is
/// left to all others, whatever that node does.
const SOCKETS_PER_PEER: usize = 4;
/// The same for links of all other nodes.
const SOCKETS_PER_INCOMING: usize = 2;

/// What all connections need.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) own: NodeId,
    pub(super) plan: ArcSwap<Plan>,
    pub(super) entrances: Entrances,
    /// One for each socket that this process may hold for others.
    pub(super) sockets: Arc<Semaphore>,
    /// Connections that clients have.
    pub(super) clients: Shares<Origin>,
    /// Links that other nodes have made.
    incoming: Shares<NodeId>,
    pub(super) peers: Peers,
    pub(super) returns: Returns,
    /// What no client knows.
    pub(super) chance: RandomState,
}

/// A node's mesh. It costs nothing before there is a port, or another node's client.
#[derive(Debug)]
pub(crate) struct Mesh {
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    ports: Ports,
    running: Option<Running>,
    /// It has been stopped.
    over: bool,
}

#[derive(Debug)]
struct Running {
    // Dropped in this order.
    listening: Listening,
    threads: Arc<Threads>,
}

impl Shared {
    pub(super) fn new(
        own: NodeId,
        dial: Arc<dyn Dial>,
        sockets: Arc<Semaphore>,
        entrances: Entrances,
    ) -> Self {
        let all = sockets.available_permits();
        let connections = all / SOCKETS_PER_CLIENT;
        Self {
            own,
            plan: ArcSwap::default(),
            entrances,
            clients: Shares::new((connections / CLIENTS_MIN).min(CLIENT_MAX), connections),
            incoming: Shares::new(all / SOCKETS_PER_PEER, all / SOCKETS_PER_INCOMING),
            peers: Peers::new(dial, Arc::clone(&sockets)),
            sockets,
            returns: Returns::default(),
            chance: RandomState::new(),
        }
    }
}

impl Mesh {
    /// Without ports. `sockets`, of which none is taken yet, and `entrances` are those of the node's data plane.
    pub(crate) fn new(
        own: NodeId,
        dial: Arc<dyn Dial>,
        sockets: Arc<Semaphore>,
        entrances: Entrances,
    ) -> Self {
        let ports = Ports::new(Arc::clone(&sockets));
        let shared = Arc::new(Shared::new(own, dial, sockets, entrances));
        Self { shared, inner: Mutex::new(Inner { ports, running: None, over: false }) }
    }

    /// What its node's data plane is to share with it.
    pub(crate) fn shared_parts(&self) -> (Arc<Semaphore>, Entrances) {
        (Arc::clone(&self.shared.sockets), Arc::clone(&self.shared.entrances))
    }

    /// Has those ports, as far as they can be had, and no others, and ends what nodes have that are gone. Gives the ports that
    /// could not be had, and whether to try again soon.
    pub(crate) fn follow(&self, plan: Plan) -> (Vec<Unbound>, bool) {
        let mut inner = self.inner();
        if inner.over {
            return (Vec::new(), false);
        }
        let plan = Arc::new(plan);
        self.shared.plan.store(Arc::clone(&plan));
        self.shared.peers.follow(&plan);
        self.shared.peers.tidy(Instant::now());
        inner.ports.follow(&plan);
        let doors = inner.ports.doors();
        if !doors.is_empty() || inner.running.is_some() {
            match inner.running(&self.shared) {
                Ok(running) => running.listening.set(doors),
                Err(error) => warn!("can't listen for services: {error}"),
            }
        }
        (inner.ports.unbound(&plan), inner.ports.waits())
    }

    /// Takes connections from a link that another node has made for its clients.
    pub(crate) fn serve(&self, node: NodeId, link: Link) {
        let mut inner = self.inner();
        let share = self.shared.incoming.take(node);
        let Some(share) = share else {
            return debug!("{node} has as many links as it may have, or all have");
        };
        let permit = self.shared.peers.permit();
        let Some(permit) = permit else { return debug!("no socket is left for a link of {node}") };
        if inner.over {
            return;
        }
        let peer = self.shared.peers.get(node);
        match inner.running(&self.shared) {
            Ok(running) => {
                let incoming = Incoming { link, peer, permit, share };
                running.threads.spawn(serve(Arc::clone(&self.shared), incoming));
            }
            Err(error) => warn!("can't carry connections of other nodes' clients: {error}"),
        }
    }

    /// Closes links that are not needed any more.
    pub(crate) fn tidy(&self) {
        self.shared.peers.tidy(Instant::now());
    }

    /// Ends all: ports are free, and connections reset, when this returns.
    pub(crate) fn stop(&self) {
        let mut inner = self.inner();
        inner.over = true;
        inner.ports.follow(&Plan::default());
        self.shared.peers.end();
        inner.running = None;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Starts what does not run: ports are never open with nobody who takes what comes, whatever has ended that. What is carried
    /// goes on.
    fn running(&mut self, shared: &Arc<Shared>) -> io::Result<&Running> {
        if self.running.as_ref().is_none_or(|running| running.listening.is_over()) {
            let threads = match &self.running {
                Some(running) => Arc::clone(&running.threads),
                None => Arc::new(Threads::start()?),
            };
            let (carrying, carried) = (Arc::clone(&threads), Arc::clone(shared));
            let arrived = move |arrival| carrying.spawn(ingress::carry(Arc::clone(&carried), arrival));
            let datagrams = Datagrams::new(Arc::clone(shared), Arc::clone(&threads));
            let listening = Listening::start(Arc::clone(shared), datagrams, arrived)?;
            listening.set(self.ports.doors());
            self.running = Some(Running { listening, threads });
        }
        Ok(self.running.as_ref().expect("it has just been started"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::io::{ErrorKind, Read};
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
    use std::thread::yield_now;
    use std::time::Duration;

    use super::*;
    use crate::mesh::links::Dialing;
    use crate::mesh::plan::{At, Published};
    use crate::service::Protocol;

    const PATIENCE: Duration = Duration::from_secs(10);
    const OWN: NodeId = NodeId::from_bytes([1; 16]);

    #[derive(Debug)]
    pub(in crate::mesh) struct Nobody;

    impl Dial for Nobody {
        fn dial(&self, _: NodeId, _: SocketAddr) -> Dialing {
            Box::pin(async { Err("nobody is there".into()) })
        }
    }

    pub(in crate::mesh) fn shared(sockets: usize) -> Arc<Shared> {
        let sockets = Arc::new(Semaphore::new(sockets));
        Arc::new(Shared::new(OWN, Arc::new(Nobody), sockets, Entrances::default()))
    }

    /// How a connection ends for which there is no task, once somebody takes it.
    fn outcome(to: SocketAddr) -> ErrorKind {
        let mut client = TcpStream::connect(to).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.read(&mut [0]).unwrap_err().kind()
    }

    #[test]
    fn a_thread_that_has_ended_is_followed_by_another() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let at = At { address: Some(free.ip()), published: free.port(), protocol: Protocol::Tcp };
        let (places, draining) = (Arc::default(), Arc::default());
        let published = Published { service: "s".into(), target: 80, proxy: false, places, draining };
        let plan = Plan::new([(at, published)].into(), BTreeMap::new(), BTreeSet::new());
        let mesh = Mesh::new(OWN, Arc::new(Nobody), Arc::new(Semaphore::new(64)), Entrances::default());
        mesh.follow(plan.clone());
        assert_eq!(outcome(free), ErrorKind::ConnectionReset);
        let is_over = || mesh.inner().running.as_ref().unwrap().listening.is_over();
        mesh.inner().running.as_ref().unwrap().listening.end();
        let deadline = Instant::now() + PATIENCE;
        while !is_over() {
            assert!(Instant::now() < deadline, "it does not end");
            yield_now();
        }
        mesh.follow(plan);
        assert!(!is_over());
        assert_eq!(outcome(free), ErrorKind::ConnectionReset);
        mesh.stop();
    }

    #[test]
    fn clients_and_other_nodes_have_shares_of_the_sockets() {
        let shared = shared(48);
        let client = Origin::of(Ipv4Addr::LOCALHOST.into());
        let clients: Vec<_> = std::iter::from_fn(|| shared.clients.take(client)).collect();
        let links: Vec<_> = std::iter::from_fn(|| shared.incoming.take(OWN)).collect();
        assert_eq!((clients.len(), links.len()), (4, 12));
        assert!(shared.clients.take(Origin::of(Ipv4Addr::BROADCAST.into())).is_some());
        assert!(shared.incoming.take(NodeId::from_bytes([2; 16])).is_some());
    }
}
