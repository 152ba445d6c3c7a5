//! Which node may hand out which addresses of a subnet, and to whom it has: without a leader, and safe in a
//! partition.
//!
//! Every address that an endpoint may have is *held* by one node: in the beginning all by the node that made the
//! network. A node hands out what it holds and asks nobody; one that has nothing left is *given* half of
//! somebody's largest free run, or the one address that was asked for. The idea is that of Weave Net's ring;
//! what differs: nobody needs a map of who holds what. Two nodes can't hold one address because it only ever
//! moves, and reclaiming asks everybody.
//!
//! ```text
//!   Acquire    one endpoint's way to an address: who is asked, and with what numbers it is refused
//!   ─────────────────────────────────────────────────────────────────────────────────────────────
//!   Pool       what one node holds of one subnet
//!     ├ lease      next-fit, requested addresses, release
//!     ├ donation   Want ► Reply; each gift arrives once, whatever is lost, late or doubled
//!     ├ survey     Question ► Statement, twice; what a removed node held
//!     └ saved      its bytes on disk
//!   Space      the subnet: bounds, range for free choice, reserved addresses
//!   Range, RangeSet
//! ```
//!
//! **The caller's part.** All is pure: no socket, file, clock or chance. After each call that takes `&mut self`
//! and before anything that came of it is shown to anybody (an endpoint, another node), [`Pool::save`] must be
//! on disk. Questions and answers go between authenticated members.
//!
//! **What is promised**, and checked over random schedules with crashes, partitions, losses and removals: no
//! address is ever held by two members, nor leased twice; an address that a member held when it crashed is still
//! its own when it is back. A removed node's leases count no more: nobody carries its frames.
//!
//! **What is not.** A node that is dead but was not removed keeps its addresses. What a removed node held is
//! free again only when every other member has said what it holds; one that is out of reach delays that. A
//! member whom only the removed node knows of is not asked. A disk that was set back is noticed only when a node
//! that it has dealt with since then deals with it again.
//!
//! Two nodes and a network of four addresses:
//!
//! ```
//! use std::collections::BTreeMap;
//! use vswitchd::gossip::NodeId;
//! use vswitchd::ipam::{Acquire, Other, Pool, Space, Step};
//!
//! let space = Space::new("10.0.9.0".parse()?, 29, None, [("10.0.9.1".parse()?, "gateway")])?;
//! let (a, b) = (NodeId([1; 16]), NodeId([2; 16]));
//! let mut founder = Pool::found(a, space.clone());
//! let mut other = Pool::join(b, space);
//!
//! let others = BTreeMap::from([(a, Other { share: founder.share(), alive: true })]);
//! let mut web = Acquire::new("web", None);
//! let Step::Ask(node, want) = web.step(&mut other, &others) else { panic!("holds nothing yet") };
//! assert_eq!(node, a);
//! let reply = founder.handle_want(b, &want);     // sent, once the founder's pool is saved
//! web.handle_reply(&mut other, a, &reply);
//! let Step::Leased(address) = web.step(&mut other, &others) else { panic!("was given half") };
//! assert_eq!(address.to_string(), "10.0.9.4");   // of .2 to .6 the upper three
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod acquire;
mod donation;
mod lease;
mod pool;
mod range;
mod refusal;
mod saved;
mod space;
mod survey;
#[cfg(test)]
mod tests;

pub use self::acquire::{Acquire, GIFTS_MAX, Other, Step};
pub use self::donation::{Gift, GiftError, Need, Reply, Unwilling, Want};
pub use self::lease::{HOLDER_MAX, LEASES_MAX, Outcome};
pub use self::pool::{PEERS_MAX, Pool, RANGES_MAX, Share};
pub use self::range::{Range, RangeError, RangeSet};
pub use self::refusal::Refusal;
pub use self::saved::LoadError;
pub use self::space::{Space, SpaceError};
pub use self::survey::{Answer, Question, Statement};
