//! A gateway at work: a thread between a port of the switch and a [`Station`], and questions for resolvers elsewhere.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::debug;

use super::addresses::Addresses;
use super::counters::{Counters, Counts, count};
use super::station::{Action, Question, Station};
use super::tables::Tables;
use super::upstream::ask;
use crate::names::upstreams;
use crate::switch::io::FrameIo;
use crate::switch::io::channel::{ChannelEnd, ChannelPort, ChannelReceiveError, channel};
use crate::switch::storm::StormLimit;
use crate::switch::tables::PortSpec;
use crate::switch::wire::Vni;

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
    tables: Arc<ArcSwap<Tables>>,
    counters: Arc<Counters>,
    thread: JoinHandle<()>,
}

impl Gateway {
    /// Starts one, and gives the device of its port ([`port_spec`]). The switch should have [`Addresses::announced`]
    /// there: then what is for the gateway stays on this node, and ARP for it does, too.
    ///
    /// # Errors
    /// No thread or descriptor can be had.
    pub fn open(
        at: Addresses,
        tables: impl Into<Tables>,
        resolvers: Resolvers,
    ) -> io::Result<(Self, ChannelPort)> {
        let (port, end) = channel(QUEUE)?;
        Ok((Self::start(at, tables.into(), end, resolvers)?, port))
    }

    fn start(at: Addresses, tables: Tables, end: ChannelEnd, resolvers: Resolvers) -> io::Result<Self> {
        let tables = Arc::new(ArcSwap::from_pointee(tables));
        let read = Arc::clone(&tables);
        let station = Station::new(at.clone(), random(), Instant::now());
        let counters = Arc::clone(station.counters());
        let work = Work {
            counters: Arc::clone(&counters),
            station: Arc::new(Mutex::new(station)),
            end: Arc::new(end),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            rng: fastrand::Rng::with_seed(random()),
            resolvers,
        };
        let thread = std::thread::Builder::new().name("gateway".into()).spawn(move || work.run(&read))?;
        Ok(Self { at, tables, counters, thread })
    }

    /// Where it is.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.at
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.counts()
    }

    /// Answers from these from now on.
    pub fn set_tables(&self, tables: impl Into<Tables>) {
        self.tables.store(Arc::new(tables.into()));
    }

    /// Waits for its end, after its port has been closed. Gives whether it ended in order.
    #[must_use]
    pub fn join(self) -> bool {
        self.thread.join().is_ok()
    }
}

/// The port that a network's gateway has in a switch; `mtu` is that of the network's other ports.
#[must_use]
pub fn port_spec(vni: Vni, mtu: u32, port: &ChannelPort) -> PortSpec {
    PortSpec {
        name: format!("gateway@{vni}"),
        vni,
        mtu: usize::try_from(mtu).unwrap_or(usize::MAX),
        capabilities: port.capabilities(),
        storm: StormLimit::default(),
    }
}

struct Work {
    counters: Arc<Counters>,
    /// Shared with questions that are under way.
    station: Arc<Mutex<Station>>,
    end: Arc<ChannelEnd>,
    questions: Arc<Semaphore>,
    rng: fastrand::Rng,
    resolvers: Resolvers,
}

impl Work {
    fn run(mut self, tables: &ArcSwap<Tables>) {
        loop {
            let deadline = lock(&self.station).next_deadline();
            let patience = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let frame = match self.next_frame(patience) {
                Ok(frame) => frame,
                Err(Closed) => return,
            };
            let now = Instant::now();
            if let Some(frame) = frame {
                let action = lock(&self.station).handle(&frame, &tables.load(), now);
                self.act(action);
                self.end.recycle(frame);
            }
            if deadline.is_some_and(|deadline| now >= deadline) {
                let action = lock(&self.station).tick(&tables.load(), now);
                self.act(action);
            }
        }
    }

    /// The next frame, or none when it has not come in time.
    fn next_frame(&self, patience: Option<Duration>) -> Result<Option<Vec<u8>>, Closed> {
        let received = match patience {
            Some(patience) => self.end.receive_timeout(patience),
            None => self.end.receive(),
        };
        match received {
            Ok(frame) => Ok(Some(frame)),
            Err(ChannelReceiveError::Empty) => Ok(None),
            Err(ChannelReceiveError::Closed) => Err(Closed),
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Nothing => {}
            Action::Send(frame) => send(&self.end, &frame, &self.counters),
            Action::Ask(question) => self.ask(question),
            Action::Several { frames, questions } => {
                frames.iter().for_each(|frame| send(&self.end, frame, &self.counters));
                questions.into_iter().for_each(|question| self.ask(question));
            }
        }
    }

    fn ask(&mut self, question: Question) {
        let Ok(permit) = Arc::clone(&self.questions).try_acquire_owned() else {
            count(&self.counters.refused);
            let frames = lock(&self.station).answer(&question, None, Instant::now());
            frames.iter().for_each(|frame| send(&self.end, frame, &self.counters));
            return;
        };
        count(&self.counters.forwarded);
        let counters = Arc::clone(&self.counters);
        let (servers, id) = (self.resolvers.servers.clone(), self.rng.u16(..));
        // A question that is under way does not keep the port open.
        let (end, station) = (Arc::downgrade(&self.end), Arc::clone(&self.station));
        self.resolvers.runtime.spawn(async move {
            let reply = look_up(&servers, &question, id).await;
            if reply.is_none() {
                count(&counters.unanswered);
            }
            let frames = lock(&station).answer(&question, reply, Instant::now());
            if let Some(end) = end.upgrade() {
                frames.iter().for_each(|frame| send(&end, frame, &counters));
            }
            drop(permit);
        });
    }
}

/// The port has been closed.
struct Closed;

async fn look_up(servers: &Servers, question: &Question, id: u16) -> Option<Vec<u8>> {
    match servers.list().await {
        Ok(servers) => ask(&servers, &question.query, question.through(), id).await,
        Err(error) => {
            debug!("no resolver is known: {error}");
            None
        }
    }
}

fn lock(station: &Mutex<Station>) -> MutexGuard<'_, Station> {
    // A connection that was left half done where it could panic times out.
    station.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What does not fit is lost, as on any link: who asked will ask again.
fn send(end: &ChannelEnd, frame: &[u8], counters: &Counters) {
    if let Err(error) = end.send(frame) {
        count(&counters.dropped);
        debug!("an answer of a gateway is lost: {error}");
    }
}

/// A seed from the system's randomness, by way of the standard library's hash keys.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
