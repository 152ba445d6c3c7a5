//! What goes over a link between the node that has a client and the node that has a task.
//!
//! ```text
//!  0      1           3
//! | kind | length    | so many bytes                                              |
//! ```
//!
//! Length in two bytes, big endian. Kinds, and what they hold:
//!
//! | | kind | from | holds |
//! |---|---|---|---|
//! | 0 | open | the client's node | [`Head`] |
//! | 1 | opened | the task's node | nothing: the task has taken the connection |
//! | 2 | refused | the task's node | nothing: it has not, and the link waits for the next |
//! | 3 | data | both | 1 to [`DATA_MAX`] bytes of the stream |
//! | 4 | end | both | nothing: this side sends no more |
//! | 5 | reset | both | nothing: the connection is cut off |
//! | 6 | datagram | the client's node | its flow's number in eight bytes, length of the head in one, [`Head`], payload |
//! | 7 | answer | the task's node | a flow's number, payload |
//!
//! A connection is over when each side has said `end` or `reset` and heard one of them; who hears `reset` and has said neither says
//! it too. Then the link takes the next `open`. A `reset` may come behind an `end`, and so behind the connection: whoever waits
//! for `open`, `opened` or `refused` passes over it. A link on which the first word is `datagram` has no other from then on, and
//! `answer` the other way.

use std::net::{IpAddr, SocketAddr};

/// Bytes before those that a frame holds.
pub(super) const HEADER_LEN: usize = 3;
/// Bytes that a frame holds at most: two of TLS's records.
pub(super) const DATA_MAX: usize = 32 << 10;
/// Bytes of an endpoint's id at most.
const ENDPOINT_MAX: usize = 64;
/// Bytes of a head at most: see [`Head`].
const HEAD_MAX: usize = 1 + 16 + 2 + 2 + ENDPOINT_MAX;
/// Bytes of a flow's number.
const FLOW_LEN: usize = 8;
/// Bytes of a datagram's payload at most: as many as have room beside all else.
pub(super) const PAYLOAD_MAX: usize = 65_535 - FLOW_LEN - 1 - HEAD_MAX;
const V4: u8 = 4;
const V6: u8 = 6;

/// A frame's first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Open,
    Opened,
    Refused,
    Data,
    End,
    Reset,
    Datagram,
    Answer,
}

/// Bytes that no member sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Nonsense {
    #[error("no kind of frame: {0}")]
    Kind(u8),
    #[error("a frame of {0} bytes")]
    Length(u16),
    #[error("no head of a connection")]
    Head,
    #[error("a frame out of turn")]
    Turn,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Open,
        Self::Opened,
        Self::Refused,
        Self::Data,
        Self::End,
        Self::Reset,
        Self::Datagram,
        Self::Answer,
    ];

    /// Whether frames of it hold something.
    fn fits(self, len: usize) -> bool {
        match self {
            Self::Open => (1..=HEAD_MAX).contains(&len),
            Self::Data => (1..=DATA_MAX).contains(&len),
            Self::Datagram => (1..=FLOW_LEN + 1 + HEAD_MAX + PAYLOAD_MAX).contains(&len),
            Self::Answer => (FLOW_LEN..=FLOW_LEN + PAYLOAD_MAX).contains(&len),
            Self::Opened | Self::Refused | Self::End | Self::Reset => len == 0,
        }
    }
}

/// What a frame begins with, so that it holds so many bytes.
pub(crate) fn header(kind: Kind, len: usize) -> [u8; HEADER_LEN] {
    let number = Kind::ALL.iter().position(|&known| known == kind).and_then(|at| u8::try_from(at).ok());
    let len = u16::try_from(len).ok().filter(|&len| kind.fits(len.into()));
    let [high, low] = len.expect("frames are cut to their size").to_be_bytes();
    [number.expect("there are few kinds"), high, low]
}

/// The same, read: the kind, and how many bytes it holds.
pub(crate) fn parse_header(bytes: [u8; HEADER_LEN]) -> Result<(Kind, usize), Nonsense> {
    let [number, high, low] = bytes;
    let kind = *Kind::ALL.get(usize::from(number)).ok_or(Nonsense::Kind(number))?;
    let len = u16::from_be_bytes([high, low]);
    if kind.fits(len.into()) { Ok((kind, len.into())) } else { Err(Nonsense::Length(len)) }
}

