//! The world outside of a lab's networks: a host of the underlay that is no node, with a page and a resolver.
//!
//! - Its page says which address whoever fetches it comes from: behind a way out, the node's.
//! - Its resolver knows [`OUTSIDE_NAME`], and that there are no other names. The nodes' daemons ask it, and not those of
//!   this machine, so that a lab is the same everywhere.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use super::page::PAGE_PORT;
use super::plan::{NodePlan, OUTSIDE};
use super::visitors::{Servers, pages};
use crate::names::{Host, Outcome, Through, Zone, answer};
use crate::namespace::netns::{NetNs, NetnsError};

/// What the resolver knows; its domain is for tests (RFC 6761 §6.2).
pub const OUTSIDE_NAME: &str = "outside.test";
/// That domain.
const DOMAIN: &str = "test";
/// RFC 1035 §4.2.
const RESOLVER_PORT: u16 = 53;
/// Bytes of the longest query (RFC 1035 §4.2.1 has 512 without EDNS): a longer one is cut, and answered as none.
const QUERY_MAX: usize = 1_232;

/// The host outside.
#[derive(Debug)]
pub struct Outside {
    plan: NodePlan,
    netns: NetNs,
    /// Once it has any.
    servers: Option<Servers>,
}

/// Why it has no page, or no resolver.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// Its namespace can't be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// No sockets.
    #[error("can't listen at {at}: {source}")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No thread for it.
    #[error("can't start the host outside: {0}")]
    Thread(io::Error),
}

impl Outside {
    /// Makes its namespace.
    pub(super) fn build(plan: &NodePlan) -> Result<Self, NetnsError> {
        Ok(Self { plan: plan.clone(), netns: NetNs::create()?, servers: None })
    }

    /// Its part of the plan.
    #[must_use]
    pub fn plan(&self) -> &NodePlan {
        &self.plan
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Where its page is.
    #[must_use]
    pub fn page(&self) -> SocketAddr {
        SocketAddr::new(self.plan.address, PAGE_PORT)
    }

    /// Where its resolver is.
    #[must_use]
    pub fn resolver(&self) -> SocketAddr {
        SocketAddr::new(self.plan.address, RESOLVER_PORT)
    }

    /// Starts page and resolver. Its address must be there.
    pub(super) fn start(&mut self) -> Result<(), OutsideError> {
        let (page, resolver) = (self.page(), self.resolver());
        let listener = self.open(page, TcpListener::bind)?;
        let socket = self.open(resolver, UdpSocket::bind)?;
        let mut zone = Zone::new(DOMAIN, true);
        let own = Host { name: OUTSIDE.into(), addresses: vec![page.ip()], ..Host::default() };
        zone.add(&own).expect("it is the only one");
        let servers = Servers::start(move || async move {
            let _failed = tokio::join!(pages(listener, "".into()), resolve(socket, &zone));
        });
        self.servers = Some(servers.map_err(OutsideError::Thread)?);
        Ok(())
    }

    fn open<T: Send>(
        &self,
        at: SocketAddr,
        bind: impl FnOnce(SocketAddr) -> io::Result<T> + Send,
    ) -> Result<T, OutsideError> {
        self.netns.run(|| bind(at))?.map_err(|source| OutsideError::Listen { at, source })
    }
}

async fn resolve(socket: UdpSocket, zone: &Zone) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut rng = fastrand::Rng::new();
    let mut query = [0; QUERY_MAX];
    loop {
        let (len, from) = match socket.recv_from(&mut query).await {
            Ok(received) => received,
            // Of an answer to somebody who has gone (ip(7)).
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        if let Outcome::Reply(reply) = answer(zone, &query[..len], Through::Udp, &mut rng) {
            // Whoever asked asks again.
            let _lost = socket.send_to(&reply, from).await;
        }
    }
}
