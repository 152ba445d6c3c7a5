//! The ports that this node listens on, and those that it can't have.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::plan::{At, Plan};
use crate::gateway::door::{Door, DoorError};

/// A port that this node should listen on and does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unbound {
    /// The service that publishes it.
    pub(crate) service: String,
    /// The port.
    pub(crate) at: At,
    /// Why not, for people; empty if this host has not got the address.
    pub(crate) reason: String,
}

#[derive(Debug)]
pub(super) struct Ports {
    sockets: Arc<Semaphore>,
    open: BTreeMap<At, Port>,
}

#[derive(Debug)]
enum Port {
    Open(Vec<Arc<Door>>),
    /// It has an address that this host has not.
    Elsewhere,
    Unbound(String),
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Self::Open(doors) = self {
            doors.iter().for_each(|door| door.close());
        }
    }
}

impl Ports {
    pub(super) fn new(sockets: Arc<Semaphore>) -> Self {
        Self { sockets, open: BTreeMap::new() }
    }

    /// Listens on those ports, as far as they can be had, and on no others: these are free when this returns. What could not
    /// be had before is tried again.
    pub(super) fn follow(&mut self, plan: &Plan) {
        self.open.retain(|at, _| plan.ports.contains_key(at));
        for (&at, published) in &plan.ports {
            let before = match self.open.get(&at) {
                Some(Port::Open(_)) => continue,
                Some(Port::Unbound(reason)) => Some(reason.clone()),
                Some(Port::Elsewhere) | None => None,
            };
            let door = at.door(published.target);
            let port = match Door::open(&door, &self.sockets) {
                Ok(doors) => Port::Open(doors),
                Err(DoorError::Address(_)) => Port::Elsewhere,
                Err(error) => Port::Unbound(error.to_string()),
            };
            match (&port, before) {
                (Port::Open(_), Some(_)) => {
                    info!("listening at port {door} for services, now that it is free")
                }
                (Port::Unbound(reason), before) if before.as_ref() != Some(reason) => {
                    warn!("can't listen for services, and try on: {reason}");
                }
                _ => {}
            }
            self.open.insert(at, port);
        }
    }

    /// Those that are there.
    pub(super) fn doors(&self) -> Vec<(At, Arc<Door>)> {
        let of = |(&at, port): (&At, &Port)| match port {
            Port::Open(doors) => doors.iter().map(|door| (at, Arc::clone(door))).collect(),
            Port::Elsewhere | Port::Unbound(_) => Vec::new(),
        };
        self.open.iter().flat_map(of).collect()
    }

    /// Those that this node should have and has not.
    pub(super) fn unbound(&self, plan: &Plan) -> Vec<Unbound> {
        let of = |(&at, port): (&At, &Port)| match port {
            Port::Unbound(reason) => {
                let service = plan.ports.get(&at)?.service.clone();
                Some(Unbound { service, at, reason: reason.clone() })
            }
            Port::Elsewhere => {
                Some(Unbound { service: plan.ports.get(&at)?.service.clone(), at, reason: String::new() })
            }
            Port::Open(_) => None,
        };
        self.open.iter().filter_map(of).collect()
    }

    /// Whether one is worth another attempt, though nothing has changed here.
    pub(super) fn waits(&self) -> bool {
        self.open.values().any(|port| !matches!(port, Port::Open(_)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::mesh::plan::Published;
    use crate::service::Protocol;

    fn plan(ports: &[(Ipv4Addr, u16)]) -> Plan {
        let port = |&(address, published): &(Ipv4Addr, u16)| {
            let at = At { address: Some(address.into()), published, protocol: Protocol::Tcp };
            let (places, draining) = (Arc::default(), Arc::default());
            (at, Published { service: "s".into(), target: 80, proxy: false, places, draining })
        };
        Plan::new(ports.iter().map(port).collect(), BTreeMap::new(), BTreeSet::new())
    }

    #[test]
    fn a_taken_port_is_told_and_had_when_it_is_free_and_free_when_it_is_not_wanted() {
        let mut ports = Ports::new(Arc::new(Semaphore::new(8)));
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = (Ipv4Addr::LOCALHOST, other.local_addr().unwrap().port());
        let wanted = plan(&[at, (Ipv4Addr::new(192, 0, 2, 77), at.1)]);
        ports.follow(&wanted);
        let (unbound, elsewhere): (Vec<_>, Vec<_>) =
            ports.unbound(&wanted).into_iter().partition(|unbound| !unbound.reason.is_empty());
        assert_eq!(elsewhere.len(), 1, "an address of another host is no reason");
        assert_eq!((unbound.len(), unbound[0].service.as_str(), unbound[0].at.published), (1, "s", at.1));
        assert!(unbound[0].reason.contains("in use"), "{unbound:?}");
        assert!(ports.waits() && ports.doors().is_empty(), "an address of another host is no failure");
        drop(other);
        ports.follow(&wanted);
        assert!(ports.unbound(&wanted).iter().all(|unbound| unbound.reason.is_empty()));
        assert_eq!(ports.doors()[0].1.at(), at.into());
        assert!(TcpListener::bind(at).is_err());
        ports.follow(&plan(&[]));
        assert!(TcpListener::bind(at).is_ok() && !ports.waits());
    }
}
