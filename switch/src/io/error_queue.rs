//! What became of datagrams that got no further: ICMP errors that the kernel keeps for an unconnected socket
//! (`IP_RECVERR`, ip(7); `IPV6_RECVERR`, ipv6(7)).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_void};

use super::udp::stored_address;

/// Bytes of an error, and of the longer of the addresses that may follow it: who has sent it.
const ERROR_LEN: u32 = 16;
const OFFENDER_LEN: u32 = 28;
const ADDRESS_LEN: libc::socklen_t = 128;
const INT_LEN: libc::socklen_t = 4;
const _: () = assert!(
    size_of::<libc::sock_extended_err>() == ERROR_LEN as usize
        && size_of::<libc::sockaddr_in6>() == OFFENDER_LEN as usize
        && size_of::<libc::sockaddr_storage>() == ADDRESS_LEN as usize
        && size_of::<c_int>() == INT_LEN as usize
);
/// Bytes of ancillary data that hold both.
// SAFETY: arithmetic only.
const CONTROL_LEN: usize = unsafe { libc::CMSG_SPACE(ERROR_LEN + OFFENDER_LEN) } as usize;

/// Aligned as `cmsghdr` is; the union exists for that.
#[repr(C)]
union Control {
    bytes: [u8; CONTROL_LEN],
    header: libc::cmsghdr,
}

/// A datagram that got no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// Where it was sent.
    pub to: SocketAddr,
    /// Who says so; `None` if this host, or nobody that is known.
    pub by: Option<IpAddr>,
    /// Why.
    pub cause: Cause,
    /// How many bytes of it are known: behind the UDP header, or from the ICMP header on.
    pub len: usize,
}

/// Why a datagram got no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An ICMP or ICMPv6 message of this type and code, as the address of [`Undelivered::to`] says.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// This host's own refusal, as an error number.
    Local(i32),
}

/// Has the kernel keep errors of a socket's datagrams, for [`take`].
///
/// # Errors
/// The socket is none of that family.
pub fn keep(socket: BorrowedFd<'_>, is_ipv6: bool) -> io::Result<()> {
    let (level, option) =
        if is_ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    let on: c_int = 1;
    // SAFETY: the option's value is this int, of that length.
    let outcome = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(&on).cast::<c_void>(), INT_LEN)
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The next error, with the beginning of its datagram in `beginning`. `None` if there is none left.
///
/// # Errors
/// The socket fails.
pub fn take(socket: BorrowedFd<'_>, beginning: &mut [u8]) -> io::Result<Option<Undelivered>> {
    // SAFETY: all zeros is a valid address storage, and a valid message header with null pointers.
    let (mut address, mut message): (libc::sockaddr_storage, libc::msghdr) = unsafe { std::mem::zeroed() };
    let mut control = Control { bytes: [0; CONTROL_LEN] };
    let mut piece =
        libc::iovec { iov_base: beginning.as_mut_ptr().cast::<c_void>(), iov_len: beginning.len() };
    message.msg_name = std::ptr::from_mut(&mut address).cast::<c_void>();
    message.msg_namelen = ADDRESS_LEN;
    message.msg_iov = std::ptr::from_mut(&mut piece);
    message.msg_iovlen = 1;
    message.msg_control = std::ptr::from_mut(&mut control).cast::<c_void>();
    message.msg_controllen = CONTROL_LEN;
    // SAFETY: every pointer of the message is one to a local of that length, and `beginning` is borrowed.
    let got = unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
    };
    let Ok(len) = usize::try_from(got) else {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    };
    // SAFETY: the kernel has filled the message in, and its control memory was initialised before.
    let Some((cause, by)) = (unsafe { cause_of(&message) }) else { return Ok(None) };
    let Some(to) = stored_address(&address) else { return Ok(None) };
    Ok(Some(Undelivered { to, by, cause, len: len.min(beginning.len()) }))
}

/// What the message's ancillary data says, and who.
///
/// # Safety
/// The message's control pointer and length must be those of initialised memory, as after a `recvmsg`.
unsafe fn cause_of(message: &libc::msghdr) -> Option<(Cause, Option<IpAddr>)> {
    // SAFETY: promised by the caller; the macros stay within `msg_controllen`.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    let kinds = [(libc::IPPROTO_IP, libc::IP_RECVERR), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)];
    if !kinds.contains(&(header.cmsg_level, header.cmsg_type)) {
        return None;
    }
    // SAFETY: arithmetic only.
    let needed = unsafe { libc::CMSG_LEN(ERROR_LEN) } as usize;
    if header.cmsg_len < needed {
        return None;
    }
    // SAFETY: this kind begins with this struct, and is long enough for it.
    let error = unsafe { libc::CMSG_DATA(header).cast::<libc::sock_extended_err>().read_unaligned() };
    let cause = match error.ee_origin {
        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => {
            Cause::Icmp { kind: error.ee_type, code: error.ee_code }
        }
        _ => Cause::Local(i32::try_from(error.ee_errno).unwrap_or(libc::EIO)),
    };
    // SAFETY: all zeros is a valid address storage.
    let mut offender: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let len = (header.cmsg_len - needed).min(OFFENDER_LEN as usize);
    // SAFETY: behind the struct there are `len` more bytes of the control memory, and the storage is longer.
    unsafe {
        let behind = libc::CMSG_DATA(header).add(size_of::<libc::sock_extended_err>());
        std::ptr::copy_nonoverlapping(behind, std::ptr::from_mut(&mut offender).cast::<u8>(), len);
    }
    let by = stored_address(&offender).map(|address| address.ip());
    Some((cause, by.filter(|by| !by.is_unspecified())))
}

#[cfg(test)]
#[expect(clippy::disallowed_types, reason = "this driver is about sockets")]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    /// Waits until the socket has an error, and takes it.
    fn next(socket: &UdpSocket, beginning: &mut [u8]) -> Undelivered {
        let patience = Timespec::try_from(Duration::from_secs(20)).unwrap();
        let mut fds = [PollFd::new(socket, PollFlags::empty())];
        assert_eq!(poll(&mut fds, Some(&patience)).unwrap(), 1, "nothing has come");
        take(socket.as_fd(), beginning).unwrap().expect("there is one")
    }

    #[test]
    fn a_closed_port_is_told_to_an_unconnected_socket() {
        for (here, kind, code) in [("127.0.0.1:0", 3, 3), ("[::1]:0", 1, 4)] {
            let closed = UdpSocket::bind(here).unwrap().local_addr().unwrap();
            let socket = UdpSocket::bind(here).unwrap();
            keep(socket.as_fd(), closed.is_ipv6()).unwrap();
            let mut beginning = [0; 4];
            assert_eq!(take(socket.as_fd(), &mut beginning).unwrap(), None);
            socket.send_to(b"datagram", closed).unwrap();
            let undelivered = next(&socket, &mut beginning);
            let wanted =
                Undelivered { to: closed, by: Some(closed.ip()), cause: Cause::Icmp { kind, code }, len: 4 };
            assert_eq!(undelivered, wanted);
            assert_eq!(&beginning, b"data");
            assert_eq!(take(socket.as_fd(), &mut beginning).unwrap(), None);
        }
    }

    #[test]
    fn what_is_no_such_socket_is_refused() {
        let file = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
        assert!(keep(file.as_fd(), false).is_err());
        assert!(take(file.as_fd(), &mut []).is_err());
    }
}
