//! A gateway at work: a thread between a port of the switch and a [`Station`], and questions for resolvers elsewhere.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::addresses::Addresses;
use super::counters::{Counters, Counts, count};
use super::entrance::{Entrance, Resident};
use super::nat::{self, Board, Count, Listing, Nat, Outside, Token};
use super::publication::Publication;
use super::resolvers::Resolvers;
use super::station::{Action, Question, Station};
use super::tables::Tables;
use crate::switch::io::channel::{ChannelEnd, ChannelPort, ChannelReceiveError, channel_with};
use crate::switch::io::{Capabilities, FrameIo};
use crate::switch::offload::finish_checksum;
use crate::switch::storm::StormLimit;
use crate::switch::tables::PortSpec;
use crate::switch::wire::Vni;
use crate::switch::wire::virtio::{Checksum, Offload};

/// Questions that resolvers elsewhere are asked at a time for one network: each holds a socket. One more is refused at
/// once.
pub const QUESTIONS_MAX: usize = 256;
/// Frames that wait between switch and gateway, each way: a burst of questions from every endpoint of a busy node.
pub const QUEUE: usize = 1_024;
/// Frames that are taken before sockets and the clock are looked at again.
const BATCH: usize = 64;
/// What a gateway that leads out takes unfinished: TCP in long segments, which is where its speed comes from.
const TAKES: Capabilities = Capabilities { checksum: true, tso: true, uso: false };
/// A gateway that runs as long as the port that its channel leads to: when that is closed, its thread ends.
#[derive(Debug)]
pub struct Gateway {
    at: Addresses,
    tables: Arc<ArcSwap<Tables>>,
    counters: Arc<Counters>,
    carried: Option<Arc<nat::Counters>>,
    board: Option<Arc<Board>>,
    thread: JoinHandle<()>,
}

impl Gateway {
    /// Starts one, and gives the device of its port ([`port_spec`]). The switch should have [`Addresses::announced`]
    /// there: then what is for the gateway stays on this node, and ARP for it does, too. With `outside` it leads there.
    ///
    /// # Errors
    /// No thread or descriptor can be had.
    pub fn open(
        at: Addresses,
        tables: impl Into<Tables>,
        resolvers: Resolvers,
        outside: Option<&Outside>,
    ) -> io::Result<(Self, ChannelPort)> {
        let takes = if outside.is_some() { TAKES } else { Capabilities::default() };
        let (port, end) = channel_with(QUEUE, takes)?;
        Ok((Self::start(at, tables.into(), end, resolvers, outside)?, port))
    }

    fn start(
        at: Addresses,
        tables: Tables,
        end: ChannelEnd,
        resolvers: Resolvers,
        outside: Option<&Outside>,
    ) -> io::Result<Self> {
        let tables = Arc::new(ArcSwap::from_pointee(tables));
        let read = Arc::clone(&tables);
        let station = Station::new(at.clone(), random(), Instant::now());
        let counters = Arc::clone(station.counters());
        let station = match outside {
            None => station,
            Some(Outside { internal: true, .. }) => station.leading_in(),
            Some(_) => station.leading_out().leading_in(),
        };
        let way_out = outside.map(|outside| WayOut::new(outside, &end)).transpose()?;
        let board = way_out.as_ref().map(|way_out| way_out.nat.board());
        let carried = way_out.as_ref().map(|way_out| way_out.nat.counters());
        let work = Work {
            counters: Arc::clone(&counters),
            station: Arc::new(Mutex::new(station)),
            end: Arc::new(end),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            rng: fastrand::Rng::with_seed(random()),
            resolvers,
            way_out,
        };
        let thread = std::thread::Builder::new().name("gateway".into()).spawn(move || work.run(&read))?;
        Ok(Self { at, tables, counters, carried, board, thread })
    }

    /// Where it is.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.at
    }

    /// What its way out has done, if it leads out.
    #[must_use]
    pub fn carried(&self) -> Option<&Arc<nat::Counters>> {
        self.carried.as_ref()
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let carried = |what| self.carried.as_ref().map_or(0, |counters| counters.count(what));
        let (carried_in, refused_in) = (carried(Count::Inward), carried(Count::InwardRefused));
        Counts { carried_in, refused_in, ..self.counters.counts() }
    }

    /// Answers from these from now on.
    pub fn set_tables(&self, tables: impl Into<Tables>) {
        self.tables.store(Arc::new(tables.into()));
    }

    /// Takes what comes to these doors, and what is handed over for these endpoints, by their ids; nothing else from now on.
    /// One without `outside` takes nothing.
    pub fn publish<'p>(
        &self,
        publications: impl IntoIterator<Item = &'p Publication>,
        endpoints: BTreeSet<Arc<str>>,
    ) {
        if let Some(board) = &self.board {
            let inlets = publications.into_iter().map(|publication| publication.inlet(&self.at)).collect();
            board.write(Listing { inlets, endpoints });
        }
    }

    /// The way to an endpoint; none without `outside`. Nothing is carried for one that is not published.
    #[must_use]
    pub fn entrance(&self, resident: Resident) -> Option<Entrance> {
        let board = self.board.as_ref()?;
        Some(Entrance::new(resident, self.at.clone(), Arc::clone(board)))
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
    way_out: Option<WayOut>,
}

