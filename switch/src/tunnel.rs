//! What stands between a network and the underlay: the way of its frames to one peer, and of a peer's into it.
//!
//! A network is plain or sealed for as long as it has members ([`Protection`]), and here alone is decided what
//! follows: `Tunnel::find` is the only maker of what `egress` builds datagrams with, `Arrival::enter` the
//! only way into a network that `ingress` has. So a sealed network's frame can't leave in clear, nor a clear
//! frame be taken for one of its own, by any other path through the code. Probes, which are of no network, take
//! `ProbeTunnel`'s way.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use vswitchd_crypto::envelope::{self, Header};
use vswitchd_crypto::open::OpenError;
use vswitchd_crypto::seal::{Sealer, Seals};

use crate::drops::DropReason;
use crate::outbox::{Payload, RUN_BYTES_MAX, Transmit, run_datagrams};
use crate::tables::{Network, Topology};
use crate::vtep::{Vtep, VtepId};
use crate::wire::{Vni, ethernet, probe, vxlan};

// The switch tells them apart by the first byte.
const _: () = assert!(envelope::KIND != vxlan::FLAG_VNI);
const _: () = assert!(probe::KIND != vxlan::FLAG_VNI && probe::KIND != envelope::KIND);

/// 28: [`envelope::OVERHEAD`] in the type of a packet's length.
const ENVELOPE: u16 = 12 + 16;
const _: () = assert!(envelope::OVERHEAD == ENVELOPE as usize);

/// How a network's frames cross the underlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protection {
    /// As VXLAN (RFC 7348), for anybody to read.
    #[default]
    Plain,
    /// Each VXLAN packet in a sealed datagram ([`vswitchd_crypto::envelope`]), and never otherwise.
    Sealed,
}

impl Protection {
    /// The largest IP packet of a frame that crosses a path whose packets have up to `path` bytes, 0 if none does.
    ///
    /// A sealed network's is rounded down to a multiple of 4: 1420 bytes over IPv4's 1500, 1400 over IPv6's.
    #[must_use]
    pub fn mtu(self, underlay: IpAddr, path: u32) -> u32 {
        let plain = path.saturating_sub(vxlan::overhead(underlay));
        match self {
            Self::Plain => plain,
            Self::Sealed => plain.saturating_sub(ENVELOPE.into()) & !3,
        }
    }

    /// What to bound super-frames of an interface by, so that TCP's come to no more segments than one message takes: a
    /// size for [`crate::io::tap::TapConfig::super_frame_max`]. `None` if no bound is needed, or none helps.
    ///
    /// The kernel fills such a size, less `MAX_TCP_HEADER` (192 to 320 bytes) and one, with whole segments. Not
    /// `gso_max_segs`, which would have it cut UDP super-frames of many small datagrams.
    #[must_use]
    pub fn super_frame_max(self, mtu: u32) -> Option<u32> {
        /// IPv6, TCP and its timestamps: no bulk transfer has smaller segments.
        const HEADERS_MAX: u32 = 40 + 32;
        /// `MAX_TCP_HEADER` of a small kernel.
        const TCP_HEADER_MAX: u32 = 192;
        let envelope = if self == Self::Sealed { envelope::OVERHEAD } else { 0 };
        let datagram = envelope + vxlan::HEADER_LEN + ethernet::HEADER_LEN + usize::try_from(mtu).ok()?;
        let segments = u32::try_from(run_datagrams(datagram)).ok().filter(|&segments| segments > 0)?;
        let bytes = (segments + 1) * mtu.checked_sub(HEADERS_MAX)? + TCP_HEADER_MAX - 1;
        (bytes < 65_536).then_some(bytes)
    }
}

/// Bytes of the IP and UDP headers of datagrams to such an address.
fn outer_headers(to: SocketAddr) -> u16 {
    if to.is_ipv4() { 20 + 8 } else { 40 + 8 }
}

/// What is put around a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wrap<'t> {
    /// Nothing: it is for a port.
    Bare,
    /// A VXLAN header.
    Clear(Vni),
    /// A VXLAN header, all of that sealed.
    Sealed(Vni, &'t Sealer),
}

