//! Headers and framing: what is accepted comes out again as it was.

use vswitchd_switch::offload;
use vswitchd_switch::wire::ethernet::{HEADER_LEN, Header, TAG_LEN, TAGS_MAX};
use vswitchd_switch::wire::stream::{Deframer, FRAME_MAX};
use vswitchd_switch::wire::virtio::{self, Checksum, Offload};
use vswitchd_switch::wire::vxlan as vxlan_header;

/// An Ethernet frame's header lies within the frame and says what stands there.
pub fn ethernet(data: &[u8]) {
    let Ok(header) = Header::parse(data) else {
        assert!(data.len() < HEADER_LEN + TAGS_MAX * TAG_LEN, "only a truncated header is refused");
        return;
    };
    assert!(header.payload <= data.len());
    assert_eq!(header.destination.0, data[..6]);
    assert_eq!(header.source.0, data[6..12]);
    assert_eq!(header.ether_type.0.to_be_bytes(), data[header.payload - 2..header.payload]);
    assert_eq!((header.payload - HEADER_LEN) % TAG_LEN, 0);
}

/// A VXLAN header that is accepted is the one that we would have written.
pub fn vxlan(data: &[u8]) {
    if let Ok(vni) = vxlan_header::parse(data) {
        assert_eq!(vxlan_header::emit(vni), data[..vxlan_header::HEADER_LEN]);
    }
}

/// A virtio-net header means the same when written again, and its offsets are safe to use on the frame behind it.
pub fn virtio(data: &[u8]) {
    let (header, frame) = data.split_at(data.len().min(virtio::HEADER_LEN));
    let Ok(offload) = Offload::parse(header, frame.len()) else {
        return;
    };
    assert_eq!(Offload::parse(&offload.emit(), frame.len()), Ok(offload));
    if let Checksum::Partial { start, offset } = offload.checksum {
        let mut frame = frame.to_vec();
        offload::finish_checksum(&mut frame, start, offset).expect("a parsed offset lies within the frame");
    }
    assert!(offload.gso.is_none_or(|gso| gso.size > 0));
}

/// A stream gives the same frames however it is cut, and ends where a length can't be. The first byte says how it
/// is cut.
pub fn stream(data: &[u8]) {
    let Some((&step, stream)) = data.split_first() else { return };
    let (mut deframer, mut rest, mut expected) = (Deframer::default(), stream, stream);
    let mut uneven = (1..=5).cycle();
    while !rest.is_empty() {
        let room = deframer.room();
        assert!(room.len() > FRAME_MAX, "there is room for a whole frame");
        // With a zero, all at once.
        let piece = if step == 0 { usize::MAX } else { usize::from(step) * uneven.next().expect("a cycle") };
        let len = piece.min(rest.len()).min(room.len());
        room[..len].copy_from_slice(&rest[..len]);
        deframer.filled(len);
        rest = &rest[len..];
        loop {
            let has = deframer.has_frame();
            match deframer.next_frame() {
                Ok(Some(frame)) => {
                    assert!(has);
                    let announced = expected.split_off(..4).expect("a frame's length stands before it");
                    assert_eq!(announced, u32::try_from(frame.len()).expect("it is short").to_be_bytes());
                    assert_eq!(Some(frame), expected.split_off(..frame.len()));
                }
                Ok(None) => break assert!(!has),
                Err(_) => {
                    assert!(has);
                    let announced = expected.first_chunk().expect("a length");
                    return assert!(u32::from_be_bytes(*announced) > 65_557);
                }
            }
        }
    }
    // What is left is part of a frame.
    let whole = expected.split_first_chunk().map(|(&len, rest)| (u32::from_be_bytes(len), rest));
    assert!(whole.is_none_or(|(len, rest)| len <= 65_557 && (rest.len() as u64) < u64::from(len)));
}
