//! Messages with descriptors between processes of this machine: a lab and other terminals, a daemon and its envoys.
//!
//! ```text
//!  0              4
//! | length (u32) | JSON of that many bytes |
//! ```
//!
//! Big-endian. Descriptors travel with the length's bytes (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of a message: the listing of the largest lab takes some 20 KiB.
pub const MESSAGE_MAX: usize = 256 * 1024;
/// Descriptors of a message: one for each kind of namespace, or for each queue of a device.
pub const DESCRIPTORS_MAX: usize = 64;

/// Why no message came of what was received, or none could be sent.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The connection ended within or before a message.
    #[error("the connection ended")]
    Ended,
    /// A message longer than [`MESSAGE_MAX`].
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// More descriptors than [`DESCRIPTORS_MAX`].
    #[error("too many descriptors")]
    Descriptors,
    /// Not the JSON that was expected.
    #[error("a message that makes no sense: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The socket failed.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for CodecError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Ended } else { Self::Io(error) }
    }
}

/// Sends a message with descriptors.
///
/// # Errors
/// If it is too long, or the socket fails. The connection is of no use then.
pub fn send(
    stream: &UnixStream,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), CodecError> {
    let body = serde_json::to_vec(message)?;
    if body.len() > MESSAGE_MAX {
        return Err(CodecError::TooLong(body.len()));
    }
    let length = u32::try_from(body.len()).expect("the limit is lower").to_be_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors));
    // The space is rounded up, so there may be room for one too many.
    if !fits || descriptors.len() > DESCRIPTORS_MAX {
        return Err(CodecError::Descriptors);
    }
    let sent = sendmsg(stream.as_fd(), &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL)
        .map_err(|errno| CodecError::Io(errno.into()))?;
    let mut stream = stream;
    stream.write_all(&length[sent..])?;
    stream.write_all(&body)?;
    Ok(())
}

/// Receives a message and its descriptors. The stream's read timeout, if it has one, holds for each part.
///
/// # Errors
/// See [`CodecError`]. The connection is of no use then; descriptors that came are closed.
pub fn receive<T: DeserializeOwned>(stream: &UnixStream) -> Result<(T, Vec<OwnedFd>), CodecError> {
    let mut length = [0; 4];
    let (received, descriptors) = receive_first(stream, &mut length)?;
    let mut stream = stream;
    stream.read_exact(&mut length[received..])?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MESSAGE_MAX {
        return Err(CodecError::TooLong(length));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((serde_json::from_slice(&body)?, descriptors))
}

/// Receives at least a byte, with which the descriptors come.
fn receive_first(stream: &UnixStream, into: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), CodecError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(stream.as_fd(), &mut [IoSliceMut::new(into)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(|errno| CodecError::Io(errno.into()))?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Err(CodecError::Ended);
    }
    // The kernel has closed those that there was no room for.
    let cut = received.flags.contains(rustix::net::ReturnFlags::CTRUNC);
    if cut || descriptors.len() > DESCRIPTORS_MAX {
        return Err(CodecError::Descriptors);
    }
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use super::*;
    use crate::lab::control::{Reply, Request};
    use crate::namespace::visit::Kind;

    /// What a receiver makes of bytes after which the connection ends.
    fn received(bytes: &[u8]) -> Result<Request, CodecError> {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(bytes).unwrap();
        a.shutdown(Shutdown::Write).unwrap();
        receive(&b).map(|(message, _)| message)
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&length, body].concat()
    }

    #[test]
    fn requests_and_replies_come_as_they_went() {
        let (a, b) = UnixStream::pair().unwrap();
        for request in [Request::List, Request::Enter { target: "n1a".into() }, Request::Down] {
            send(&a, &request, &[]).unwrap();
            assert_eq!(receive::<Request>(&b).unwrap().0, request);
        }
        let reply = Reply::Entrance { kinds: vec![Kind::User, Kind::Net], daemon: None };
        send(&a, &reply, &[]).unwrap();
        assert_eq!(receive::<Reply>(&b).unwrap().0, reply);
    }

    #[test]
    fn descriptors_come_along_open() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        send(&a, &Request::List, &[far.as_fd(), a.as_fd()]).unwrap();
        drop(far);
        let (_, descriptors) = receive::<Request>(&b).unwrap();
        assert_eq!(descriptors.len(), 2);
        near.write_all(b"x").unwrap();
        let mut far = UnixStream::from(descriptors.into_iter().next().unwrap());
        let mut byte = [0];
        far.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn too_many_descriptors_are_refused_by_both_sides() {
        let (a, b) = UnixStream::pair().unwrap();
        let many = vec![a.as_fd(); DESCRIPTORS_MAX + 1];
        assert!(matches!(send(&a, &Request::List, &many), Err(CodecError::Descriptors)));
        // A sender with a larger buffer than ours.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
        let bytes = framed(br#"{"request":"list"}"#);
        sendmsg(a.as_fd(), &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
        assert!(matches!(receive::<Request>(&b), Err(CodecError::Descriptors)));
    }

    #[test]
    fn every_truncation_is_an_end() {
        let whole = framed(br#"{"request":"enter","target":"n1a"}"#);
        for len in 0..whole.len() {
            assert!(matches!(received(&whole[..len]), Err(CodecError::Ended)), "{len} bytes");
        }
        assert!(received(&whole).is_ok());
    }

    #[test]
    fn hostile_messages_are_refused() {
        let long = u32::try_from(MESSAGE_MAX + 1).unwrap().to_be_bytes();
        assert!(matches!(received(&long), Err(CodecError::TooLong(_))));
        assert!(matches!(received(&[0xff; 64]), Err(CodecError::TooLong(_))));
        let deep = "[".repeat(100_000);
        for body in [
            "",
            "null",
            "{}",
            r#"{"request":"format"}"#,
            r#"{"request":"enter"}"#,
            r#"{"request":"enter","target":7}"#,
            r#"{"request":"list"} {"request":"down"}"#,
            "\u{0}\u{ffff}",
            &deep,
        ] {
            let start: String = body.chars().take(40).collect();
            assert!(matches!(received(&framed(body.as_bytes())), Err(CodecError::Malformed(_))), "{start}");
        }
        assert!(matches!(received(&framed(&[0xc3, 0x28])), Err(CodecError::Malformed(_))), "not UTF-8");
    }

    #[test]
    fn a_message_that_is_too_long_is_not_sent() {
        let (a, _b) = UnixStream::pair().unwrap();
        let request = Request::Enter { target: "x".repeat(MESSAGE_MAX) };
        assert!(matches!(send(&a, &request, &[]), Err(CodecError::TooLong(_))));
    }
}