/// Wraps as many frames as it was made for.
#[derive(Debug)]
pub(crate) enum Wrapper<'t> {
    Bare,
    Clear(Vni),
    Sealed(Vni, Seals<'t>),
}

impl<'t> Wrap<'t> {
    /// Bytes before the frame.
    pub(crate) fn before(self) -> usize {
        match self {
            Self::Bare => 0,
            Self::Clear(_) => vxlan::HEADER_LEN,
            Self::Sealed(..) => envelope::HEADER_LEN + vxlan::HEADER_LEN,
        }
    }

    /// Bytes behind the frame.
    pub(crate) fn behind(self) -> usize {
        match self {
            Self::Bare | Self::Clear(_) => 0,
            Self::Sealed(..) => envelope::TAG_LEN,
        }
    }

    /// Bytes around the frame.
    pub(crate) fn overhead(self) -> usize {
        self.before() + self.behind()
    }

    /// What wraps so many frames.
    ///
    /// # Errors
    /// [`DropReason::KeyUsedUp`]: the key does not last for all of them.
    pub(crate) fn wrapper(self, frames: usize) -> Result<Wrapper<'t>, DropReason> {
        Ok(match self {
            Self::Bare => Wrapper::Bare,
            Self::Clear(vni) => Wrapper::Clear(vni),
            Self::Sealed(vni, sealer) => {
                let seals = sealer.reserve(frames as u64).map_err(|_| DropReason::KeyUsedUp)?;
                Wrapper::Sealed(vni, seals)
            }
        })
    }
}

impl Wrapper<'_> {
    /// Wraps the frame that stands in `datagram` with the room around it that [`Wrap`] says.
    ///
    /// # Panics
    /// If it is one more than it was made for.
    pub(crate) fn close(&mut self, datagram: &mut [u8]) {
        match self {
            Self::Bare => {}
            Self::Clear(vni) => datagram[..vxlan::HEADER_LEN].copy_from_slice(&vxlan::emit(*vni)),
            Self::Sealed(vni, seals) => {
                datagram[envelope::HEADER_LEN..][..vxlan::HEADER_LEN].copy_from_slice(&vxlan::emit(*vni));
                seals.seal(datagram);
            }
        }
    }
}

/// The way of a network's frames to one of its peers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tunnel<'t> {
    peer: VtepId,
    to: SocketAddr,
    vni: Vni,
    wrap: Wrap<'t>,
    frame_max: usize,
}

impl<'t> Tunnel<'t> {
    /// As the network demands.
    ///
    /// # Errors
    /// The peer is not in the tables, or the network is sealed and there is no key for the peer.
    pub(crate) fn find(
        topology: &'t Topology,
        network: &Network,
        vni: Vni,
        peer: VtepId,
    ) -> Result<Self, DropReason> {
        let vtep = topology.peers.peer(peer).ok_or(DropReason::UnknownPeer)?;
        let wrap = match network.protection {
            Protection::Plain => Wrap::Clear(vni),
            Protection::Sealed => Wrap::Sealed(vni, vtep.sealer.as_deref().ok_or(DropReason::NoSession)?),
        };
        let to = vtep.address;
        let datagram_max = match vtep.path_mtu.get() {
            Some(mtu) => usize::from(mtu).saturating_sub(outer_headers(to).into()).min(RUN_BYTES_MAX),
            None => RUN_BYTES_MAX,
        };
        Ok(Self { peer, to, vni, wrap, frame_max: datagram_max.saturating_sub(wrap.overhead()) })
    }

    /// Bytes of the longest frame that its path carries, as far as is known.
    pub(crate) fn frame_max(&self) -> usize {
        self.frame_max
    }

