//! Two rtnetlink requests (RFC 3549, rtnetlink(7)) for which there is no ioctl: a link moved to another namespace and
//! renamed on the way, and how long its super-frames may be.
//!
//! A blocking exchange of two short messages, written out: the crates for it (message, codec, socket) would be three more
//! dependencies of the data plane, for some fifty bytes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::c_int;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// `struct ifinfomsg`.
const LINK_LEN: usize = 16;

/// Moves link `index` of the calling thread's namespace to `netns`, where its name is `name`.
pub(super) fn move_link(index: c_int, netns: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let mut message = change(index);
    attribute(&mut message, libc::IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
    attribute(&mut message, libc::IFLA_IFNAME, &[name, &[0]].concat());
    exchange(message)
}

/// Bounds the super-frames that the kernel gives link `index`, in bytes (`gso_max_size` of `ip link`).
pub(super) fn set_super_frame_max(index: c_int, bytes: u32) -> io::Result<()> {
    let mut message = change(index);
    attribute(&mut message, libc::IFLA_GSO_MAX_SIZE, &bytes.to_ne_bytes());
    exchange(message)
}

/// Sends a request, whose length is still to be filled in, to the kernel and waits for its answer.
fn exchange(mut message: Vec<u8>) -> io::Result<()> {
    let len = u32::try_from(message.len()).expect("a short message");
    message[..4].copy_from_slice(&len.to_ne_bytes());
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // An unbound netlink socket sends to the kernel.
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 512];
    let (len, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    match error_code(&answer[..len]) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `RTM_NEWLINK` for an existing link, to be acknowledged; its length and attributes are to follow.
fn change(index: c_int) -> Vec<u8> {
    let mut message = vec![0; HEADER_LEN + LINK_LEN];
    message[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK).expect("five");
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message[HEADER_LEN + 4..HEADER_LEN + 8].copy_from_slice(&index.to_ne_bytes());
    message
}

/// `struct rtattr`, padded to four bytes.
fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).expect("a short value");
    message.extend(len.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// The code of an `NLMSG_ERROR`: 0 or a negative errno.
fn error_code(answer: &[u8]) -> Option<c_int> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let code = answer.get(HEADER_LEN..)?.first_chunk()?;
    (c_int::from(kind) == libc::NLMSG_ERROR).then(|| c_int::from_ne_bytes(*code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_laid_out_as_rtnetlink_has_it() {
        let mut message = change(7);
        attribute(&mut message, libc::IFLA_IFNAME, b"eth0\0");
        assert_eq!(message.len(), 16 + 16 + 12);
        assert_eq!(message[20..24], 7i32.to_ne_bytes());
        assert_eq!(message[32..36], [9u16.to_ne_bytes(), libc::IFLA_IFNAME.to_ne_bytes()].concat());
        assert_eq!(&message[36..44], b"eth0\0\0\0\0");
    }

    #[test]
    fn a_link_that_is_not_there_is_an_error() {
        let netns =
            rustix::fs::open("/proc/self/ns/net", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
        let error = move_link(i32::MAX, std::os::fd::AsFd::as_fd(&netns.unwrap()), b"x").unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)), "{error}");
        let error = set_super_frame_max(i32::MAX, 62_000).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)), "{error}");
    }
}
