//! Every way a frame can die.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a frame, or a datagram, went no further.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// Every reason, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name used in counters' output.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends within its Ethernet header or tags.
    FrameTruncated = "frame-truncated",
    /// The source address is a group's, or zero.
    SourceInvalid = "source-invalid",
    /// The source address is announced by the control plane at another place.
    SourceElsewhere = "source-elsewhere",
    /// The source address moves to and fro too often and is held at one place.
    MacMoveLimit = "mac-move-limit",
    /// The destination is at the port that the frame came from.
    SamePort = "same-port",
    /// Broadcast, multicast or unknown destination, over the port's rate.
    StormLimit = "storm-limit",
    /// Nobody to flood to: no other port and no peer in the network.
    NoMembers = "no-members",
    /// The frame is one of our own outer packets: the underlay is routed into the overlay.
    SelfEncapsulation = "self-encapsulation",
    /// A super-frame whose headers contradict its offload header.
    OffloadInvalid = "offload-invalid",
    /// The frame is larger than the path to the peer takes.
    TooBig = "too-big",
    /// The batch has come to too many frames, by flooding to many receivers.
    BatchFull = "batch-full",
    /// No packet buffer was free.
    NoBuffer = "no-buffer",
    /// The datagram came from an address that is no peer's.
    UnknownPeer = "unknown-peer",
    /// The datagram came from our own address.
    OwnDatagram = "own-datagram",
    /// The datagram is shorter than a VXLAN header.
    VxlanTruncated = "vxlan-truncated",
    /// The VXLAN header's I flag is clear, or another flag or reserved bit is set.
    VxlanFlags = "vxlan-flags",
    /// No port of ours is in the network.
    UnknownVni = "unknown-vni",
    /// The peer is known, but is not in that network.
    PeerNotInVni = "peer-not-in-vni",
    /// The network is sealed, and there is no key for the peer.
    NoSession = "no-session",
    /// The key for the peer has sealed as many datagrams as it may.
    KeyUsedUp = "key-used-up",
    /// The datagram is shorter than a sealed one's header and tag.
    SealedTruncated = "sealed-truncated",
    /// The datagram is sealed with a key that we don't have.
    UnknownSession = "unknown-session",
    /// The datagram does not open: it was not sealed by the peer that it names, or has been changed.
    Forged = "forged",
    /// The datagram has been opened before, or is too old to tell.
    Replayed = "replayed",
    /// The datagram came in clear, for a sealed network; or is a probe, of a peer with a session.
    ClearRefused = "clear-refused",
    /// The datagram came sealed, for a plain network.
    SealedRefused = "sealed-refused",
    /// Not a probe after all: cut short, or of another length than it says.
    ProbeInvalid = "probe-invalid",
    /// A request for an echo, over the peer's rate.
    ProbeLimit = "probe-limit",
    /// An echo that was not asked for: late, doubled, or made up.
    ProbeUnasked = "probe-unasked",
    /// From a tunnel for a destination behind a tunnel: split horizon.
    SplitHorizon = "split-horizon",
    /// From a peer for what every switch has for itself: a gateway, or a service, for which the switch of a client's own
    /// host chooses a task.
    NotForPeers = "not-for-peers",
    /// For a service's MAC address, but for no address of its, or nothing that has flows; or about no known flow.
    NotBalanced = "not-balanced",
    /// The service has no task for it; its sender was told.
    NoTask = "no-task",
    /// The flow's task is one no more; its sender was told.
    TaskGone = "task-gone",
    /// There is no room for another flow.
    FlowsFull = "flows-full",
    /// A later fragment for a service, of a packet whose first has not come.
    FragmentUnknown = "fragment-unknown",
    /// The socket's send buffer was full.
    UnderlayFull = "underlay-full",
    /// The system refused to send to the peer (no route, no permission).
    UnderlayRefused = "underlay-refused",
    /// The port's queue was full.
    PortFull = "port-full",
    /// The device is down.
    PortDown = "port-down",
    /// The device refused the frame.
    PortRefused = "port-refused",
    /// The port vanished while the frame was on its way.
    PortGone = "port-gone",
}

/// A count for each reason. Anybody adds, anybody reads.
#[derive(Debug)]
pub struct Drops([AtomicU64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; DropReason::ALL.len()])
    }
}

impl Drops {
    /// Counts frames.
    pub fn add(&self, reason: DropReason, frames: u64) {
        self.0[reason as usize].fetch_add(frames, Ordering::Relaxed);
    }

    /// Frames that died so.
    #[must_use]
    pub fn count(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// Reasons that have occurred, with their counts.
    pub fn occurred(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.count(reason))).filter(|&(_, count)| count > 0)
    }
}
