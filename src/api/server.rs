//! Serves calls.
//!
//! Bounded in every direction: connections, the head's bytes and lines, the body, and the time for each. Whoever
//! fills the bounds makes others of the same user wait, no more.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{ANSWER_MAX, BODY_MAX, Call, Code, Refusal};
use crate::namespace::peer::peer_uid;

/// Connections at a time; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 64;
/// Bytes of a request's head; hyper takes no less than 8192.
const HEAD_MAX: usize = 8192;
/// Header lines of a request.
const HEADERS_MAX: usize = 32;
/// How long a request's head may take, and again its body.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may take from first to last.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(120);
/// How long calls may still take when the daemon stops.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait if descriptors are used up: accepting would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers calls.
pub trait Answer: Send + Sync + 'static {
    /// Does what `call` says.
    fn answer(&self, call: Call) -> impl Future<Output = Result<Value, Refusal>> + Send;
}

/// Who may talk, besides whom the socket's file lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// This user and root, whatever has become of the file's mode.
    Owner(u32),
    /// Those whom the file lets in: the kernel knows a peer's groups, but tells only the first.
    File,
}

impl Admission {
    fn admits(self, uid: u32) -> bool {
        match self {
            Self::Owner(owner) => uid == owner || uid == 0,
            Self::File => true,
        }
    }
}

/// Serves until `stop` is done, and then a moment for calls that have begun.
pub async fn serve(
    listener: UnixListener,
    admission: Admission,
    answer: Arc<impl Answer>,
    stop: impl Future<Output = ()>,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = accept(&listener, &room);
        let (stream, permit) = tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = next => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!("the API can't accept: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let answer = Arc::clone(&answer);
        connections.spawn(async move {
            converse(stream, admission, answer).await;
            drop(permit);
        });
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(STOP_PATIENCE, all).await.is_err() {
        warn!("calls were cut off after {STOP_PATIENCE:?}");
    }
}

async fn accept(
    listener: &UnixListener,
    room: &Arc<Semaphore>,
) -> io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.expect("the semaphore is never closed");
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn converse(stream: UnixStream, admission: Admission, answer: Arc<impl Answer>) {
    let uid = match peer_uid(stream.as_fd()) {
        Ok(uid) => uid,
        Err(error) => return warn!("the API can't tell who its peer is: {error}"),
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = Arc::clone(&answer);
        async move { Ok::<_, Infallible>(respond(request, uid, admission, &*answer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_PATIENCE)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_MAX)
        .keep_alive(false)
        // Whoever has asked and says no more still wants the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_PATIENCE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("a connection of user {uid} to the API failed: {error}"),
        Err(_) => warn!("a connection of user {uid} to the API was cut off after {CONNECTION_PATIENCE:?}"),
    }
}

async fn respond(
    request: Request<Incoming>,
    uid: u32,
    admission: Admission,
    answer: &impl Answer,
) -> Response<Full<Bytes>> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let outcome = match call_of(request, uid, admission).await {
        Ok(call) => answer.answer(call).await,
        Err(refusal) => Err(refusal),
    };
    match &outcome {
        Ok(_) => debug!("user {uid}: {method} {path}"),
        Err(refusal) => debug!("user {uid}: {method} {path}: {refusal}"),
    }
    emit(outcome)
}

async fn call_of(request: Request<Incoming>, uid: u32, admission: Admission) -> Result<Call, Refusal> {
    if !admission.admits(uid) {
        return Err(Refusal::new(Code::Forbidden, format!("user {uid} may not talk to this daemon")));
    }
    let (head, body) = request.into_parts();
    let too_large = || Refusal::new(Code::TooLarge, format!("a request has at most {BODY_MAX} bytes"));
    if body.size_hint().lower() > BODY_MAX as u64 {
        return Err(too_large());
    }
    let body = match timeout(REQUEST_PATIENCE, Limited::new(body, BODY_MAX).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(error)) => return Err(Refusal::new(Code::BadRequest, error.to_string())),
        Err(_) => return Err(Refusal::new(Code::Timeout, "the request's body did not arrive in time")),
    };
    let target = head.uri.path_and_query().map_or_else(|| head.uri.path(), PathAndQuery::as_str);
    Call::parse(head.method.as_str(), target, &body)
}

fn emit(outcome: Result<Value, Refusal>) -> Response<Full<Bytes>> {
    let bounded = outcome.map(|value| value.to_string()).and_then(|body| {
        let fits = body.len() <= ANSWER_MAX;
        let refused =
            || Refusal::new(Code::Internal, format!("an answer of {} bytes is too long", body.len()));
        if fits { Ok(body) } else { Err(refused()) }
    });
    let (status, mut body) = match bounded {
        Ok(body) => (200, body),
        Err(refusal) => {
            let shape = serde_json::json!(refusal);
            (refusal.code.status(), shape.to_string())
        }
    };
    body.push('\n');
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).expect("every code's status is one");
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