    /// What goes around its frames.
    pub(crate) fn wrap(&self) -> Wrap<'t> {
        self.wrap
    }

    /// Whether a datagram for this peer is one for every peer of the network, because it is in clear.
    pub(crate) fn shares_datagrams(&self) -> bool {
        match self.wrap {
            Wrap::Bare | Wrap::Clear(_) => true,
            Wrap::Sealed(..) => false,
        }
    }

    /// Names wrapped frames for this peer; see [`Transmit`].
    pub(crate) fn transmit(
        &self,
        entropy: u32,
        packet: usize,
        range: Range<usize>,
        segment: usize,
    ) -> Transmit {
        let &Self { peer, to, vni, wrap, .. } = self;
        let payload = Payload::Frames(vni);
        Transmit {
            peer,
            to,
            payload,
            overhead: wrap.overhead(),
            entropy,
            packet,
            range,
            segment,
            heads: None,
        }
    }

    /// Names what has been named for another peer of the network, where they share it.
    ///
    /// # Errors
    /// [`DropReason::TooBig`] for this peer's path.
    pub(crate) fn transmit_again(&self, other: &Transmit) -> Result<Transmit, DropReason> {
        debug_assert!(self.shares_datagrams(), "sealed for another peer");
        if other.segment - other.overhead > self.frame_max {
            return Err(DropReason::TooBig);
        }
        Ok(Transmit { peer: self.peer, to: self.to, ..other.clone() })
    }
}

/// The way of probes to a peer: sealed if there is a key for it, whatever its networks are, else in clear.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProbeTunnel<'t> {
    peer: VtepId,
    to: SocketAddr,
    sealer: Option<&'t Sealer>,
}

impl<'t> ProbeTunnel<'t> {
    /// As the peer's keys are.
    pub(crate) fn find(peer: VtepId, vtep: &'t Vtep) -> Self {
        Self { peer, to: vtep.address, sealer: vtep.sealer.as_deref() }
    }

    /// Bytes before the probe.
    pub(crate) fn before(&self) -> usize {
        if self.sealer.is_some() { envelope::HEADER_LEN } else { 0 }
    }

    /// Bytes behind the probe.
    pub(crate) fn behind(&self) -> usize {
        if self.sealer.is_some() { envelope::TAG_LEN } else { 0 }
    }

    /// Bytes of its IP packet besides the probe.
    pub(crate) fn around(&self) -> u16 {
        outer_headers(self.to) + if self.sealer.is_some() { ENVELOPE } else { 0 }
    }

    /// Seals a datagram with that room around the probe, where it is to be.
    ///
    /// # Errors
    /// [`DropReason::KeyUsedUp`].
    pub(crate) fn close(&self, datagram: &mut [u8]) -> Result<(), DropReason> {
        let Some(sealer) = self.sealer else { return Ok(()) };
        sealer.seal(datagram).map_err(|_| DropReason::KeyUsedUp)
    }

    /// Names a closed datagram for the peer; see [`Transmit`].
    pub(crate) fn transmit(
        &self,
        payload: Payload,
        entropy: u32,
        packet: usize,
        range: Range<usize>,
    ) -> Transmit {
        let &Self { peer, to, .. } = self;
        let overhead = self.before() + self.behind();
        let segment = range.len();
        Transmit { peer, to, payload, overhead, entropy, packet, range, segment, heads: None }
    }
}

/// A VXLAN packet, or a probe, from the underlay: of whom, and how it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'t> {
    topology: &'t Topology,
    peer: VtepId,
    vtep: &'t Vtep,
    came: Protection,
}

/// Why a datagram is nobody's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal<'t> {
    /// The peer that it claims to be of, as far as it does.
    pub(crate) claimed: Option<&'t Vtep>,
    /// What it died of.
    pub(crate) reason: DropReason,
}