/// Whether it can be the id of an endpoint: 1 to 64 graphic ASCII characters. Keys of gossip's records may be anything.
pub(super) fn is_endpoint_id(id: &str) -> bool {
    (1..=ENDPOINT_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whom a connection is from, and for.
///
/// ```text
///  0        1           1 + n   3 + n    5 + n
/// | family | address   | port  | target | endpoint's id |
/// ```
///
/// Family 4 or 6, address of the client in n = 4 or 16 bytes, its port and the task's in two bytes each, big endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The client.
    pub(crate) client: SocketAddr,
    /// The task's port.
    pub(crate) target: u16,
    /// The id of the task's endpoint: [`is_endpoint_id`].
    pub(crate) endpoint: String,
}

impl Head {
    /// As bytes.
    pub(crate) fn emit(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(21 + self.endpoint.len());
        match self.client.ip() {
            IpAddr::V4(address) => {
                bytes.push(V4);
                bytes.extend(address.octets());
            }
            IpAddr::V6(address) => {
                bytes.push(V6);
                bytes.extend(address.octets());
            }
        }
        bytes.extend(self.client.port().to_be_bytes());
        bytes.extend(self.target.to_be_bytes());
        bytes.extend(self.endpoint.as_bytes());
        bytes
    }

    /// And back.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Nonsense> {
        let (&family, rest) = bytes.split_first().ok_or(Nonsense::Head)?;
        let (address, rest) = match family {
            V4 => rest.split_first_chunk::<4>().map(|(octets, rest)| (IpAddr::from(*octets), rest)),
            V6 => rest.split_first_chunk::<16>().map(|(octets, rest)| (IpAddr::from(*octets), rest)),
            _ => None,
        }
        .ok_or(Nonsense::Head)?;
        let (&[p0, p1, t0, t1], id) = rest.split_first_chunk::<4>().ok_or(Nonsense::Head)?;
        let endpoint = std::str::from_utf8(id).map_err(|_| Nonsense::Head)?;
        let target = u16::from_be_bytes([t0, t1]);
        if !is_endpoint_id(endpoint) || target == 0 {
            return Err(Nonsense::Head);
        }
        let client = SocketAddr::new(address, u16::from_be_bytes([p0, p1]));
        Ok(Self { client, target, endpoint: endpoint.into() })
    }
}

/// A frame with a client's datagram. None of one that has no room: of more than [`PAYLOAD_MAX`] bytes, or of a longer head.
pub(super) fn parcel(flow: u64, head: &Head, payload: &[u8]) -> Option<Vec<u8>> {
    let head = head.emit();
    if head.len() > HEAD_MAX || payload.len() > PAYLOAD_MAX {
        return None;
    }
    let head_len = u8::try_from(head.len()).ok()?;
    let mut frame = header(Kind::Datagram, FLOW_LEN + 1 + head.len() + payload.len()).to_vec();
    frame.extend(flow.to_be_bytes());
    frame.push(head_len);
    frame.extend(head);
    frame.extend(payload);
    Some(frame)
}

/// What is in one.
pub(crate) fn parse_parcel(bytes: &[u8]) -> Result<(u64, Head, &[u8]), Nonsense> {
    let (flow, rest) = parse_answer(bytes)?;
    let (&head_len, rest) = rest.split_first().ok_or(Nonsense::Head)?;
    let (head, payload) = rest.split_at_checked(head_len.into()).ok_or(Nonsense::Head)?;
    if payload.len() > PAYLOAD_MAX {
        return Err(Nonsense::Head);
    }
    Ok((flow, Head::parse(head)?, payload))
}

/// A frame with an answer. None of one of more than [`PAYLOAD_MAX`] bytes.
pub(super) fn answer(flow: u64, payload: &[u8]) -> Option<Vec<u8>> {
    if payload.len() > PAYLOAD_MAX {
        return None;
    }
    let head = header(Kind::Answer, FLOW_LEN + payload.len());
    Some([&head[..], &flow.to_be_bytes(), payload].concat())
}

/// What is in one.
pub(crate) fn parse_answer(bytes: &[u8]) -> Result<(u64, &[u8]), Nonsense> {
    let (flow, payload) = bytes.split_first_chunk::<FLOW_LEN>().ok_or(Nonsense::Head)?;
    Ok((u64::from_be_bytes(*flow), payload))
}

