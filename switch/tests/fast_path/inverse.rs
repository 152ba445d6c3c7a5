//! Cutting gives what a kernel would have sent, and joining gives back what was cut.

use proptest::collection::vec;
use proptest::prelude::*;
use vswitchd_switch::segment::Segmenter;
use vswitchd_switch::wire::ethernet::Header;
use vswitchd_switch::wire::vxlan;

use crate::host::{ALL, Host, NONE, cut, vni};
use crate::packet::{ACK, PSH, Packet, Protocol, SIZE_MAX, packets};

/// Pieces of a joined frame at most.
const PIECES_MAX: usize = 64;

/// Super-frames and the size that they are to be cut to: up to 64 segments and a few over.
fn super_frames() -> impl Strategy<Value = (Packet, u16)> {
    let payload = vec(any::<u8>(), 1..9_000);
    (packets(payload), prop_oneof![1..SIZE_MAX, 100..180u16]).prop_map(|(packet, size)| {
        let least = packet.payload.len().div_ceil(2 * PIECES_MAX);
        let least = u16::try_from(least).expect("payloads are short");
        (packet, size.max(least))
    })
}

fn is_joined(packet: &Packet) -> bool {
    match packet.transport {
        Protocol::Tcp { flags, .. } => flags & !PSH == ACK,
        Protocol::Udp { .. } => true,
    }
}

proptest! {
    /// etherparse knows what each segment is, to the last byte.
    #[test]
    fn cutting_gives_what_a_kernel_would_have_sent((packet, size) in super_frames()) {
        let (frame, offload) = packet.super_frame(size);
        let header = Header::parse(&frame).unwrap();
        let segments = Segmenter::new(&frame, offload, &header).unwrap();
        let want = packet.segments(size);
        prop_assert_eq!(segments.len(), want.len());
        for (index, want) in want.iter().enumerate() {
            let mut bytes = vec![0xaa; segments.segment_len(index)];
            segments.write(index, &mut bytes);
            prop_assert_eq!(&bytes, &want.frame(), "segment {} of {}", index, segments.len());
        }
    }

    /// A sender's super-frame crosses the underlay as datagrams, and is the receiver's again: to the last byte, where
    /// it has flags that may be joined and no more segments than a frame takes.
    #[test]
    fn joining_gives_back_what_was_cut((packet, size) in super_frames()) {
        let whole = packet.super_frame(size);
        let datagrams: Vec<_> =
            Host::sending(ALL).egress(std::slice::from_ref(&whole)).into_iter().map(|(_, bytes)| bytes).collect();
        let want: Vec<_> = packet.segments(size).iter().map(Packet::frame).collect();
        let sent: Vec<_> = want.iter().map(|frame| [&vxlan::emit(vni())[..], frame].concat()).collect();
        prop_assert_eq!(&datagrams, &sent);

        let delivered = Host::receiving(ALL).ingress(&[&datagrams]);
        let again: Vec<_> = delivered.iter().flat_map(cut).collect();
        prop_assert_eq!(&again, &want);
        if is_joined(&packet) {
            prop_assert_eq!(delivered.len(), want.len().div_ceil(PIECES_MAX));
            if (2..=PIECES_MAX).contains(&want.len()) {
                prop_assert_eq!(&delivered[0], &whole);
            }
        }
        // A port that takes nothing is given the segments themselves.
        let plain = Host::receiving(NONE).ingress(&[&datagrams]).into_iter().map(|(frame, _)| frame);
        let plain: Vec<_> = plain.collect();
        prop_assert_eq!(plain, want);
    }
}
