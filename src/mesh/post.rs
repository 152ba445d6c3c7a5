//! Links for datagrams: one to each node that has tasks of this node's clients, and one from each that has clients of this
//! node's tasks. Nothing is sent again: what has no room is lost, as with any datagram.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::frame::{Kind, Nonsense, answer, parse_answer, parse_parcel};
use super::links::{ATTEMPT, IDLE, Peer};
use super::party::Link;
use super::run::Shared;
use super::words::{invalid, receive};
use crate::crypto::identity::NodeId;
use crate::gateway::nat::{Reply, Tag};
use crate::service::Protocol;

/// Answers that wait for the link to another node, of at most 64 KiB: 16 MiB. One more is lost.
const ANSWERS: usize = 256;
/// How long what is sent to a node is thrown away after it could not be reached.
const PAUSE: Duration = Duration::from_secs(1);

/// Sends what is in the queue to a node, and what its tasks answer to the clients, as long as there is something of either.
pub(super) async fn carry(shared: Arc<Shared>, node: NodeId, mut queue: mpsc::Receiver<Vec<u8>>) {
    let peer = shared.peers.get(node);
    let carried = tokio::select! {
        carried = exchange(&shared, &peer, node, &mut queue) => carried,
        () = peer.gone() => return,
    };
    if let Err(error) = carried {
        debug!("datagrams to {node}: {error}");
        sleep(PAUSE).await;
    }
}

async fn exchange(
    shared: &Shared,
    peer: &Peer,
    node: NodeId,
    queue: &mut mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let to = shared.plan.load().peers.get(&node).copied();
    let to = to.ok_or_else(|| io::Error::other("nobody knows where it is"))?;
    let dialed = timeout(ATTEMPT, shared.peers.dial(peer, to)).await?;
    let (link, _permit) = dialed.map_err(io::Error::other)?;
    let (mut read, mut write) = tokio::io::split(link);
    let heard = AtomicBool::new(false);
    let answers = async {
        loop {
            let (kind, bytes) = receive(&mut read).await?;
            if kind != Kind::Answer {
                return Err(invalid(Nonsense::Turn));
            }
            let (flow, payload) = parse_answer(&bytes).map_err(invalid)?;
            shared.returns.reply(node, flow, payload);
            heard.store(true, Ordering::Relaxed);
        }
    };
    let questions = async {
        loop {
            match timeout(IDLE, queue.recv()).await {
                Ok(Some(frame)) => timeout(ATTEMPT, send(&mut write, frame, queue)).await??,
                Err(_) if heard.swap(false, Ordering::Relaxed) => {}
                Ok(None) | Err(_) => return Ok(()),
            }
        }
    };
    tokio::select! {
        ended = answers => ended,
        ended = questions => ended,
    }
}

/// Sends a frame, and those that wait behind it.
async fn send(
    link: &mut (impl AsyncWrite + Unpin),
    first: Vec<u8>,
    queue: &mut mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    link.write_all(&first).await?;
    while let Ok(frame) = queue.try_recv() {
        link.write_all(&frame).await?;
    }
    link.flush().await
}

/// The way back to another node's clients.
#[derive(Debug)]
struct Answers(mpsc::Sender<Vec<u8>>);

impl Reply for Answers {
    fn reply(&self, flow: u64, payload: &[u8]) -> bool {
        answer(flow, payload).is_some_and(|frame| self.0.try_send(frame).is_ok())
    }
}

/// Takes datagrams from a link of another node, of which one has come, and sends it its tasks' answers, until it ends.
pub(super) async fn serve(shared: &Shared, node: NodeId, link: &mut Link, first: &[u8]) -> io::Result<()> {
    let (sender, mut queue) = mpsc::channel(ANSWERS);
    let reply: Arc<dyn Reply> = Arc::new(Answers(sender));
    let (mut read, mut write) = tokio::io::split(link);
    enter(shared, node, first, &reply)?;
    let questions = async {
        loop {
            let (kind, bytes) = receive(&mut read).await?;
            if kind != Kind::Datagram {
                return Err(invalid(Nonsense::Turn));
            }
            enter(shared, node, &bytes, &reply)?;
        }
    };
    let answers = async {
        while let Some(frame) = queue.recv().await {
            // Who reads none of it has no claim to the link.
            timeout(ATTEMPT, send(&mut write, frame, &mut queue)).await??;
        }
        Ok(())
    };
    tokio::select! {
        ended = questions => ended,
        ended = answers => ended,
    }
}

/// Hands a datagram to its task, if that may be reached so.
fn enter(shared: &Shared, node: NodeId, bytes: &[u8], reply: &Arc<dyn Reply>) -> io::Result<()> {
    let (flow, head, payload) = parse_parcel(bytes).map_err(invalid)?;
    let entrances = shared.entrances.load();
    let Some(reached) = entrances.get(head.endpoint.as_str()) else { return Ok(()) };
    if shared.plan.load().leads_to(&reached.backend.service, head.target, Protocol::Udp) {
        let tag = Tag { from: *node.as_bytes(), flow };
        // No room is a full queue, of which nobody is told.
        let _posted =
            reached.entrance.post(payload.to_vec(), head.client, head.target, tag, Arc::clone(reply));
    }
    Ok(())
}
