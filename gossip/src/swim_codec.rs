//! foca's messages as bytes, and the place where hearsay is weakened.
//!
//! A received claim that a live member is dead is read as "suspected", and every suspicion is noted for [`crate::swim`] to
//! look into. A claim that one is alive that has left, or was removed, is read as "dead". An invented member costs its inventor's datagram and a place among [`MEMBER_LIMIT`] until its probe fails.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, State};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, DecodeError};
use crate::id::{NodeId, Peer};

/// Most members known at a time, the remembered dead included. A datagram that names more is refused, and everything
/// else goes on.
pub const MEMBER_LIMIT: usize = 4096;

/// Shared by foca's codec and the machine around it.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) me: Peer,
    /// Ours, as last written into a header.
    pub(crate) incarnation: u16,
    /// Members that foca remembers, dead ones included.
    pub(crate) known: usize,
    pub(crate) active: HashSet<Peer>,
    /// Nodes that left or were removed, with the age of the last of them that doesn't count any more.
    pub(crate) left: HashMap<NodeId, (u64, u32)>,
    pub(crate) claims: Vec<Claim>,
}

impl View {
    pub(crate) fn new(me: Peer) -> Self {
        let (active, left) = (HashSet::new(), HashMap::new());
        Self { me, incarnation: 0, known: 0, active, left, claims: Vec::new() }
    }

    pub(crate) fn has_left(&self, peer: &Peer) -> bool {
        self.left.get(&peer.node).is_some_and(|gone| peer.age() <= *gone)
    }

    /// Beyond [`MEMBER_LIMIT`] nobody is remembered so: such a node may be thought alive for a while on hearsay.
    pub(crate) fn note_left(&mut self, peer: &Peer) {
        if self.left.len() < MEMBER_LIMIT || self.left.contains_key(&peer.node) {
            let gone = self.left.entry(peer.node).or_insert_with(|| peer.age());
            *gone = peer.age().max(*gone);
        }
    }
}

/// Somebody says that a member is suspected or dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) peer: Peer,
    pub(crate) incarnation: u16,
    pub(crate) dead: bool,
}

/// Why foca's codec gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SwimCodecError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("no room")]
    NoRoom,
    #[error("more than {MEMBER_LIMIT} members")]
    TooManyMembers,
}

#[derive(Clone, Debug)]
pub(crate) struct SwimCodec {
    view: Arc<Mutex<View>>,
}

impl SwimCodec {
    pub(crate) fn new(view: Arc<Mutex<View>>) -> Self {
        Self { view }
    }

    fn weaken(&self, member: Member<Peer>) -> Result<Member<Peer>, SwimCodecError> {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = *member.id();
        let live = view.active.contains(&peer);
        let ours = peer.node == view.me.node;
        if ours && peer != view.me {
            view.claims.push(Claim { peer, incarnation: member.incarnation(), dead: false });
        } else if live && member.state() != State::Alive {
            view.claims.push(Claim {
                peer,
                incarnation: member.incarnation(),
                dead: member.state() == State::Down,
            });
        } else if !live && view.known >= MEMBER_LIMIT {
            return Err(SwimCodecError::TooManyMembers);
        }
        if member.state() != State::Down && view.has_left(&peer) {
            return Ok(Member::new(peer, member.incarnation(), State::Down));
        }
        if member.state() == State::Down && (live || peer == view.me) {
            return Ok(Member::new(peer, member.incarnation(), State::Suspect));
        }
        Ok(member)
    }
}

impl Codec<Peer> for SwimCodec {
    type Error = SwimCodecError;

    fn encode_header(&mut self, header: &Header<Peer>, buf: impl BufMut) -> Result<(), SwimCodecError> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).incarnation = header.src_incarnation;
        put(header, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Peer>, SwimCodecError> {
        Ok(take(buf)?)
    }

    fn encode_member(&mut self, member: &Member<Peer>, buf: impl BufMut) -> Result<(), SwimCodecError> {
        put(member, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Peer>, SwimCodecError> {
        self.weaken(take(buf)?)
    }
}

/// All of `value`, or nothing.
fn put<T: Serialize>(value: &T, mut buf: impl BufMut) -> Result<(), SwimCodecError> {
    let mut bytes = Vec::with_capacity(64);
    codec::append(value, &mut bytes);
    if buf.remaining_mut() < bytes.len() {
        return Err(SwimCodecError::NoRoom);
    }
    buf.put_slice(&bytes);
    Ok(())
}

fn take<T: DeserializeOwned>(mut buf: impl Buf) -> Result<T, DecodeError> {
    // foca hands over contiguous buffers, by its codec's contract.
    let (value, read) = codec::take(buf.chunk())?;
    buf.advance(read);
    Ok(value)
}
