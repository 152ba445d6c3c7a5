//! From start to stop.

use std::env;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::process::geteuid;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::notify::{Notice, notify};
use crate::api::server::{Admission, Answer, serve};
use crate::api::{Call, Refusal, Socket, SocketError, Status};
use crate::config::Config;
use crate::node::Node;
use crate::runner;
use crate::state::{StateDir, StateError};
use crate::task::Tasks;

/// The variable by which a service manager is found (sd_notify(3)).
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Why a daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Its state.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Signals, threads or descriptors.
    #[error("can't start: {0}")]
    System(#[from] io::Error),
}

/// Runs a daemon until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting; nothing of it but the state is left then.
pub fn run(config: &Config) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve_until_signal(config))
}

async fn serve_until_signal(config: &Config) -> Result<(), DaemonError> {
    // First of all, so that a signal at any later moment takes the way out that cleans up.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let state = StateDir::open(&config.state_dir)?;
    let socket = Socket::bind(&config.socket, config.socket_group.as_ref())?;
    let listener = UnixListener::from_std(socket.listener()?)?;
    let admission = match config.socket_group {
        Some(_) => Admission::File,
        None => Admission::Owner(geteuid().as_raw()),
    };
    info!("state in {}, API at {}", state.path().display(), socket.path().display());
    let node = Node::start(state, config.dns.clone(), config.tasks.allowed).await?;
    let tasks = Tasks::open(Arc::clone(&node)).await?;
    let daemon = Arc::new(Daemon { config: config.clone(), node, tasks, started: Instant::now() });
    let manager = env::var_os(NOTIFY_SOCKET);
    tell(manager.as_ref(), Notice::Ready);
    let stop = async {
        stopped(&mut terminate, &mut interrupt).await;
        info!("stopping");
        tell(manager.as_ref(), Notice::Stopping);
    };
    let services = runner::run(Arc::clone(&daemon.node), Arc::clone(&daemon.tasks), config.tasks.clone());
    // What runs goes on without the daemon, so the runner may end anywhere.
    tokio::select! {
        () = serve(listener, admission, Arc::clone(&daemon), stop) => {}
        () = services => {}
    }
    daemon.node.stop().await;
    Ok(())
}

async fn stopped(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// A manager that can't be told is no reason not to run; it will say itself that it has heard nothing.
fn tell(manager: Option<&OsString>, notice: Notice) {
    if let Some(manager) = manager
        && let Err(error) = notify(manager, notice)
    {
        warn!("can't tell the service manager {notice:?}: {error}");
    }
}

struct Daemon {
    config: Config,
    node: Arc<Node>,
    tasks: Arc<Tasks>,
    started: Instant,
}

impl Answer for Daemon {
    async fn answer(&self, call: Call) -> Result<Value, Refusal> {
        match call {
            Call::Status => Ok(json!(self.status())),
            Call::Init(request) => self.node.init(request).await.map(|made| json!(made)),
            Call::Join(request) => self.node.join(request).await.map(|joined| json!(joined)),
            Call::Leave(request) => self.node.leave(request.force).await.map(|()| Value::Null),
            Call::Token(role) => self.node.token(role, false).await.map(|token| json!(token)),
            Call::RotateToken(role) => self.node.token(role, true).await.map(|token| json!(token)),
            task @ (Call::Tasks
            | Call::CreateTask(_)
            | Call::Task(_)
            | Call::StartTask(_)
            | Call::StopTask(..)
            | Call::KillTask(..)
            | Call::RemoveTask { .. }
            | Call::Connect(..)
            | Call::Disconnect(..)) => self.tasks.answer(task).await,
            other => self.node.answer(other).await,
        }
    }
}

impl Daemon {
    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            up_s: self.started.elapsed().as_secs(),
            state_dir: self.config.state_dir.clone(),
            socket: self.config.socket.clone(),
            cluster: self.node.cluster(),
        }
    }
}
