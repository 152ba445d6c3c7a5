//! Probes of the data path to each peer: whether it answers, how fast, how much is lost, how large a packet may
//! be.
//!
//! A probe ([`crate::wire::probe`]) travels as data does: from the same sockets to the peer's UDP port, sealed for
//! a peer with a session and in clear for one without. So it tells what a control connection can't: that UDP 4789
//! is blocked, or that large packets vanish. A peer that is no switch of ours ignores it and is
//! [`PathState::Silent`], which is no failure.
//!
//! - [`Path`] is the state machine of one peer: no socket, clock or thread. Small echoes about once a second give
//!   the state, the round-trip time (RFC 6298 §2) and the loss; padded ones search for the path's MTU (RFC 8899).
//! - `paths` has one for each peer, in the order in which they fall due; `carry` takes probes from and to
//!   datagrams.
//! - Requests are answered whether or not we probe ourselves: for known peers only, at most [`REPLIES`], and never
//!   with more bytes than came. From a peer with a session nothing is answered or believed that came in clear.

pub(crate) mod carry;
mod mtu;
mod path;
pub(crate) mod paths;
mod rtt;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use self::path::{Path, WINDOW};
use crate::storm::StormLimit;
use crate::vtep::VtepId;

/// Requests of one peer that are answered: it asks once a second, and during a search for the MTU ten times. What
/// is more, from a stranger under its address maybe, is dropped ([`crate::drops::DropReason::ProbeLimit`]).
pub const REPLIES: StormLimit = StormLimit { frames_per_second: 20, burst: 20 };

/// How to probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeConfig {
    /// Between two echoes to one peer, give or take a tenth. To a silent peer it is five times as long.
    pub interval: Duration,
    /// Of the dice; should differ from start to start, since it hides what replies have to match.
    pub seed: u64,
}

impl ProbeConfig {
    /// The usual interval, a second.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { interval: Duration::from_secs(1), seed }
    }
}

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathState {
    /// Too little has been asked yet.
    Unknown,
    /// The peer has never answered: it does not know our probes (another RFC 7348 end point), or they don't pass.
    Silent,
    /// It answers.
    Up,
    /// It has answered, and does so no more.
    Down,
}

impl PathState {
    /// The name used in output.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Silent => "silent",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// A change of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// The peer answers, for the first time or again.
    Up {
        /// The round-trip time, smoothed.
        rtt: Duration,
    },
    /// It does so no more.
    Down,
    /// It has not answered, ever.
    Silent,
    /// The largest IP packet that gets there, in bytes: found, or known to be smaller than before.
    Mtu(u16),
}

/// A change of some peer's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathEvent {
    /// The peer.
    pub peer: VtepId,
    /// Its address.
    pub address: SocketAddr,
    /// What has changed.
    pub change: PathChange,
}

/// What is known of a peer's path at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathReport {
    /// The peer.
    pub peer: VtepId,
    /// Its address.
    pub address: SocketAddr,
    /// Whether it answers.
    pub state: PathState,
    /// Since when that is so.
    pub since: Instant,
    /// The round-trip time, smoothed; stays when the path goes down.
    pub rtt: Option<Duration>,
    /// How far round-trip times are from it on average.
    pub rtt_variation: Option<Duration>,
    /// Echoes unanswered, of [`Self::asked`].
    pub lost: usize,
    /// Echoes whose fate is known, of the last [`WINDOW`].
    pub asked: usize,
    /// The largest IP packet that gets there, in bytes, once it has been found.
    pub mtu: Option<u16>,
}
