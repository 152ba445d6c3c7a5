//! A client's time with a task's program: what it writes is shown, what is typed goes to it, until one of the two ends.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::keys::{Keys, Watcher};
use super::signal as names;
use super::terminal::{self, Raw};
use crate::task::connection::{self, ConnectionError, Receiver, Sender, connect};
use crate::task::frame::{CHUNK_MAX, Frame, Request, Stream};

/// Chunks of input that wait to be sent.
const INPUT_QUEUE: usize = 4;

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

    pub(super) async fn run(mut self) -> Result<Outcome, SessionError> {
        let mut signals = Signals::new()?;
        let raw = self.wishes.tty && self.wishes.input && terminal::has_input();
        let _raw = raw.then(Raw::begin).transpose()?;
        let mut watcher = Watcher::new(self.wishes.keys.clone());
        let mut typed = self.wishes.input.then(read_input).transpose()?;
        loop {
            let event = tokio::select! {
                biased;
                frame = self.receiver.next() => Event::Frame(frame?),
                number = signals.next() => number,
                chunk = next(&mut typed) => Event::Typed(chunk),
            };
            match event {
                Event::Frame(None) => return Err(SessionError::Lost),
                Event::Frame(Some(Frame::Ended(code))) => return Ok(Outcome::Ended(code)),
                Event::Frame(Some(Frame::Output(stream, bytes))) => show(stream, &bytes)?,
                Event::Frame(Some(_)) => return Err(ConnectionError::Unexpected.into()),
                Event::Resized => self.resize().await?,
                Event::Signal(number) if self.wishes.signals => self.pass_on(number).await?,
                Event::Signal(number) => return Ok(Outcome::Interrupted(number)),
                Event::Typed(None) => {
                    typed = None;
                    self.send(Frame::InputEnd).await?;
                }
                Event::Typed(Some(bytes)) if raw => {
                    let (passed, left) = watcher.filter(&bytes);
                    self.send(Frame::Input(passed)).await?;
                    if left {
                        return Ok(Outcome::Detached);
                    }
                }
                Event::Typed(Some(bytes)) => self.send(Frame::Input(bytes)).await?,
            }
        }
    }

    /// Sends a frame; if the program does not take it, what it writes is shown meanwhile.
    async fn send(&mut self, frame: Frame) -> Result<(), SessionError> {
        // One that has ended says so next.
        match self.sender.send(&frame).await {
            Ok(()) | Err(ConnectionError::Ended) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn resize(&mut self) -> Result<(), SessionError> {
        match terminal::size().filter(|_| self.wishes.tty) {
            Some(size) => self.send(Frame::Resize(size)).await,
            None => Ok(()),
        }
    }

    /// Over a connection of its own, so that it arrives while the program reads none of its input.
    async fn pass_on(&self, number: u8) -> Result<(), SessionError> {
        match connection::ask(&self.directory, Request::Signal { number }).await {
            Ok(_) | Err(ConnectionError::Ended | ConnectionError::Refused(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

async fn next(typed: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match typed {
        Some(typed) => typed.recv().await,
        None => std::future::pending().await,
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