impl<'t> Arrival<'t> {
    /// One that came as it is: its peer is known by the outer source address.
    ///
    /// # Errors
    /// The address is no peer's.
    pub(crate) fn clear(topology: &'t Topology, from: SocketAddr) -> Result<Self, Refusal<'t>> {
        let known = if from == topology.local { None } else { topology.peers.find(from) };
        let Some((peer, vtep)) = known.and_then(|id| Some((id, topology.peers.peer(id)?))) else {
            let own = from.ip() == topology.local.ip();
            let reason = if own { DropReason::OwnDatagram } else { DropReason::UnknownPeer };
            return Err(Refusal { claimed: None, reason });
        };
        Ok(Self { topology, peer, vtep, came: Protection::Plain })
    }

    /// Opens a sealed one in place and gives where in it the packet is. Its peer is known by the key, wherever
    /// it came from.
    ///
    /// # Errors
    /// No key of ours opens it, or it has been opened before.
    pub(crate) fn open(
        topology: &'t Topology,
        datagram: &mut [u8],
    ) -> Result<(Self, Range<usize>), Refusal<'t>> {
        let refuse = |claimed, reason| Refusal { claimed, reason };
        let header = Header::parse(datagram).map_err(|_| refuse(None, DropReason::SealedTruncated))?;
        let found = topology.peers.session(header.session);
        let found = found.and_then(|session| Some((session, topology.peers.peer(session.peer)?)));
        let (session, vtep) = found.ok_or_else(|| refuse(None, DropReason::UnknownSession))?;
        let range = session.open(datagram).map_err(|error| match error {
            OpenError::Failed => refuse(Some(vtep), DropReason::Forged),
            OpenError::Replayed => refuse(Some(vtep), DropReason::Replayed),
        })?;
        Ok((Self { topology, peer: session.peer, vtep, came: Protection::Sealed }, range))
    }

    /// Who sent it.
    pub(crate) fn peer(&self) -> (VtepId, &'t Vtep) {
        (self.peer, self.vtep)
    }

    /// The way of probes back to the peer, if it may have sent this one so: with a session nothing is believed
    /// that anybody could have sent.
    ///
    /// # Errors
    /// It came in clear and the peer has a session, or sealed and there is no key to answer with.
    pub(crate) fn probes(&self) -> Result<ProbeTunnel<'t>, DropReason> {
        let tunnel = ProbeTunnel::find(self.peer, self.vtep);
        match (tunnel.sealer, self.came) {
            (Some(_), Protection::Sealed) | (None, Protection::Plain) => Ok(tunnel),
            (Some(_), Protection::Plain) => Err(DropReason::ClearRefused),
            (None, Protection::Sealed) => Err(DropReason::NoSession),
        }
    }

    /// The network that it is for, if it may enter there.
    ///
    /// # Errors
    /// We are not in that network, or the peer isn't, or it came in clear into a sealed one, or the other way round.
    pub(crate) fn enter(&self, vni: Vni) -> Result<&'t Network, DropReason> {
        let network = self.topology.networks.get(&vni).filter(|network| !network.ports.is_empty());
        let network = network.ok_or(DropReason::UnknownVni)?;
        if !network.peers.contains(&self.peer) {
            return Err(DropReason::PeerNotInVni);
        }
        match (network.protection, self.came) {
            (Protection::Plain, Protection::Plain) | (Protection::Sealed, Protection::Sealed) => Ok(network),
            (Protection::Sealed, Protection::Plain) => Err(DropReason::ClearRefused),
            (Protection::Plain, Protection::Sealed) => Err(DropReason::SealedRefused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn super_frames_are_bounded_where_that_saves_a_message() {
        assert_eq!(Protection::Plain.super_frame_max(1_450), Some(62_201), "44 segments");
        assert_eq!(Protection::Sealed.super_frame_max(1_420), Some(60_851), "44 segments");
        assert_eq!(Protection::Plain.super_frame_max(8_950), None, "8 segments would be over 64 KiB");
        assert_eq!(Protection::Plain.super_frame_max(68), None, "no room for TCP");
    }

    #[test]
    fn the_mtu_leaves_room_for_all_that_goes_around_a_packet() {
        let (v4, v6) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]));
        for (protection, underlay, path, want) in [
            (Protection::Plain, v4, 1_500, 1_450),
            (Protection::Plain, v6, 1_500, 1_430),
            (Protection::Sealed, v4, 1_500, 1_420),
            (Protection::Sealed, v6, 1_500, 1_400),
            (Protection::Sealed, v4, 9_000, 8_920),
            (Protection::Sealed, v4, 77, 0),
        ] {
            assert_eq!(protection.mtu(underlay, path), want, "{protection:?} over {underlay}, {path} bytes");
        }
    }
}
