//! What two members say to each other alone: mutual TLS on TCP, at the address and port of gossip.
//!
//! ```text
//!  0              4
//! | length (u32) | a Request, an Answer or a Confirm, by gossip's codec |
//! ```
//!
//! Big-endian. A connection is for one conversation: a request and its answer; for a session's keys a [`Confirm`]
//! besides. So keys come from a key exchange of their own each time, nothing has to be closed when a node is removed,
//! and a conversation that hangs holds up no other. Only [`Request::Carry`] makes more of it: a link of [`crate::mesh`],
//! which looks after that.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustls::time_provider::DefaultTimeProvider;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use zeroize::Zeroizing;

use super::accept;
use super::addresses::{AddressAnswer, AddressRequest};
use super::credentials::Shared;
use super::services::LogQuestion;
use crate::api::LogMark;
use crate::crypto::exporter::{Agreed, Exporter, SessionKeys};
use crate::crypto::identity::NodeId;
use crate::crypto::peer::{Peer, PeerError};
use crate::crypto::tls::{self, Refusal, Revocations};
use crate::gossip::codec;

/// Bytes of a message: as many as gossip's largest transfer, and what stands around it.
const MESSAGE_MAX: usize = codec::SIZE_LIMIT;
/// How long the other end may take to accept, and then again for each step.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one member asks another.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Takes gossip that fits no datagram.
    Gossip(Vec<u8>),
    /// Takes this key ring, if the asker is a manager.
    TakeRing(SecretBytes),
    /// Gives the key ring, if it is a manager.
    Ring,
    /// Signs this request for a certificate, if it is a manager.
    Certificate(Vec<u8>),
    /// Gives what only managers have to another manager.
    Authority,
    /// Agrees on data keys: by this number the asker wants to be sent to.
    Session(u32),
    /// About addresses: at most so many as their receiver takes at a time.
    Addresses(Vec<AddressRequest>),
    /// Gives what a task of a service has written, to a manager.
    TaskLog(LogQuestion),
    /// Carries clients' connections to its tasks: behind the answer come frames ([`crate::mesh::frame`]).
    Carry,
}

/// What the other says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It is done.
    Done,
    /// The key ring.
    Ring(SecretBytes),
    /// A certificate, and with a manager's what only managers have.
    Certificate(Vec<u8>, Option<AuthorityBytes>),
    /// What only managers have.
    Authority(AuthorityBytes),
    /// By this number it wants to be sent to.
    Session(u32),
    /// Not now: it is asking itself, or has renewed too often of late.
    Busy,
    /// No, and why, for people.
    Refused(String),
    /// About addresses, in the order of the questions.
    Addresses(Vec<AddressAnswer>),
    /// Lines of a log, where they end, and whether there are more.
    TaskLog(String, Option<LogMark>, bool),
}

/// What only managers have.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AuthorityBytes {
    /// The CA's key, in PKCS #8.
    pub(crate) ca_key: SecretBytes,
    /// The secrets of the join tokens: the worker's, the manager's.
    pub(crate) secrets: SecretBytes,
}

/// Ends a conversation on data keys: the asker opens what is sealed with them from here on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Confirm;

/// Bytes that are wiped when dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretBytes(pub(crate) Zeroizing<Vec<u8>>);

impl std::fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secret bytes", self.0.len())
    }
}

impl Serialize for SecretBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_slice().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(|bytes| Self(Zeroizing::new(bytes)))
    }
}

/// Why there was no conversation, or no end of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// This node is no member any more.
    #[error("this node is in no cluster")]
    NoMember,
    /// Nobody there, or nobody of ours.
    #[error("{0}")]
    Io(io::Error),
    /// One end does not accept the other's certificate.
    #[error("{0}")]
    Refused(Refusal),
    /// It takes too long.
    #[error("no answer")]
    Silent,
    /// It answers something else than what was asked.
    #[error("an answer to another question")]
    Nonsense,
    /// It said no.
    #[error("{0}")]
    No(String),
}

/// The way to and from other members.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    member: Shared,
    revoked: Revocations,
}

/// One conversation with a member.
pub(crate) struct Conversation {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    exporter: Exporter,
}

impl Links {
    /// For the member that this host is.
    pub(super) fn new(member: Shared, revoked: Revocations) -> Self {
        Self { member, revoked }
    }

    /// Calls a node, or whichever member is there.
    pub(super) async fn call(&self, node: Option<NodeId>, to: SocketAddr) -> Result<Conversation, LinkError> {
        let (own, config) = {
            let member = self.member.lock().unwrap_or_else(PoisonError::into_inner);
            let member = member.as_ref().ok_or(LinkError::NoMember)?;
            let time = Arc::new(DefaultTimeProvider);
            let config = tls::member_client(&member.credentials(), Arc::clone(&self.revoked), time);
            (member.id, config.map_err(io::Error::other)?)
        };
        let connecting = async {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(Arc::new(config)).connect(tls::server_name(node), stream).await
        };
        let stream = timeout(PATIENCE, connecting).await.map_err(|_| LinkError::Silent)??;
        Conversation::new(own, stream.into())
    }

