//! What a flow's packets have shown, and how long it is remembered for that.

use std::time::Duration;

use super::packet::FRAGMENT;
use super::service::IdleLimits;
use crate::wire::flow::{TCP, UDP};

/// Things that have been seen of a flow, as a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(u32);

impl Marks {
    /// The task has sent something.
    pub(super) const ANSWERED: Self = Self(1);
    /// The client has gone on after the task's answer.
    pub(super) const CONFIRMED: Self = Self(2);
    /// The client has ended its direction (FIN).
    pub(super) const CLIENT_ENDED: Self = Self(4);
    /// The task has ended its direction (FIN).
    pub(super) const TASK_ENDED: Self = Self(8);
    /// Either has reset the connection.
    pub(super) const RESET: Self = Self(16);
    /// The client has acknowledged something.
    pub(super) const ACKNOWLEDGED: Self = Self(32);

    pub(super) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These if `seen`, else none.
    pub(super) fn when(self, seen: bool) -> Self {
        if seen { self } else { Self::default() }
    }

    /// From the low half of a word.
    pub(super) fn from_word(word: u64) -> Self {
        let [a, b, c, d, ..] = word.to_le_bytes();
        Self(u32::from_le_bytes([a, b, c, d]))
    }

    pub(super) fn to_word(self) -> u64 {
        self.0.into()
    }
}

/// How much a flow matters: those that matter least come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Reset.
    Reset,
    /// Both directions have ended: what is still on its way has to arrive (RFC 9293 §3.6.1, TIME-WAIT).
    Closed,
    /// A datagram's fragments.
    Fragments,
    /// Not answered yet, or not confirmed; and echoes, always.
    Opening,
    /// UDP that is answered.
    Datagrams,
    /// One direction has ended.
    HalfClosed,
    /// A connection that both sides have confirmed.
    Established,
}

impl Standing {
    pub(super) fn of(protocol: u8, marks: Marks) -> Self {
        let both_ended = Marks::CLIENT_ENDED.and(Marks::TASK_ENDED);
        match protocol {
            TCP if marks.contains(Marks::RESET) => Self::Reset,
            TCP if marks.contains(both_ended) => Self::Closed,
            TCP if !marks.contains(Marks::ANSWERED.and(Marks::CONFIRMED)) => Self::Opening,
            TCP if marks.contains(Marks::CLIENT_ENDED) || marks.contains(Marks::TASK_ENDED) => {
                Self::HalfClosed
            }
            TCP => Self::Established,
            UDP if marks.contains(Marks::ANSWERED) => Self::Datagrams,
            FRAGMENT => Self::Fragments,
            _ => Self::Opening,
        }
    }

    /// How long such a flow may be silent.
    pub(super) fn idle_limit(self, limits: &IdleLimits) -> Duration {
        match self {
            Self::Reset => Duration::from_secs(10),
            // As Linux's TIME-WAIT.
            Self::Closed => Duration::from_secs(60),
            // As Linux's reassembly.
            Self::Fragments => Duration::from_secs(30),
            // The longest pause between two SYNs of Linux is 64 s.
            Self::Opening => Duration::from_secs(120),
            Self::Datagrams => limits.udp,
            Self::HalfClosed => Duration::from_secs(3_600).min(limits.tcp),
            Self::Established => limits.tcp,
        }
    }

    /// Whether it may have to make room for another.
    pub(super) fn is_evictable(self) -> bool {
        self < Self::HalfClosed
    }

    /// Whether a client may begin anew with the same port.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Reset | Self::Closed)
    }
}