/// What bytes of a member become, for fuzzing: whatever is read is written as the same.
pub(crate) fn fuzz(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<HEADER_LEN>() else { return };
    let Ok((kind, len)) = parse_header(*head) else { return };
    assert_eq!(header(kind, len), *head);
    let Some(bytes) = rest.get(..len) else { return };
    match kind {
        Kind::Open => {
            if let Ok(head) = Head::parse(bytes) {
                assert_eq!(head.emit(), bytes);
            }
        }
        Kind::Datagram => {
            if let Ok((flow, head, payload)) = parse_parcel(bytes) {
                assert_eq!(parcel(flow, &head, payload).as_deref(), data.get(..HEADER_LEN + len));
            }
        }
        Kind::Answer => {
            let (flow, payload) = parse_answer(bytes).expect("a flow's number is there");
            assert_eq!(answer(flow, payload).as_deref(), data.get(..HEADER_LEN + len));
        }
        Kind::Opened | Kind::Refused | Kind::Data | Kind::End | Kind::Reset => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_as_they_went_and_others_are_refused() {
        for (kind, len) in [
            (Kind::Open, 1),
            (Kind::Opened, 0),
            (Kind::Refused, 0),
            (Kind::Data, DATA_MAX),
            (Kind::End, 0),
            (Kind::Reset, 0),
        ] {
            assert_eq!(parse_header(header(kind, len)), Ok((kind, len)));
        }
        assert_eq!(header(Kind::Data, 258), [3, 1, 2]);
        assert_eq!(parse_header([8, 0, 0]), Err(Nonsense::Kind(8)));
        for (bytes, len) in [([3, 0, 0], 0), ([3, 0x80, 1], 0x8001), ([5, 0, 1], 1), ([0, 0, 0], 0)] {
            assert_eq!(parse_header(bytes), Err(Nonsense::Length(len)));
        }
    }

    #[test]
    fn datagrams_come_as_they_went() {
        let head =
            Head { client: "[2001:db8::1]:4000".parse().unwrap(), target: 53, endpoint: "0abc".into() };
        for len in [0, 1, PAYLOAD_MAX] {
            let payload = vec![7; len];
            let frame = parcel(u64::MAX, &head, &payload).unwrap();
            let (start, bytes) = frame.split_first_chunk::<HEADER_LEN>().unwrap();
            assert_eq!(parse_header(*start), Ok((Kind::Datagram, bytes.len())));
            assert_eq!(parse_parcel(bytes), Ok((u64::MAX, head.clone(), &payload[..])));
            fuzz(&frame);
            let frame = answer(9, &payload).unwrap();
            assert_eq!(parse_answer(&frame[HEADER_LEN..]), Ok((9, &payload[..])));
            fuzz(&frame);
        }
        let frame = parcel(1, &head, &[]).unwrap();
        for len in HEADER_LEN..frame.len() {
            assert!(parse_parcel(&frame[HEADER_LEN..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn what_has_no_room_is_no_frame() {
        let client = "[2001:db8::1]:4000".parse().unwrap();
        let head = |len| Head { client, target: 53, endpoint: "x".repeat(len) };
        let too_much = vec![7; PAYLOAD_MAX + 1];
        assert!(parcel(1, &head(ENDPOINT_MAX), &too_much[1..]).is_some());
        assert!(parcel(1, &head(ENDPOINT_MAX), &too_much).is_none() && answer(1, &too_much).is_none());
        assert!([ENDPOINT_MAX + 1, 255].into_iter().all(|len| parcel(1, &head(len), &[]).is_none()));
    }

    #[test]
    fn ids_are_short_and_graphic() {
        let (longest, longer) = ("x".repeat(ENDPOINT_MAX), "x".repeat(ENDPOINT_MAX + 1));
        assert!(["0", "0abc", longest.as_str()].into_iter().all(is_endpoint_id));
        assert!(!["", "a b", "a\n", "\u{e9}", longer.as_str()].into_iter().any(is_endpoint_id));
    }

    #[test]
    fn heads_come_as_they_went_and_no_part_of_one_is_one() {
        for client in ["192.0.2.1:4000", "[2001:db8::1]:4000"] {
            let head = Head { client: client.parse().unwrap(), target: 80, endpoint: "0abc".into() };
            let bytes = head.emit();
            assert_eq!(Head::parse(&bytes), Ok(head));
            for len in 0..bytes.len() - 3 {
                assert_eq!(Head::parse(&bytes[..len]), Err(Nonsense::Head), "{len}");
            }
            for (at, byte) in [(0, 5), (bytes.len() - 1, b'\n'), (bytes.len() - 1, 0xff)] {
                let mut bytes = bytes.clone();
                bytes[at] = byte;
                assert_eq!(Head::parse(&bytes), Err(Nonsense::Head));
            }
            let long = [&bytes[..], &[b'x'; ENDPOINT_MAX]].concat();
            assert_eq!(Head::parse(&long), Err(Nonsense::Head));
        }
    }
}
