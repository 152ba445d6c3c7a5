//! A client's time with a task's program: what it writes is shown, what is typed goes to it, until one of the two ends.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::keys::{Keys, Watcher};
use super::signal as names;
use super::terminal::{self, Raw};
use crate::task::connection::{self, ConnectionError, Receiver, Sender, connect};
use crate::task::frame::{CHUNK_MAX, Frame, Request, Stream};

/// Chunks of input that wait to be sent.
const INPUT_QUEUE: usize = 4;

/// How long what was typed last may take to be taken when the task is left.
const FAREWELL_PATIENCE: Duration = Duration::from_millis(500);

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The program has ended with this code.
    Ended(u8),
    /// The keys to leave it were typed.
    Detached,
    /// This signal came, and was not for the program.
    Interrupted(u8),
}

/// What goes to the program besides being shown what it writes.
#[derive(Clone, Debug)]
pub(super) struct Wishes {
    /// Whether input goes to it.
    pub(super) input: bool,
    /// Whether what it writes is shown.
    pub(super) output: bool,
    /// Whether it has a terminal.
    pub(super) tty: bool,
    /// Whether signals go to it.
    pub(super) signals: bool,
    /// What leaves a terminal.
    pub(super) keys: Keys,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// Ctrl-C and the like can't be heard, standard output is closed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It was killed.
    #[error("the task's keeper has ended without a word: `vswitchd ps -a` shows what became of it")]
    Lost,
}

/// A session that has begun: nothing that is written from now on is lost.
#[derive(Debug)]
pub(super) struct Session {
    directory: PathBuf,
    wishes: Wishes,
    receiver: Receiver,
    sender: Sender,
}

/// Whatever happens.
enum Event {
    Frame(Option<Frame>),
    Typed(Option<Vec<u8>>),
    Resized,
    Signal(u8),
}

impl Session {
    pub(super) async fn begin(directory: &Path, wishes: Wishes) -> Result<Self, ConnectionError> {
        let (mut receiver, mut sender) = connect(directory).await?;
        let (input, output) = (wishes.input, wishes.output);
        sender.send(&Frame::Request(Request::Attach { input, output })).await?;
        receiver.reply().await?;
        if let Some(size) = terminal::size().filter(|_| wishes.tty) {
            sender.send(&Frame::Resize(size)).await?;
        }
        Ok(Self { directory: directory.into(), wishes, receiver, sender })
    }

    pub(super) async fn run(self) -> Result<Outcome, SessionError> {
        let Self { directory, wishes, mut receiver, sender } = self;
        let mut signals = Signals::new()?;
        let raw = wishes.tty && wishes.input && terminal::has_input();
        let _raw = raw.then(Raw::begin).transpose()?;
        let mut watcher = raw.then(|| Watcher::new(wishes.keys.clone()));
        let mut typed = wishes.input.then(read_input).transpose()?;
        let (out, queue) = mpsc::channel(INPUT_QUEUE);
        // While the program does not read, what it writes is still shown: it may wait for that.
        let mut sending = std::pin::pin!(send_all(sender, queue));
        let mut resized = false;
        loop {
            let event = tokio::select! {
                biased;
                frame = receiver.next() => Event::Frame(frame?),
                number = signals.next() => number,
                sent = &mut sending => return Err(sent.err().unwrap_or(SessionError::Lost)),
                Ok(place) = out.reserve(), if resized => {
                    resized = false;
                    if let Some(size) = terminal::size().filter(|_| wishes.tty) {
                        place.send(Frame::Resize(size));
                    }
                    continue;
                }
                chunk = next(&mut typed, &out) => Event::Typed(chunk),
            };
            match event {
                Event::Frame(None) => return Err(SessionError::Lost),
                Event::Frame(Some(Frame::Ended(code))) => return Ok(Outcome::Ended(code)),
                Event::Frame(Some(Frame::Output(stream, bytes))) => show(stream, &bytes)?,
                Event::Frame(Some(_)) => return Err(ConnectionError::Unexpected.into()),
                Event::Resized => resized = true,
                Event::Signal(number) if wishes.signals => pass_on(&directory, number).await?,
                Event::Signal(number) => return Ok(Outcome::Interrupted(number)),
                Event::Typed(chunk) => {
                    let (frame, left) = input(chunk, &mut typed, watcher.as_mut());
                    // There was a place for it, and nobody else takes any.
                    let _ended = out.try_send(frame);
                    if left {
                        drop(out);
                        // What was typed before belongs to the program, if it wants it.
                        let _unread = timeout(FAREWELL_PATIENCE, sending).await;
                        return Ok(Outcome::Detached);
                    }
                }
            }
        }
    }
}

