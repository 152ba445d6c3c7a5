//! Who is in the cluster, and what everybody says: membership and replicated records without a leader.
//!
//! ```text
//!   Gossip (node)            socket, clock, supervised task, handle          a driver
//!   ────────────────────────────────────────────────────────────────────────────────
//!   Engine                   a whole node: datagrams and times in, datagrams and events out
//!     ├ swim                 who is alive (foca), decided by each node for itself
//!     ├ contacts             who is dialled again, for ever
//!     ├ path                 round-trip times and losses
//!     ├ owned                what a node says of itself; from its own mouth only
//!     ├ cluster              what managers say, signed; last writer wins; held by all
//!     ├ digest, exchange     changes pushed at once, differences found by comparing sums
//!     └ codec, message       bytes
//! ```
//!
//! Two kinds of records, both `(table, key) → value` with notice of every change, deletes included:
//!
//! | | owned | cluster |
//! |---|---|---|
//! | written by | their node | managers, who [sign](cluster::Signer) them |
//! | while the writer is dead | invisible, back with it | stay; any node passes them on |
//! | of two writes | the later by the owner's count | the later by hybrid logical clock |
//! | on disk | no | in every node's [`Store`] |
//!
//! The caller brings what this crate knows nothing of: [`Sealing`] for datagrams, [`Bulk`] for what doesn't fit one,
//! [`Store`], [`cluster::Signer`] and [`cluster::Verifier`]. All trust rests on [`Sealing::open`]: it names the sender
//! and refuses replays. What an authenticated but hostile member can still do: claim wrong addresses for others until
//! these contradict, and fill its own share of the tables. It can't bury a node that lives, speak for another, change a
//! cluster record, or stop the gossip of the rest.
//!
//! Two nodes in one process, and a record:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use vswitchd_gossip::demo::{Unprotected, settings};
//! use vswitchd_gossip::{Gossip, NodeId, Record, TableId};
//!
//! #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
//! struct Endpoint { mac: [u8; 6] }
//!
//! impl Record for Endpoint {
//!     const TABLE: TableId = TableId::owned(1);
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listen = "127.0.0.1:0".parse()?;
//! let (first, second) = (NodeId([1; 16]), NodeId([2; 16]));
//! let a = Gossip::start(listen, settings(first, listen, &[]), Unprotected::parts(first)).await?;
//! let seeds = [a.me().addr];
//! let b = Gossip::start(listen, settings(second, listen, &seeds), Unprotected::parts(second)).await?;
//!
//! a.set("web", &Endpoint { mac: [2, 0x42, 10, 0, 0, 5] })?;
//! let mut events = b.events();
//! while b.list::<Endpoint>().is_empty() {
//!     tokio::time::timeout(Duration::from_secs(30), events.recv()).await??;
//! }
//! assert_eq!(b.list(), [(Some(first), "web".to_owned(), Endpoint { mac: [2, 0x42, 10, 0, 0, 5] })]);
//! b.leave().await;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod cluster;
pub mod codec;
mod contacts;
pub mod demo;
mod digest;
pub mod engine;
mod exchange;
mod id;
mod message;
mod neighbour;
mod node;
mod owned;
mod parts;
mod path;
mod reading;
mod report;
mod saving;
mod sending;
mod swim;
mod swim_codec;
mod typed;

pub use contacts::{CONTACT_LIMIT, RETRY_MAX};
pub use id::{NodeId, Now, Peer, TableId};
pub use message::{BulkTransmit, CONTENT_LIMIT, KIND_MESSAGE, KIND_SWIM, SEAL_LIMIT, Transmit};
pub use neighbour::{Comparison, PeerStatus};
pub use node::{Counters, Gossip};
pub use owned::{BYTES_LIMIT, KEY_LIMIT, RECORD_LIMIT, SetError, VALUE_LIMIT};
pub use parts::{Bulk, Opened, Parts, SealError, Sealing, StartError, Store};
pub use path::{ANSWER_WITHIN, LOSS_WINDOW, Loss};
pub use swim::{PROBE_PERIOD, REPEAT_AFTER, SUSPICION};
pub use swim_codec::MEMBER_LIMIT;
pub use typed::Record;
