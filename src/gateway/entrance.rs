//! Ways to an endpoint for whoever takes connections elsewhere than at a door.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::addresses::Addresses;
use super::nat::{Answered, Board, Handed, Letter, Outer, Reply, Tag, Way};
use super::publication::ways;
use crate::switch::wire::MacAddr;

/// Who an endpoint is to its gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resident {
    /// Its id.
    pub id: Arc<str>,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Addresses of the gateway that are its way out, as in [`super::Publication`].
    pub ways_out: Vec<IpAddr>,
}

/// The way to an endpoint. It stays when the endpoint is gone, and then leads nowhere.
#[derive(Clone, Debug)]
pub struct Entrance(Arc<Leads>);

#[derive(Debug)]
struct Leads {
    resident: Resident,
    at: Addresses,
    board: Arc<Board>,
}

impl Entrance {
    pub(super) fn new(resident: Resident, at: Addresses, board: Arc<Board>) -> Self {
        Self(Arc::new(Leads { resident, at, board }))
    }

    pub(super) fn id(&self) -> &Arc<str> {
        &self.0.resident.id
    }

    /// Hands a client's connection over to the endpoint's port; gives what comes of it. If that is dropped the gateway has
    /// ended, and the connection with it.
    ///
    /// The endpoint is sent `ahead` before anything else, and has so long to answer.
    #[must_use]
    pub fn hand(
        &self,
        outer: Outer,
        client: SocketAddr,
        port: u16,
        ahead: Vec<u8>,
        patience: Duration,
    ) -> oneshot::Receiver<Answered> {
        let (waiter, answer) = oneshot::channel();
        let (ways, endpoint) = (self.ways(port), Arc::clone(self.id()));
        self.0.board.hand(Handed { outer, client, ways, endpoint, ahead, patience, waiter });
        answer
    }

    /// Hands a client's datagram over to the endpoint's port; answers come to `reply`. Whether there is room for it.
    pub fn post(
        &self,
        payload: Vec<u8>,
        client: SocketAddr,
        port: u16,
        tag: Tag,
        reply: Arc<dyn Reply>,
    ) -> bool {
        self.0.board.post(Letter { client, entrance: self.clone(), port, payload, tag, reply })
    }

    pub(super) fn ways(&self, port: u16) -> Vec<Way> {
        let Resident { mac, addresses, ways_out, .. } = &self.0.resident;
        ways(&self.0.at, (*mac, addresses, port), ways_out)
    }
}
