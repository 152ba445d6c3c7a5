//! The process that looks after one task: makes its room, starts its program, passes on and keeps what that writes, and
//! answers at its control socket, until the program has ended.
//!
//! It has one thread, since a process with a PID namespace for its children can start no other.

mod converse;
mod program;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io::{self, Write};
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, setsid};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Semaphore, mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use self::program::Console;
use super::connection::{CONTROL, short_path, split};
use super::frame::{Frame, Status};
use super::kept::{COVERS, KILLED, Kept, STATE, TASK};
use super::log::Log;
use super::now_ms;
use super::stream::Waited;
use crate::api::TaskState;
use crate::api::listen_at;
use crate::namespace::init::InitError;
use crate::namespace::room::{Cover, Room};
use crate::state::{StateDir, StateError};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long to wait if descriptors are used up: accepting would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long those who wait for the end may take to hear of it.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(5);
/// How long a program may take to end when its keeper is told to.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no task.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// Its directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its namespaces.
    #[error(transparent)]
    Room(#[from] InitError),
    /// Nothing says what it is to be.
    #[error("{TASK} is missing")]
    NoTask,
    /// A system call that nothing should forbid.
    #[error("can't {what}: {source}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> KeepError {
    move |source| KeepError::System { what, source: source.into() }
}

/// What a keeper says on its standard output, in one line, before anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Announcement {
    /// The task is there, with this process holding its namespaces.
    Ready(u32),
    /// It is not.
    Failed(String),
}

/// Keeps the task of a directory until its program has ended.
///
/// # Errors
/// What keeps it from being made; that has been said on standard output.
pub fn keep(directory: &Path) -> Result<(), KeepError> {
    // It has no thread of its own, so it may be there before the namespaces.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(system("wait"))?;
    let outcome = {
        let _entered = runtime.enter();
        prepare(directory)
    };
    let announcement = match &outcome {
        Ok((keeper, _)) => Announcement::Ready(keeper.status.borrow().pid),
        Err(error) => Announcement::Failed(error.to_string()),
    };
    let line = serde_json::to_string(&announcement).expect("a plain enum");
    writeln!(io::stdout(), "{line}").map_err(system("say that the task is there"))?;
    let (keeper, listener) = outcome?;
    LocalSet::new().block_on(&runtime, keeper.serve(listener))
}

fn prepare(directory: &Path) -> Result<(Keeper, StdListener), KeepError> {
    // A leader of a process group can't, and is one only if somebody started this by hand.
    let _leader = setsid();
    let files = Rc::new(StateDir::part(directory)?);
    let kept: Kept = files.load(TASK)?.ok_or(KeepError::NoTask)?;
    let listener = {
        let (_open, path) = short_path(directory, CONTROL).map_err(system("open the directory"))?;
        listen_at(&path).map_err(system("listen at the control socket"))?
    };
    let log = Log::open(Rc::clone(&files))?;
    let covers = COVERS.map(|(name, over)| Cover { file: directory.join(name), over });
    let (room, uncovered) = Room::make(kept.hostname.as_str(), &covers)?;
    for (cover, error) in uncovered {
        eprintln!("{} stays the host's: {error}", cover.over);
    }
    let console = Console::new(kept.program.tty).map_err(system("open a terminal"))?;
    let pid = u32::try_from(room.host().as_raw_nonzero().get()).expect("process ids are positive");
    let status = Status {
        state: TaskState::Created,
        pid,
        started_ms: None,
        ended_ms: None,
        exit_code: None,
        error: None,
    };
    let keeper = Keeper {
        files,
        kept,
        room: RefCell::new(Some(room)),
        status: watch::Sender::new(status),
        log: RefCell::new(log),
        written: watch::Sender::new(()),
        console: RefCell::new(console),
        input: Mutex::default(),
        program: Cell::new(None),
        viewers: RefCell::default(),
        cut: watch::Sender::new(false),
        log_fails: Cell::new(false),
        farewells: RefCell::default(),
    };
    Ok((keeper, listener))
}