struct WayOut {
    nat: Nat,
    /// Of the port.
    port: Token,
}

impl WayOut {
    fn new(outside: &Outside, end: &ChannelEnd) -> io::Result<Self> {
        let mut nat = Nat::new(outside, random())?;
        let port = nat.watch(end.pollable())?;
        Ok(Self { nat, port })
    }

    /// Waits until there is something to do, does what the sockets and the clock ask for, and gives whether the port has
    /// something.
    fn work(&mut self, patience: Option<Duration>, end: &ChannelEnd) -> io::Result<bool> {
        let due = self.nat.next_tick().map(|due| due.saturating_duration_since(Instant::now()));
        let patience = [patience, due].into_iter().flatten().min();
        let (arrived, ready) = self.nat.wait(self.port, patience)?;
        let now = Instant::now();
        for ready in ready {
            self.nat.ready(ready, now);
            self.send(end);
        }
        if self.nat.next_tick().is_some_and(|due| due <= now) {
            self.nat.tick(now);
            self.send(end);
        }
        Ok(arrived)
    }

    fn send(&mut self, end: &ChannelEnd) {
        let lost = end.send_all(self.nat.frames());
        (0..lost).for_each(|_| self.nat.lost());
    }
}

/// A frame, and what is left to do to it.
type Received = (Vec<u8>, Offload);

impl Work {
    fn run(mut self, tables: &ArcSwap<Tables>) {
        loop {
            let deadline = lock(&self.station).next_deadline();
            let patience = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let mut next = match self.next_frame(patience) {
                Ok(next) => next,
                Err(Closed) => return,
            };
            let now = Instant::now();
            for left in (0..BATCH).rev() {
                let Some((mut frame, offload)) = next else { break };
                if finish(&mut frame, offload) {
                    let action = lock(&self.station).handle(&frame, &tables.load(), now);
                    self.act(action, &frame, now);
                }
                self.end.recycle(frame);
                // No more than are handled. That the port is closed comes again.
                next = if left > 0 { self.end.try_receive_offload().ok() } else { None };
            }
            if deadline.is_some_and(|deadline| now >= deadline) {
                let action = lock(&self.station).tick(&tables.load(), now);
                self.act(action, &[], now);
            }
        }
    }

    /// The next frame, or none when it has not come in time, or there were other things to do.
    fn next_frame(&mut self, patience: Option<Duration>) -> Result<Option<Received>, Closed> {
        let received = match (&mut self.way_out, patience) {
            (Some(way_out), _) => match way_out.work(patience, &self.end) {
                Ok(true) => self.end.try_receive_offload(),
                Ok(false) => return Ok(None),
                Err(error) => {
                    warn!("a gateway ends, since it can't wait for its sockets: {error}");
                    return Err(Closed);
                }
            },
            (None, Some(patience)) => self.end.receive_timeout(patience).map(complete),
            (None, None) => self.end.receive().map(complete),
        };
        match received {
            Ok(received) => Ok(Some(received)),
            Err(ChannelReceiveError::Empty) => Ok(None),
            Err(ChannelReceiveError::Closed) => Err(Closed),
        }
    }

    /// Does what is to be done of a frame.
    fn act(&mut self, action: Action, frame: &[u8], now: Instant) {
        match action {
            Action::Nothing => {}
            Action::Send(frame) => send(&self.end, &frame, &self.counters),
            Action::Ask(question) => self.ask(question),
            Action::Carry(carried) => {
                if let Some(way_out) = &mut self.way_out {
                    way_out.nat.handle(frame, carried, now);
                    way_out.send(&self.end);
                }
            }
            Action::Fragment => self.way_out.iter().for_each(|way_out| way_out.nat.fragment()),
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
        let (resolvers, id) = (self.resolvers.clone(), self.rng.u16(..));
        // A question that is under way does not keep the port open.
        let (end, station) = (Arc::downgrade(&self.end), Arc::clone(&self.station));
        self.resolvers.runtime().spawn(async move {
            let reply = resolvers.ask(&question, id).await;
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

fn complete(frame: Vec<u8>) -> Received {
    (frame, Offload::default())
}

/// Finishes a checksum, that of a super-frame too: it is one long packet to us. Whether that can be done.
fn finish(frame: &mut [u8], offload: Offload) -> bool {
    match offload.checksum {
        Checksum::Partial { start, offset } => finish_checksum(frame, start, offset).is_ok(),
        Checksum::Complete | Checksum::Verified => true,
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
