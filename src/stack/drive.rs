//! The thread between an engine and its channel, and the stack as programs hold it.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use smoltcp::socket::dns::{GetQueryResultError, QueryHandle};

use super::engine::Engine;
use super::tcp::{TcpListener, TcpStream};
use super::udp::UdpSocket;
use super::{StackConfig, StackError};
use crate::switch::io::channel::{ChannelEnd, ChannelReceiveError, ChannelSendError};

/// Frames that are taken in before what they come to is sent.
const BATCH: usize = 64;
/// With nothing due, the thread looks so often whether there is.
const LONG: Duration = Duration::from_secs(3600);
/// How long connections that are being closed may keep the thread, once nobody holds the stack any more.
const FAREWELL: Duration = Duration::from_secs(5);

/// A TCP/IP stack at a channel's end. Clones are the same stack; it goes with the last of them and of its sockets,
/// once what was written has been sent.
#[derive(Clone, Debug)]
pub struct Stack {
    pub(super) held: Arc<Held>,
}

/// Held by the stack and its sockets; with the last of them the thread ends.
#[derive(Debug)]
pub(super) struct Held(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    end: ChannelEnd,
    engine: Mutex<Engine>,
    over: AtomicBool,
}

impl Held {
    /// The engine, to do something at a socket: the thread then does what follows from it.
    pub(super) fn engine(&self) -> MutexGuard<'_, Engine> {
        self.0.engine()
    }

    /// Has the thread do what sockets were asked for.
    pub(super) fn nudge(&self) {
        self.0.end.interrupt();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
        self.0.end.interrupt();
    }
}

impl Shared {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        // Every call leaves it as it can go on.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut deadline = None;
        loop {
            let now = Instant::now();
            let mut engine = self.engine();
            self.send(engine.poll(now));
            if self.over.load(Ordering::Relaxed) {
                let last = *deadline.get_or_insert(now + FAREWELL);
                if !engine.lingers() || now >= last {
                    return;
                }
            }
            let farewell = deadline.map(|last| last.saturating_duration_since(now));
            let patience = engine.patience(now).into_iter().chain(farewell).min().unwrap_or(LONG);
            drop(engine);
            let first = self.end.receive_timeout(patience);
            let mut engine = self.engine();
            match first {
                Ok(frame) => engine.handle(frame),
                Err(ChannelReceiveError::Empty) => continue,
                Err(ChannelReceiveError::Closed) => {
                    engine.close();
                    // Those who wait at its sockets are told.
                    engine.poll(Instant::now());
                    return;
                }
            }
            let more = std::iter::from_fn(|| self.end.try_receive().ok());
            more.take(BATCH).for_each(|frame| engine.handle(frame));
        }
    }

    fn send(&self, frames: Vec<Vec<u8>>) {
        for frame in frames {
            match self.end.send(&frame) {
                // What does not get through is sent again, or was a datagram; that the port is closed is found by
                // reading.
                Ok(())
                | Err(ChannelSendError::Full | ChannelSendError::Closed | ChannelSendError::TooLong) => {}
            }
        }
    }
}

impl Stack {
    /// Starts a stack. `seed` should be random: TCP's first sequence numbers and ports follow from it.
    ///
    /// # Errors
    /// See [`StackError`].
    pub fn start(end: ChannelEnd, config: &StackConfig, seed: u64) -> Result<Self, StackError> {
        let engine = Mutex::new(Engine::new(config, seed, Instant::now())?);
        let shared = Arc::new(Shared { end, engine, over: AtomicBool::new(false) });
        let driven = Arc::clone(&shared);
        let started = thread::Builder::new().name("stack".into()).spawn(move || driven.run());
        started.map_err(StackError::Thread)?;
        Ok(Self { held: Arc::new(Held(shared)) })
    }

    /// Connects to `ADDRESS:PORT` or `NAME:PORT`; a name's addresses are tried one after the other.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for something else, [`io::ErrorKind::NotFound`] for a name without an
    /// address; or as the last address fails.
    pub async fn connect(&self, to: &str) -> io::Result<TcpStream> {
        if let Ok(address) = to.parse() {
            return self.connect_to(address).await;
        }
        let target = to.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?)));
        let no_target = || io::Error::new(io::ErrorKind::InvalidInput, format!("{to:?}: want NAME:PORT"));
        let (name, port) = target.ok_or_else(no_target)?;
        let mut failed = StackError::Name(name.into()).into();
        for address in self.resolve(name).await? {
            match self.connect_to(SocketAddr::new(address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Connects to an address.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionRefused`] where nobody listens or answers, or as in [`StackError`].
    pub async fn connect_to(&self, to: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(Arc::clone(&self.held), to).await
    }

    /// Listens at a port, on all addresses.
    ///
    /// # Errors
    /// See [`StackError`].
    pub fn listen(&self, port: u16) -> Result<TcpListener, StackError> {
        TcpListener::new(Arc::clone(&self.held), port)
    }

    /// A UDP socket at a port, on all addresses; 0 for any.
    ///
    /// # Errors
    /// See [`StackError`].
    pub fn bind(&self, port: u16) -> Result<UdpSocket, StackError> {
        UdpSocket::new(Arc::clone(&self.held), port)
    }

    /// Asks the resolver for a name's addresses, of the IP versions that the stack has itself; at least one.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none, or nobody answers within ten seconds; or as in
    /// [`StackError`].
    pub async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        for v4 in [true, false] {
            if self.held.engine().has(v4) {
                found.extend(Question::ask(&self.held, name, v4)?.answer().await);
            }
        }
        if found.is_empty() { Err(StackError::Name(name.into()).into()) } else { Ok(found) }
    }
}

/// A question for a name; dropped, it is not asked any more.
struct Question<'a> {
    held: &'a Held,
    query: Option<QueryHandle>,
}

impl<'a> Question<'a> {
    fn ask(held: &'a Held, name: &str, v4: bool) -> Result<Self, StackError> {
        let query = Some(held.engine().ask(name, v4)?);
        held.nudge();
        Ok(Self { held, query })
    }

    /// None if there is no such name, and if nobody answers.
    async fn answer(mut self) -> Vec<IpAddr> {
        poll_fn(|cx| {
            let mut engine = self.held.engine();
            let Some(query) = self.query.filter(|_| !engine.is_closed()) else {
                return Poll::Ready(Vec::new());
            };
            let addresses = match engine.questions().get_query_result(query) {
                Err(GetQueryResultError::Pending) => {
                    engine.questions().register_query_waker(query, cx.waker());
                    return Poll::Pending;
                }
                Err(GetQueryResultError::Failed) => Vec::new(),
                Ok(addresses) => addresses.iter().map(|&address| address.into()).collect(),
            };
            self.query = None;
            engine.asking -= 1;
            Poll::Ready(addresses)
        })
        .await
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        if let Some(query) = self.query.take() {
            let mut engine = self.held.engine();
            engine.questions().cancel_query(query);
            engine.asking -= 1;
        }
    }
}
