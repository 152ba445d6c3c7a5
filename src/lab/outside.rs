//! The world outside of a lab's networks: a host of the underlay that is no node, with a page and a resolver.
//!
//! - Its page says which address whoever fetches it comes from: behind a way out, the node's.
//! - Its resolver knows [`OUTSIDE_NAME`], and that there are no other names. The nodes' daemons ask it, and not those of
//!   this machine, so that a lab is the same everywhere.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::page::{PAGE_PORT, REQUEST_MAX, is_whole, response};
use super::plan::{NodePlan, OUTSIDE};
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
/// Visitors at a time; others wait.
const VISITORS_MAX: usize = 64;
/// How long one may take.
const VISIT_MAX: Duration = Duration::from_secs(30);

/// The host outside.
#[derive(Debug)]
pub struct Outside {
    plan: NodePlan,
    netns: NetNs,
    /// Once it has any.
    services: Option<Services>,
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

/// What runs on it; ends when dropped.
#[derive(Debug)]
struct Services {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Outside {
    /// Makes its namespace.
    pub(super) fn build(plan: &NodePlan) -> Result<Self, NetnsError> {
        Ok(Self { plan: plan.clone(), netns: NetNs::create()?, services: None })
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
        let services = Services::start(listener, socket, zone).map_err(OutsideError::Thread)?;
        self.services = Some(services);
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

impl Services {
    fn start(listener: TcpListener, socket: UdpSocket, zone: Zone) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        socket.set_nonblocking(true)?;
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = oneshot::channel();
        let work = move || run(&runtime, listener, socket, &zone, stopped);
        let thread = thread::Builder::new().name("lab-outside".into()).spawn(work)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; the lab is about to go in any case.
            let _panicked = thread.join();
        }
    }
}

/// Until it is stopped. A service that fails is not there any more, as the lab's check then says.
fn run(
    runtime: &Runtime,
    listener: TcpListener,
    socket: UdpSocket,
    zone: &Zone,
    stopped: oneshot::Receiver<()>,
) {
    runtime.block_on(async {
        let services = async {
            let _failed = tokio::join!(pages(listener), resolve(socket, zone));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = stopped => {}
            () = services => {}
        }
    });
}

async fn pages(listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(VISITORS_MAX));
    loop {
        let place = Arc::clone(&room).acquire_owned().await.expect("it is never closed");
        let (stream, from) = match listener.accept().await {
            Ok(visitor) => visitor,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        tokio::spawn(async move {
            // A visitor's failure is only its own.
            let _left = timeout(VISIT_MAX, show(stream, from)).await;
            drop(place);
        });
    }
}

/// Answers one request, whatever it asks for.
async fn show(mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    let mut request = Vec::new();
    while !is_whole(&request) {
        if request.len() >= REQUEST_MAX || stream.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    stream.write_all(&response(format!("{}\n", from.ip()).as_bytes())).await?;
    stream.shutdown().await
}

async fn resolve(socket: UdpSocket, zone: &Zone) -> io::Result<()> {
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