    /// Calls a node, asks, and gives its answer.
    pub(super) async fn ask(
        &self,
        node: Option<NodeId>,
        to: SocketAddr,
        request: &Request,
    ) -> Result<(Peer, Answer), LinkError> {
        let mut conversation = self.call(node, to).await?;
        conversation.send(request).await?;
        match conversation.receive().await? {
            Answer::Refused(reason) => Err(LinkError::No(reason.lines().collect())),
            answer => Ok((conversation.peer, answer)),
        }
    }

    /// Has `converse` answer each member that calls, until this is dropped.
    pub(super) async fn serve<F>(
        &self,
        listener: &TcpListener,
        refused: &Arc<AtomicU64>,
        converse: impl Fn(Conversation) -> F + Clone + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<(), LinkError>> + Send + 'static,
    {
        let talk = |stream, _| {
            let (links, converse) = (self.clone(), converse.clone());
            async move {
                let conversation = links.accept(stream).await.map_err(io::Error::other)?;
                converse(conversation).await.map_err(io::Error::other)
            }
        };
        accept::serve(listener, "members", refused, talk).await;
    }

    async fn accept(&self, stream: TcpStream) -> Result<Conversation, LinkError> {
        let (own, config) = {
            let member = self.member.lock().unwrap_or_else(PoisonError::into_inner);
            let member = member.as_ref().ok_or(LinkError::NoMember)?;
            let time = Arc::new(DefaultTimeProvider);
            let config = tls::member_server(&member.credentials(), Arc::clone(&self.revoked), time);
            (member.id, config.map_err(io::Error::other)?)
        };
        stream.set_nodelay(true)?;
        let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
        Conversation::new(own, stream.into())
    }
}

impl Conversation {
    fn new(own: NodeId, stream: TlsStream<TcpStream>) -> Result<Self, LinkError> {
        let peer = tls::peer(stream.get_ref().1).ok_or(LinkError::Nonsense)?;
        Ok(Self { stream, peer, exporter: Exporter::new(own, peer.node) })
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Says something.
    pub(crate) async fn send(&mut self, message: &impl Serialize) -> Result<(), LinkError> {
        let body = Zeroizing::new(codec::encode(message));
        let length = u32::try_from(body.len()).ok().filter(|&length| length as usize <= MESSAGE_MAX);
        let length = length.ok_or_else(|| io::Error::other("a message that is too long"))?;
        let sending = async {
            self.stream.write_all(&length.to_be_bytes()).await?;
            self.stream.write_all(&body).await?;
            self.stream.flush().await
        };
        timeout(PATIENCE, sending).await.map_err(|_| LinkError::Silent)?.map_err(LinkError::from)
    }

    /// Hears something.
    pub(crate) async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, LinkError> {
        let receiving = async {
            let length = self.stream.read_u32().await? as usize;
            if length > MESSAGE_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too long"));
            }
            let mut body = Zeroizing::new(vec![0; length]);
            self.stream.read_exact(&mut body).await?;
            codec::decode(&body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        };
        timeout(PATIENCE, receiving).await.map_err(|_| LinkError::Silent)?.map_err(LinkError::from)
    }

    /// What it was held on, for whoever has something else to say.
    pub(crate) fn into_stream(self) -> TlsStream<TcpStream> {
        self.stream
    }

    /// Ends it, once the other end has all that was said.
    pub(crate) async fn close(mut self) -> Result<(), LinkError> {
        timeout(PATIENCE, self.stream.shutdown())
            .await
            .map_err(|_| LinkError::Silent)?
            .map_err(LinkError::from)
    }

    /// The keys of a session that both ends have agreed on, the only one of this conversation.
    pub(crate) fn session_keys(&mut self, agreed: Agreed) -> Result<SessionKeys, LinkError> {
        let connection = &self.stream;
        let keys = self.exporter.session_keys(agreed, |output, label, context| match connection {
            TlsStream::Client(stream) => {
                stream.get_ref().1.export_keying_material(output, label, Some(context)).map(drop)
            }
            TlsStream::Server(stream) => {
                stream.get_ref().1.export_keying_material(output, label, Some(context)).map(drop)
            }
        });
        keys.map_err(|error| io::Error::other(error).into())
    }
}

impl LinkError {
    /// Whether the other end says that we are no member any more.
    pub(super) fn is_removed(&self) -> bool {
        matches!(self, Self::Refused(Refusal::Theirs(PeerError::Revoked)))
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        match tls.and_then(tls::refusal) {
            Some(refusal) => Self::Refused(refusal),
            None => Self::Io(error),
        }
    }
}