/// What is to be sent for a chunk of what is typed, and whether it ends with the keys that leave the task.
fn input(
    chunk: Option<Vec<u8>>,
    typed: &mut Option<mpsc::Receiver<Vec<u8>>>,
    watcher: Option<&mut Watcher>,
) -> (Frame, bool) {
    match (chunk, watcher) {
        (None, _) => {
            *typed = None;
            (Frame::InputEnd, false)
        }
        (Some(bytes), None) => (Frame::Input(bytes), false),
        (Some(bytes), Some(watcher)) => {
            let (passed, left) = watcher.filter(&bytes);
            (Frame::Input(passed), left)
        }
    }
}

/// Sends frames until there are no more; a program that has ended is none's fault, and says so itself.
async fn send_all(mut sender: Sender, mut queue: mpsc::Receiver<Frame>) -> Result<(), SessionError> {
    while let Some(frame) = queue.recv().await {
        match sender.send(&frame).await {
            Ok(()) => {}
            Err(ConnectionError::Ended) => return std::future::pending().await,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Over a connection of its own, so that it arrives while the program reads none of its input.
async fn pass_on(directory: &Path, number: u8) -> Result<(), SessionError> {
    match connection::ask(directory, Request::Signal { number }).await {
        Ok(_) | Err(ConnectionError::Ended | ConnectionError::Refused(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The next chunk that is typed, once there is a place for it.
async fn next(typed: &mut Option<mpsc::Receiver<Vec<u8>>>, out: &mpsc::Sender<Frame>) -> Option<Vec<u8>> {
    match (typed, out.reserve().await) {
        (Some(typed), Ok(_place)) => typed.recv().await,
        _ => std::future::pending().await,
    }
}

/// Reads standard input on a thread of its own, which ends with this process: it may be a file, which can't be waited for.
fn read_input() -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
    thread::Builder::new().name("input".into()).spawn(move || {
        let mut buffer = vec![0; CHUNK_MAX];
        loop {
            match io::stdin().lock().read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // One that can't be read has ended.
                Ok(0) | Err(_) => return,
                Ok(len) => {
                    if sender.blocking_send(buffer[..len].into()).is_err() {
                        return;
                    }
                }
            }
        }
    })?;
    Ok(receiver)
}

fn show(stream: Stream, bytes: &[u8]) -> io::Result<()> {
    match stream {
        Stream::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        }
        Stream::Stderr => io::stderr().lock().write_all(bytes),
    }
}

/// Those that a terminal or a script sends.
struct Signals {
    resized: tokio::signal::unix::Signal,
    passed_on: [(u8, tokio::signal::unix::Signal); 6],
}

impl Signals {
    fn new() -> io::Result<Self> {
        let listener = |name| -> io::Result<_> {
            let number = names::number(name).map_err(io::Error::other)?;
            Ok((number, signal(SignalKind::from_raw(number.into()))?))
        };
        Ok(Self {
            resized: signal(SignalKind::window_change())?,
            passed_on: [
                listener("INT")?,
                listener("TERM")?,
                listener("HUP")?,
                listener("QUIT")?,
                listener("USR1")?,
                listener("USR2")?,
            ],
        })
    }

    async fn next(&mut self) -> Event {
        std::future::poll_fn(|context| {
            if self.resized.poll_recv(context).is_ready() {
                return std::task::Poll::Ready(Event::Resized);
            }
            let came = self
                .passed_on
                .iter_mut()
                .find_map(|(number, signal)| signal.poll_recv(context).is_ready().then_some(*number));
            came.map_or(std::task::Poll::Pending, |number| std::task::Poll::Ready(Event::Signal(number)))
        })
        .await
    }
}