/// A task's keeper.
#[derive(Debug)]
struct Keeper {
    files: Rc<StateDir>,
    kept: Kept,
    /// Until it has ended.
    room: RefCell<Option<Room>>,
    status: watch::Sender<Status>,
    log: RefCell<Log>,
    /// Tells that the log has more lines.
    written: watch::Sender<()>,
    console: RefCell<Console>,
    /// The program's input, while it has one that can be written to.
    input: Mutex<Option<Rc<Waited>>>,
    program: Cell<Option<Pid>>,
    /// Who sees what the program writes, at once; it waits for them.
    viewers: RefCell<Vec<mpsc::Sender<Frame>>>,
    /// Whether viewers are not waited for any more.
    cut: watch::Sender<bool>,
    /// Whether the last line could not be kept: that is said once.
    log_fails: Cell<bool>,
    /// Held by all who want to hear of the end.
    farewells: RefCell<Option<mpsc::Sender<Infallible>>>,
}

impl Keeper {
    async fn serve(self, listener: StdListener) -> Result<(), KeepError> {
        let listener = UnixListener::from_std(listener).map_err(system("listen"))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(system("wait for signals"))?;
        let (farewell, mut all_heard) = mpsc::channel(1);
        *self.farewells.borrow_mut() = Some(farewell);
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let keeper = Rc::new(self);
        let mut status = keeper.status.subscribe();
        loop {
            let accepted = async {
                let place = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
                (listener.accept().await, place)
            };
            tokio::select! {
                biased;
                _ = status.wait_for(|status| !status.state.is_kept()) => break,
                _ = terminate.recv() => keeper.stop(Signal::TERM, STOP_PATIENCE),
                (accepted, place) = accepted => match accepted {
                    Ok((stream, _)) => {
                        let keeper = Rc::clone(&keeper);
                        spawn_local(async move {
                            let (receiver, sender) = split(stream);
                            // A peer that hangs up or talks nonsense gets no answer.
                            let _over = keeper.converse(receiver, sender).await;
                            drop(place);
                        });
                    }
                    // Descriptors are used up, perhaps; the program is not to end for that.
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        }
        drop(keeper.farewells.borrow_mut().take());
        // Whoever has not heard it by then learns it from the end of the connection.
        let _late = timeout(FAREWELL_PATIENCE, all_heard.recv()).await;
        Ok(())
    }

    /// Notes how the task is, on disk first.
    fn note(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.status.borrow().clone();
        change(&mut status);
        if let Err(error) = self.files.store(STATE, &status) {
            eprintln!("{error}");
        }
        self.status.send_replace(status);
    }

    /// Sends a signal to the program, if it runs.
    fn signal(&self, signal: Signal) -> Result<(), String> {
        let program = self.program.get().ok_or("it does not run")?;
        kill_process(program, signal).map_err(|errno| errno.to_string())
    }

    /// Has the program end, by force after a while.
    fn stop(self: &Rc<Self>, signal: Signal, patience: Duration) {
        let Some(program) = self.program.get() else {
            return self.end(KILLED, "it was never started".into());
        };
        // It may end just now.
        let _gone = kill_process(program, signal);
        let (keeper, mut status) = (Rc::clone(self), self.status.subscribe());
        spawn_local(async move {
            let ended = status.wait_for(|status| !status.state.is_kept());
            if timeout(patience, ended).await.is_err() {
                let _gone = keeper.signal(Signal::KILL);
            }
        });
    }

    /// It ends without having run.
    fn end(&self, code: u8, reason: String) {
        drop(self.room.borrow_mut().take());
        self.note(|status| {
            status.state = TaskState::Exited;
            status.ended_ms = Some(now_ms());
            status.exit_code = Some(code);
            status.error = Some(reason);
        });
    }
}
