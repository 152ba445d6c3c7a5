//! The driver: an [`Engine`] on a UDP socket, a task that is watched, and the handle that the program holds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::net::UdpSocket;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;

use crate::engine::{Engine, Event, Rejected, Settings};
use crate::id::{NodeId, Now, Peer, TableId};
use crate::message::{CONTENT_LIMIT, SEAL_LIMIT, Transmit};
use crate::neighbour::PeerStatus;
use crate::owned::SetError;
use crate::parts::{Opened, Parts, SealError, StartError};
use crate::saving::Saving;

/// Largest datagram read.
const DATAGRAM: usize = 2048;
const _: () = assert!(CONTENT_LIMIT + SEAL_LIMIT <= DATAGRAM);
/// Events that a slow watcher may be behind before it is told that it missed some.
const EVENT_BACKLOG: usize = 4096;
/// Bulk transfers under way at a time; the rest is left to the next retry.
const BULK_LIMIT: usize = 32;
/// Pause before a driver that failed is started again.
const RESTART_AFTER: Duration = Duration::from_millis(200);

/// What happened to datagrams and to the driver, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that the socket or the sealing refused to send.
    pub unsent: u64,
    /// Datagrams received and handled.
    pub received: u64,
    /// Datagrams that could not be opened.
    pub unopened: u64,
    /// Datagrams that were opened, and then rejected.
    pub rejected: u64,
    /// Cluster records that were refused: forged, by no manager, untimely, or no room for them.
    pub refused: u64,
    /// Times that the state couldn't be saved.
    pub unsaved: u64,
    /// Times that the driver was started again after a failure.
    pub restarts: u64,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    unsent: AtomicU64,
    received: AtomicU64,
    unopened: AtomicU64,
    rejected: AtomicU64,
    /// By engines before this one.
    refused: AtomicU64,
    restarts: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

struct Shared {
    engine: Mutex<Engine>,
    /// Our own records, for a driver that starts again.
    own: Mutex<BTreeMap<(TableId, String), Vec<u8>>>,
    wake: Notify,
    events: broadcast::Sender<Event>,
    saving: Saving,
    socket: UdpSocket,
    parts: Parts,
    settings: Settings,
    counts: Counts,
    bulks: Arc<tokio::sync::Semaphore>,
}

/// A running node.
///
/// Dropping it stops the driver without a farewell, and without saving what [`Self::saved`] wasn't awaited for;
/// [`Self::leave`] does both.
pub struct Gossip {
    shared: Arc<Shared>,
    /// The driver, and what saves.
    tasks: [JoinHandle<()>; 2],
}

impl std::fmt::Debug for Gossip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gossip").field("me", &self.me()).finish_non_exhaustive()
    }
}

impl Drop for Gossip {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the driver: here time comes from the system")]
fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { at: Instant::now(), wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) }
}

