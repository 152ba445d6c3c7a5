//! What a way out has done, counted.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Something that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Count { $($(#[$doc])* $name,)* }

        impl Count {
            /// Every one, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name used in counters' output.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

counts! {
    /// TCP connections that inside asked for, and that were tried.
    TcpFlows = "tcp-flows",
    /// Inside addresses and UDP ports that got a socket of the host's.
    UdpFlows = "udp-flows",
    /// Inside addresses and ICMP identifiers that got a socket of the host's.
    EchoFlows = "echo-flows",
    /// Connections and clients' flows of datagrams that came from outside, and were carried to an endpoint.
    Inward = "inward",
    /// Of these, connections that the endpoint has refused or not answered; and connections and datagrams that were not
    /// carried, because there were as many as there may be.
    InwardRefused = "inward-refused",
    /// What has come to its end by being quiet for too long.
    Expired = "expired",
    /// Refused: the destination is none that inside may reach.
    Denied = "denied",
    /// Refused: the network, or that address of it, has as many flows as it may, or this process as many
    /// descriptors.
    Full = "full",
    /// Refused: this host has no way there, or nobody was there.
    Unreachable = "unreachable",
    /// Refused: the hop limit has come to its end.
    HopLimit = "hop-limit",
    /// Refused: no protocol that is carried, or no kind of ICMP that asks for something.
    Protocol = "protocol",
    /// Dropped: fragments, which have no ports.
    Fragment = "fragment",
    /// Dropped: headers that contradict themselves.
    Malformed = "malformed",
    /// Dropped: from outside, from where nothing was sent to.
    Unsolicited = "unsolicited",
    /// Dropped: the host's or the network's queue was full.
    Lost = "lost",
    /// Errors from outside that were passed on.
    Undelivered = "undelivered",
    /// Refusals that were not said, because there were too many.
    Unsaid = "unsaid",
}

/// The counters of one network's way out.
#[derive(Debug, Default)]
pub struct Counters {
    counts: [AtomicU64; Count::ALL.len()],
    open: [AtomicU64; Kind::ALL.len()],
}

/// Kinds of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// TCP connections.
    Tcp,
    /// Inside addresses and UDP ports.
    Udp,
    /// Inside addresses and ICMP identifiers.
    Echo,
    /// TCP connections from outside.
    TcpIn,
    /// Clients outside that have sent datagrams.
    UdpIn,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Tcp, Self::Udp, Self::Echo, Self::TcpIn, Self::UdpIn];

    /// The name used in counters' output.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Echo => "echo",
            Self::TcpIn => "tcp-in",
            Self::UdpIn => "udp-in",
        }
    }
}

impl Counters {
    /// How often.
    #[must_use]
    pub fn count(&self, what: Count) -> u64 {
        self.counts[what as usize].load(Ordering::Relaxed)
    }

    /// How many there are now.
    #[must_use]
    pub fn open(&self, kind: Kind) -> u64 {
        self.open[kind as usize].load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, what: Count) {
        self.counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn opened(&self, kind: Kind) {
        self.open[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self, kind: Kind) {
        self.open[kind as usize].fetch_sub(1, Ordering::Relaxed);
    }
}
