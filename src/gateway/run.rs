//! A gateway at work: a thread between a port of the switch and a [`Station`], and questions for resolvers elsewhere.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::debug;

use super::station::{Action, Addresses, Question, Station};
use super::upstream::ask;
use crate::names::{Zone, upstreams};
use crate::switch::io::channel::ChannelEnd;

/// Questions that resolvers elsewhere are asked at a time for one network: each holds a socket. One more is refused at
/// once.
pub const QUESTIONS_MAX: usize = 256;
/// Frames that wait between switch and gateway, each way: a burst of questions from every endpoint of a busy node.
pub const QUEUE: usize = 1_024;
/// Where a host says which resolvers it uses.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Who is asked for names that the network does not have.
#[derive(Clone, Debug)]
pub struct Resolvers {
    /// What the questions run on.
    runtime: Handle,
    servers: Servers,
}

#[derive(Clone, Debug)]
enum Servers {
    /// As a file in the form of resolv.conf(5) has them, read for each question: it changes with the host's network.
    File(PathBuf),
    These(Vec<SocketAddr>),
}

impl Resolvers {
    /// Those of this host.
    #[must_use]
    pub fn host(runtime: Handle) -> Self {
        Self { runtime, servers: Servers::File(RESOLV_CONF.into()) }
    }

    /// These, in this order.
    #[must_use]
    pub fn these(runtime: Handle, servers: Vec<SocketAddr>) -> Self {
        Self { runtime, servers: Servers::These(servers) }
    }
}

impl Servers {
    async fn list(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::These(servers) => Ok(servers.clone()),
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path));
                Ok(upstreams(&read.await??))
            }
        }
    }
}

/// A gateway that runs as long as the port that its channel leads to: when that is closed, its thread ends.
#[derive(Debug)]
pub struct Gateway {
    at: Addresses,
    zone: Arc<ArcSwap<Zone>>,
    thread: JoinHandle<()>,
}

impl Gateway {
    /// Starts one at the end of a channel whose port takes no offloads ([`crate::switch::io::channel::channel`], with
    /// [`QUEUE`] frames). The switch should have `at.mac` announced at that port, with the IPv4 address: then it stays on
    /// this node, and ARP for it does, too. Not with the IPv6 address, since the switch does not say of any that it is a
    /// router's (RFC 4861 §4.4).
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(at: Addresses, zone: Zone, end: ChannelEnd, resolvers: Resolvers) -> io::Result<Self> {
        let zone = Arc::new(ArcSwap::from_pointee(zone));
        let names = Arc::clone(&zone);
        let work = Work {
            station: Station::new(at, random()),
            end: Arc::new(end),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            rng: fastrand::Rng::with_seed(random()),
            resolvers,
        };
        let thread = std::thread::Builder::new().name("gateway".into()).spawn(move || work.run(&names))?;
        Ok(Self { at, zone, thread })
    }

    /// Where it is.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.at
    }

    /// Answers with these names from now on.
    pub fn set_zone(&self, zone: Zone) {
        self.zone.store(Arc::new(zone));
    }

    /// Waits for its end, after its port has been closed. Gives whether it ended in order.
    #[must_use]
    pub fn join(self) -> bool {
        self.thread.join().is_ok()
    }
}

struct Work {
    station: Station,
    end: Arc<ChannelEnd>,
    questions: Arc<Semaphore>,
    rng: fastrand::Rng,
    resolvers: Resolvers,
}

impl Work {
    fn run(mut self, zone: &ArcSwap<Zone>) {
        while let Ok(frame) = self.end.receive() {
            match self.station.handle(&frame, &zone.load(), Instant::now()) {
                Action::Nothing => {}
                Action::Send(frame) => send(&self.end, &frame),
                Action::Ask(question) => self.ask(question),
            }
            self.end.recycle(frame);
        }
    }

    fn ask(&mut self, question: Question) {
        let Ok(permit) = Arc::clone(&self.questions).try_acquire_owned() else {
            question.fail().iter().for_each(|frame| send(&self.end, frame));
            return;
        };
        let (servers, id) = (self.resolvers.servers.clone(), self.rng.u16(..));
        // A question that is under way does not keep the port open.
        let end = Arc::downgrade(&self.end);
        self.resolvers.runtime.spawn(async move {
            forward(&servers, &question, id, &end).await;
            drop(permit);
        });
    }
}

async fn forward(servers: &Servers, question: &Question, id: u16, end: &Weak<ChannelEnd>) {
    let reply = match servers.list().await {
        Ok(servers) => ask(&servers, &question.query, id).await,
        Err(error) => {
            debug!("no resolver is known: {error}");
            None
        }
    };
    let frame = reply.and_then(|reply| question.reply(reply)).or_else(|| question.fail());
    if let (Some(frame), Some(end)) = (frame, end.upgrade()) {
        send(&end, &frame);
    }
}

/// What does not fit is lost, as on any link: who asked will ask again.
fn send(end: &ChannelEnd, frame: &[u8]) {
    if let Err(error) = end.send(frame) {
        debug!("an answer of a gateway is lost: {error}");
    }
}

/// A seed from the system's randomness, by way of the standard library's hash keys.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