impl Gossip {
    /// Opens `listen` and starts. `settings.me.addr` with port 0 becomes the port that was opened.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(listen: SocketAddr, mut settings: Settings, parts: Parts) -> Result<Self, StartError> {
        #[expect(clippy::disallowed_methods, reason = "this is the driver: the socket is its own")]
        let socket = UdpSocket::bind(listen).await.map_err(|error| StartError::Socket(listen, error))?;
        if settings.me.addr.port() == 0 {
            let bound = socket.local_addr().map_err(|error| StartError::Socket(listen, error))?;
            settings.me.addr.set_port(bound.port());
        }
        let saved = parts.store.load().map_err(StartError::Store)?;
        let engine = Engine::new(settings.clone(), parts.authority.clone(), saved.as_deref(), now())
            .map_err(StartError::Damaged)?;
        let shared = Arc::new(Shared {
            engine: Mutex::new(engine),
            own: Mutex::new(BTreeMap::new()),
            wake: Notify::new(),
            events: broadcast::channel(EVENT_BACKLOG).0,
            saving: Saving::new(),
            socket,
            parts,
            settings,
            counts: Counts::default(),
            bulks: Arc::new(tokio::sync::Semaphore::new(BULK_LIMIT)),
        });
        let tasks = [tokio::spawn(supervise(Arc::clone(&shared))), tokio::spawn(save(Arc::clone(&shared)))];
        Ok(Self { shared, tasks })
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.shared.engine()
    }

    /// We, as the others see us.
    pub fn me(&self) -> Peer {
        self.engine().me()
    }

    /// Every other node that is known.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.engine().peers()
    }

    /// One number for all that is known here: equal on nodes that know the same.
    pub fn digest(&self) -> u64 {
        self.engine().digest()
    }

    /// What has been counted.
    pub fn counters(&self) -> Counters {
        let counts = &self.shared.counts;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            sent: read(&counts.sent),
            unsent: read(&counts.unsent),
            received: read(&counts.received),
            unopened: read(&counts.unopened),
            rejected: read(&counts.rejected),
            refused: read(&counts.refused) + self.engine().refused(),
            unsaved: self.shared.saving.failures(),
            restarts: read(&counts.restarts),
        }
    }

    /// All events from now on. One that falls behind is told so, and then has to read the tables anew.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// Live records of a table: owner (none for the cluster's), key, value.
    pub fn records(&self, table: TableId) -> Vec<(Option<NodeId>, String, Arc<[u8]>)> {
        self.engine().records(table)
    }

    /// Sets a record of our own, or deletes it with `None`; the others are told at once.
    ///
    /// # Errors
    /// [`SetError`]; nothing has changed then.
    pub fn set_owned(&self, table: TableId, key: &str, value: Option<Vec<u8>>) -> Result<(), SetError> {
        self.engine().set_owned(table, key, value.clone())?;
        let mut own = self.shared.own.lock().unwrap_or_else(PoisonError::into_inner);
        match value {
            Some(value) => own.insert((table, key.to_owned()), value),
            None => own.remove(&(table, key.to_owned())),
        };
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Writes a cluster record, or deletes it with `None`; the others are told at once. It is on their disks and ours soon
    /// after; [`Self::saved`] waits for ours.
    ///
    /// # Errors
    /// [`SetError`]; nothing has changed then.
    pub fn set_cluster(&self, table: TableId, key: &str, value: Option<Vec<u8>>) -> Result<(), SetError> {
        self.engine().set_cluster(now(), table, key, value)?;
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Waits until every change made before this call is durable: cluster records, our own and the others', and who is
    /// known. What was acknowledged to anybody before that may be lost with the power.
    ///
    /// # Errors
    /// The store's, if its attempt to save failed. It is made again soon, at the next change, and with the next call.
    pub async fn saved(&self) -> std::io::Result<()> {
        self.shared.note_changes(&mut self.engine());
        self.shared.saving.wait().await
    }

    /// Greets `addr` until somebody answers there.
    pub fn add_seed(&self, addr: SocketAddr) {
        self.engine().add_seed(now(), addr);
        self.shared.wake.notify_one();
    }

    /// We are reached at `addr` from now on.
    pub fn readdress(&self, addr: SocketAddr) {
        self.engine().readdress(now(), addr);
        self.shared.wake.notify_one();
    }

    /// Forgets a node that was removed from the cluster, and believes nobody that it is alive. [`crate::Sealing::open`]
    /// should refuse it from then on: one that is still let in comes back with its next life.
    pub fn forget(&self, node: NodeId) {
        self.engine().forget(now(), node);
        self.shared.wake.notify_one();
    }

    /// What `sender` sent by its [`crate::Bulk`].
    ///
    /// # Errors
    /// [`Rejected`], if it isn't a member or the bytes are no messages.
    pub fn deliver_bulk(&self, sender: NodeId, bytes: &[u8]) -> Result<(), Rejected> {
        let result = self.engine().handle_bulk(now(), sender, bytes);
        self.shared.wake.notify_one();
        result
    }

    /// Says farewell to every node, saves, then stops. A store that can't save is not waited for again; who must know
    /// asks [`Self::saved`] before.
    pub async fn leave(&self) {
        let deadline = {
            let mut engine = self.engine();
            engine.leave(now());
            engine.next_deadline()
        };
        let [driver, _] = &self.tasks;
        driver.abort();
        self.shared.flush().await;
        if let Some(deadline) = deadline {
            // The second copies.
            tokio::time::sleep_until(deadline.into()).await;
            self.engine().handle_timeout(now());
            self.shared.flush().await;
        }
        // A failure is counted, and there is nobody left to try again for.
        self.saved().await.ok();
    }
}

impl Shared {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_changes(&self, engine: &mut Engine) {
        if engine.take_dirty() {
            self.saving.note();
        }
    }

    /// Carries out what the engine wants done.
    async fn flush(&self) {
        let output = {
            let mut engine = self.engine();
            let output = engine.drain(now());
            self.note_changes(&mut engine);
            output
        };
        for event in output.events {
            // Nobody may be watching.
            self.events.send(event).ok();
        }
        for transmit in output.transmits {
            self.transmit(&transmit).await;
        }
        for bulk in output.bulks {
            if let Ok(permit) = Arc::clone(&self.bulks).try_acquire_owned() {
                let sending = self.parts.bulk.send(bulk);
                tokio::spawn(async move {
                    sending.await;
                    drop(permit);
                });
            } else {
                count(&self.counts.unsent);
            }
        }
    }

    async fn transmit(&self, transmit: &Transmit) {
        let sealed = self.parts.sealing.seal(transmit.kind, &transmit.bytes);
        let sent = match sealed {
            Ok(datagram) => self.socket.send_to(&datagram, transmit.to).await.is_ok(),
            Err(SealError) => false,
        };
        count(if sent { &self.counts.sent } else { &self.counts.unsent });
    }

    fn receive(&self, datagram: &[u8], from: SocketAddr) {
        let Ok(opened) = self.parts.sealing.open(datagram) else {
            return count(&self.counts.unopened);
        };
        let Opened { sender, kind, bytes } = opened;
        match self.engine().handle_datagram(now(), (sender, from), kind, &bytes) {
            Ok(()) | Err(Rejected::Duplicate) => count(&self.counts.received),
            Err(_) => count(&self.counts.rejected),
        }
    }

    async fn drive(&self) {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            self.flush().await;
            let deadline = self.engine().next_deadline();
            let deadline = deadline.unwrap_or_else(|| now().at + Duration::from_secs(1));
            tokio::select! {
                // Errors are those of earlier sends (ICMP); the next call goes on.
                received = self.socket.recv_from(&mut buffer) => {
                    if let Ok((length, from)) = received {
                        self.receive(&buffer[..length], from);
                    }
                }
                () = tokio::time::sleep_until(deadline.into()) => self.engine().handle_timeout(now()),
                () = self.wake.notified() => {}
            }
        }
    }

    /// A new engine in a new life, with what the old one remembered and had been told to say. If there is no making
    /// one, the old one goes on.
    fn begin_again(&self) {
        let mut engine = self.engine();
        // It failed in the midst of something, so this may fail, too.
        let kept = catch_unwind(AssertUnwindSafe(|| engine.snapshot())).ok();
        let kept = kept.and_then(|kept| self.next_engine(&engine, &kept));
        let begun = kept.or_else(|| self.next_engine(&engine, &self.parts.store.load().ok().flatten()?));
        if let Some(begun) = begun {
            self.counts.refused.fetch_add(engine.refused(), Ordering::Relaxed);
            *engine = begun;
            self.saving.note();
        }
        for ((table, key), value) in self.own.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // It was within the limits before.
            engine.set_owned(*table, key, Some(value.clone())).ok();
        }
    }

    fn next_engine(&self, before: &Engine, saved: &[u8]) -> Option<Engine> {
        let life = before.me().life.max(self.settings.me.life) + 1;
        let me = Peer { life, renewal: 0, ..before.me() };
        let settings = Settings { me, ..self.settings.clone() };
        Engine::new(settings, self.parts.authority.clone(), Some(saved), now()).ok()
    }
}

/// Runs the driver for ever: one that panics begins again, in a new life.
async fn supervise(shared: Arc<Shared>) {
    loop {
        let driver = Arc::clone(&shared);
        let mut driver = AbortOnDrop(tokio::spawn(async move { driver.drive().await }));
        // It has no other end than a panic.
        (&mut driver.0).await.ok();
        count(&shared.counts.restarts);
        tokio::time::sleep(RESTART_AFTER).await;
        shared.begin_again();
    }
}

/// Ends its task with whoever waits for it.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn save(shared: Arc<Shared>) {
    shared.saving.run(&shared.engine, &shared.parts.store).await;
}
