//! What nodes say to each other beside SWIM, in sealed datagrams or in bulk.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::cluster::Record;
use crate::digest::{Item, Range};
use crate::id::{NodeId, Peer, TableId};
use crate::owned::Delta;

/// Type byte of foca's datagrams, inside the seal.
pub const KIND_SWIM: u8 = 1;
/// Type byte of all other messages, inside the seal.
pub const KIND_MESSAGE: u8 = 2;

/// Most bytes of a datagram's content, before sealing. With [`SEAL_LIMIT`] and the headers below it stays within 1280
/// bytes, which every IPv6 path carries whole (RFC 8200 §5).
pub const CONTENT_LIMIT: usize = 1150;
/// Most bytes that [`crate::Sealing::seal`] may add to the content, the type byte included. vswitchd's group sealing
/// takes 54 of them: 37 of header, the type byte, 16 of tag.
pub const SEAL_LIMIT: usize = 64;

/// IPv6 and UDP.
const HEADERS: usize = 40 + 8;
const _: () = assert!(HEADERS + CONTENT_LIMIT + SEAL_LIMIT <= 1280);

/// Ranges that fit a datagram, at most 33 bytes each.
pub(crate) const RANGES_PER_MESSAGE: usize = 32;

/// How far the sender's own records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) life: u64,
    pub(crate) version: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// Here I am; `answer` if this is one.
    Hello { me: Peer, answer: bool },
    /// You are suspected: are you there?
    Ask { you: Peer, incarnation: u16 },
    /// I am.
    Here { me: Peer, incarnation: u16 },
    /// I am leaving.
    Leave { me: Peer },
    /// My own records.
    Own(Delta),
    /// That far I have yours.
    Have(Mark),
    /// Cluster records.
    Records(Vec<Record>),
    /// What I hold; `whole` if these are all of my tables.
    Compare { mark: Mark, whole: bool, ranges: Vec<Range> },
    /// I hold the same as you.
    Same { mark: Mark },
    /// All that I hold in a stretch; `full` if I have no room for records that I lack.
    List { table: TableId, low: u64, high: u64, full: bool, items: Vec<Item> },
    /// Send me these cluster records.
    Pull { table: TableId, hashes: Vec<u64> },
    /// Answer this, for the sake of measurement.
    Ping { number: u32 },
    /// The answer.
    Pong { number: u32 },
    /// Your life `yours` is no later than `known`, which I know of you and which is over: begin another.
    Past { yours: u64, known: u64 },
}

/// A datagram to be sealed and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// Type byte.
    pub kind: u8,
    /// Content, at most [`CONTENT_LIMIT`] bytes.
    pub bytes: Vec<u8>,
}

/// Content for a member that is too big for datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkTransmit {
    /// Who.
    pub node: NodeId,
    /// Its gossip address; the bulk port is the caller's business.
    pub to: SocketAddr,
    /// Content, for [`crate::engine::Engine::handle_bulk`] there.
    pub bytes: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::digest::LIST_LIMIT;

    #[test]
    fn a_full_list_fits_a_datagram() {
        let item = Item { hash: u64::MAX, time: u64::MAX, writer: NodeId([255; 16]) };
        let items = vec![item; LIST_LIMIT];
        let list =
            Message::List { table: TableId::cluster(127), low: u64::MAX, high: u64::MAX, full: true, items };
        assert!(codec::encode(&list).len() <= CONTENT_LIMIT, "{}", codec::encode(&list).len());
        let range = Range {
            table: TableId::cluster(127),
            low: u64::MAX,
            high: u64::MAX,
            count: u32::MAX,
            sum: u64::MAX,
        };
        let mark = Mark { life: u64::MAX, version: u64::MAX };
        let compare = Message::Compare { mark, whole: true, ranges: vec![range; RANGES_PER_MESSAGE] };
        assert!(codec::encode(&compare).len() <= CONTENT_LIMIT, "{}", codec::encode(&compare).len());
    }
}
