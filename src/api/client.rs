//! Asks a daemon.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{ANSWER_MAX, Call, Refusal};

/// How long a daemon may take: longer than it takes to give up on anything by itself.
const PATIENCE: Duration = Duration::from_secs(130);
/// How long to wait for a place among a daemon's connections.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no daemon answers at {}: start one with `vswitchd daemon`, or name its socket with -H", .0.display())]
    NoDaemon(PathBuf),
    /// The socket is another user's.
    #[error("this user may not talk to the daemon at {}: run as its user or root, or let a group in with its --socket-group", .0.display())]
    Denied(PathBuf),
    /// The daemon did not do it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What answers is no daemon of ours.
    #[error("what listens at {} is no vswitchd daemon that this client understands: {reason}", .path.display())]
    Nonsense {
        /// The socket.
        path: PathBuf,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The connection failed.
    #[error("talking to the daemon at {} failed: {reason}", .path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It takes too long.
    #[error("the daemon at {} does not answer", .0.display())]
    Silent(PathBuf),
    /// No runtime.
    #[error("can't start: {0}")]
    System(#[from] io::Error),
}

/// Asks the daemon that listens at `socket`, and waits for its answer. Not to be called in a runtime.
///
/// # Errors
/// See [`AskError`].
pub fn ask<T: DeserializeOwned>(socket: &Path, call: &Call) -> Result<T, AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async { timeout(PATIENCE, exchange(socket, call)).await });
    let answer = outcome.map_err(|_| AskError::Silent(socket.into()))??;
    let nonsense =
        |error: serde_json::Error| AskError::Nonsense { path: socket.into(), reason: error.to_string() };
    serde_json::from_slice(&answer).map_err(nonsense)
}

/// Connects, and waits its turn for as long as [`CONNECT_PATIENCE`] if others are before: a socket that doesn't block
/// would be refused then (unix(7), EAGAIN).
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&stream, Timeout::Send, Some(CONNECT_PATIENCE))?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(socket)?)?;
    let stream = std::os::unix::net::UnixStream::from(stream);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

async fn exchange(socket: &Path, call: &Call) -> Result<Bytes, AskError> {
    let broken = |error: hyper::Error| AskError::Broken { path: socket.into(), reason: error.to_string() };
    let stream = connect(socket).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NoDaemon(socket.into()),
        io::ErrorKind::PermissionDenied => AskError::Denied(socket.into()),
        io::ErrorKind::WouldBlock => AskError::Silent(socket.into()),
        _ => AskError::Broken { path: socket.into(), reason: error.to_string() },
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::builder()
        .method(call.method())
        .uri(call.path())
        .header(HOST, "vswitchd")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from_owner(call.body())))
        .expect("methods and paths of calls are valid");
    // The connection moves while the answer is waited for, and goes with this function.
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        receive(socket, response).await
    };
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // It ends when the daemon has closed it; what came before that is still to be read.
        _ended = &mut connection => answer.await,
    }
}

async fn receive(socket: &Path, response: Response<hyper::body::Incoming>) -> Result<Bytes, AskError> {
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX + 1).collect().await;
    let body = body.map_err(|error| AskError::Broken { path: socket.into(), reason: error.to_string() })?;
    let body = body.to_bytes();
    if status.is_success() {
        return Ok(body);
    }
    match serde_json::from_slice::<Refusal>(&body) {
        Ok(refusal) => Err(refusal.into()),
        Err(_) => Err(AskError::Nonsense { path: socket.into(), reason: format!("status {status}") }),
    }
}
