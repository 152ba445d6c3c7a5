//! The other end of a link: connections of other nodes' clients, for this node's tasks.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;
use tracing::debug;

use super::frame::{Head, Kind, Nonsense};
use super::links::{ATTEMPT, IDLE, Peer};
use super::party::{Inside, Link, move_here};
use super::post;
use super::pump::{Left, pump};
use super::run::Shared;
use super::shares::Share;
use super::words::{invalid, receive, send};
use crate::crypto::identity::NodeId;
use crate::gateway::nat::{Answered, Outer};
use crate::gateway::pipe::Pipe;
use crate::overlay::BackendState;
use crate::service::Protocol;

/// How long a link may be without a connection: longer than the other end keeps it.
const UNUSED: Duration = Duration::from_secs(IDLE.as_secs() + 30);
/// How long a task may take to answer: the other end has to hear of it in its own time.
const ANSWER: Duration = Duration::from_millis(2_500);
const _: () = assert!(ANSWER.as_millis() < ATTEMPT.as_millis());
/// How long what comes of it is waited for: some time longer than a gateway needs that keeps to [`ANSWER`]. A task that acknowledges
/// nothing and says other things on and on has its gateway wait as long as it likes; the other end has given up by then.
const OUTCOME: Duration = Duration::from_secs(ATTEMPT.as_secs() + 2);

/// A link that another node has made.
pub(super) struct Incoming {
    pub(super) link: Link,
    pub(super) peer: Arc<Peer>,
    /// Allows its socket.
    pub(super) permit: OwnedSemaphorePermit,
    /// Of the links that its node may have here.
    pub(super) share: Share<NodeId>,
}

/// Takes connections from a link, one after the other, until it ends or its node is gone.
pub(super) async fn serve(shared: Arc<Shared>, incoming: Incoming) {
    let Incoming { mut link, peer, permit: _permit, share: _share } = incoming;
    tokio::select! {
        served = connections(&shared, &peer, &mut link) => if let Err(error) = served {
            debug!("a link of another node: {error}");
        },
        () = peer.gone() => {}
    }
}

async fn connections(shared: &Shared, peer: &Peer, link: &mut Link) -> io::Result<()> {
    move_here(link)?;
    // It is closed when it is not needed.
    while let Ok(word) = timeout(UNUSED, receive(link)).await {
        let (kind, bytes) = word?;
        match kind {
            Kind::Open => {}
            Kind::Datagram => return post::serve(shared, peer.node, link, &bytes).await,
            _ => return Err(invalid(Nonsense::Turn)),
        }
        let head = Head::parse(&bytes).map_err(invalid)?;
        let Some((mut inside, _permit)) = enter(shared, &head, link).await? else {
            say(link, Kind::Refused).await?;
            continue;
        };
        say(link, Kind::Opened).await?;
        if pump(link, &mut inside, &[]).await == Left::Nothing {
            return Ok(());
        }
    }
    Ok(())
}

/// Says whether a connection is taken, to a node that listens: one that reads nothing does not keep its link.
async fn say(link: &mut (impl AsyncWrite + Unpin), kind: Kind) -> io::Result<()> {
    timeout(ATTEMPT, send(link, kind, &[])).await?
}

/// A way to a task, if it may be reached so, and has taken the connection.
///
/// # Errors
/// The other node does not wait for it on the link.
async fn enter(
    shared: &Shared,
    head: &Head,
    link: &mut Link,
) -> io::Result<Option<(Inside, OwnedSemaphorePermit)>> {
    let asked = Instant::now();
    let Some((answer, inside, permit)) = ask(shared, head) else { return Ok(None) };
    if outcome(answer, link).await? {
        return Ok(Some((inside, permit)));
    }
    let after = asked.elapsed();
    debug!("endpoint {} has refused a connection of {}, after {after:?}", head.endpoint, head.client);
    Ok(None)
}

/// Asks the gateway of a task for a way to it. Whoever drops that way resets the connection.
fn ask(shared: &Shared, head: &Head) -> Option<(oneshot::Receiver<Answered>, Inside, OwnedSemaphorePermit)> {
    let entrances = shared.entrances.load();
    let reached = entrances.get(head.endpoint.as_str())?;
    let service = &reached.backend.service;
    let takes = reached.backend.state == BackendState::Live
        && shared.plan.load().leads_to(service, head.target, Protocol::Tcp);
    if !takes {
        return None;
    }
    // The gateway has one for its end.
    let Some(permit) = shared.peers.permit() else {
        debug!("no socket is left for a connection of {} to endpoint {}", head.client, head.endpoint);
        return None;
    };
    let (ours, theirs) = Pipe::pair().ok()?;
    let outer = Outer::Pipe(theirs);
    let answer = reached.entrance.hand(outer, head.client, head.target, Vec::new(), ANSWER);
    // Until then a client that gives up is one that resets.
    let inside = Inside::new(ours).ok()?;
    Some((answer, inside, permit))
}

/// Whether a task has taken a connection that the other end of a link waits for.
///
/// # Errors
/// It does not wait: the link has ended, or something else has come.
async fn outcome(
    answer: oneshot::Receiver<Answered>,
    link: &mut (impl AsyncRead + Unpin),
) -> io::Result<bool> {
    tokio::select! {
        biased;
        answered = timeout(OUTCOME, answer) => Ok(matches!(answered, Ok(Ok(Answered::Taken)))),
        word = link.read_u8() => Err(word.map_or_else(|error| error, |_| invalid(Nonsense::Turn))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::mesh::pump::tests::Cable;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_node_that_reads_nothing() {
        let (mut link, mut other) = Cable::pair();
        say(&mut link.stream, Kind::Refused).await.unwrap();
        let filled = timeout(Duration::from_secs(1), link.stream.write_all(&[0; 1 << 20]));
        assert!(filled.await.is_err());
        assert_eq!(say(&mut link.stream, Kind::Refused).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(receive(&mut other.stream).await.unwrap().0, Kind::Refused);
    }
    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_task_that_never_says_whether_it_takes_a_connection() {
        let (mut link, other) = Cable::pair();
        let wait = Duration::from_secs(60);
        let (_gateway, answer) = oneshot::channel();
        let outcome_of = timeout(wait, outcome(answer, &mut link.stream)).await;
        assert!(!outcome_of.expect("it does not wait for good").unwrap());
        let (gateway, answer) = oneshot::channel();
        gateway.send(Answered::Taken).unwrap();
        assert!(outcome(answer, &mut link.stream).await.unwrap());
        drop(other);
        let (_gateway, answer) = oneshot::channel();
        let begun = tokio::time::Instant::now();
        let left = outcome(answer, &mut link.stream).await.unwrap_err();
        assert_eq!(left.kind(), io::ErrorKind::UnexpectedEof);
        assert!(begun.elapsed().is_zero(), "at once");
    }

    #[tokio::test]
    async fn a_node_that_does_not_wait_for_an_answer_loses_its_link() {
        let (mut link, mut other) = Cable::pair();
        other.stream.write_all(&[3]).await.unwrap();
        let (_gateway, answer) = oneshot::channel();
        let left = outcome(answer, &mut link.stream).await.unwrap_err();
        assert_eq!(left.kind(), io::ErrorKind::InvalidData);
    }
}
