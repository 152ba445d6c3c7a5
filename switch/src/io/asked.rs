//! Datagrams with the address of this host that they were sent to, so that answers leave from that one and no other
//! (`IP_PKTINFO`, ip(7); `IPV6_RECVPKTINFO`, ipv6(7), RFC 3542 §6.1): a socket that is bound to all addresses doesn't
//! say it otherwise, and who gets an answer from an address that was not asked drops it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_void};
use socket2::SockAddr;

use super::udp::stored_address;

/// Bytes of what the kernel says of a datagram, in each family.
const INFO_V4_LEN: u32 = 12;
const INFO_V6_LEN: u32 = 20;
const ADDRESS_LEN: libc::socklen_t = 128;
const INT_LEN: libc::socklen_t = 4;
const _: () = assert!(
    size_of::<libc::in_pktinfo>() == INFO_V4_LEN as usize
        && size_of::<libc::in6_pktinfo>() == INFO_V6_LEN as usize
        && size_of::<libc::sockaddr_storage>() == ADDRESS_LEN as usize
        && size_of::<c_int>() == INT_LEN as usize
);
/// Bytes of ancillary data that hold the longer one.
// SAFETY: arithmetic only.
const CONTROL_LEN: usize = unsafe { libc::CMSG_SPACE(INFO_V6_LEN) } as usize;

/// Aligned as `cmsghdr` is; the union exists for that.
#[repr(C)]
union Control {
    bytes: [u8; CONTROL_LEN],
    header: libc::cmsghdr,
}

/// The address of this host that a datagram was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Asked {
    /// The address; unspecified if it was a group's, which nothing can be sent from.
    pub address: IpAddr,
    /// The interface of a link-local address; 0 with others, to which every way leads.
    pub interface: u32,
}

/// A datagram that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Bytes of it.
    pub len: usize,
    /// Who has sent it.
    pub from: SocketAddr,
    /// Where to.
    pub asked: Asked,
}

/// Has the kernel say of each datagram where it was sent to, for [`receive`].
///
/// # Errors
/// The socket is none of that family.
pub fn keep(socket: BorrowedFd<'_>, is_ipv6: bool) -> io::Result<()> {
    let (level, option) = if is_ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    let on: c_int = 1;
    // SAFETY: the option's value is this int, of that length.
    let outcome = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(&on).cast::<c_void>(), INT_LEN)
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The next datagram; what `buffer` does not hold of it is lost.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] if there is none; [`io::ErrorKind::InvalidData`] if nobody has said where it was
/// sent to ([`keep`]); or as the socket fails.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Arrived> {
    // SAFETY: all zeros is a valid address storage, and a valid message header with null pointers.
    let (mut address, mut message): (libc::sockaddr_storage, libc::msghdr) = unsafe { std::mem::zeroed() };
    let mut control = Control { bytes: [0; CONTROL_LEN] };
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast::<c_void>(), iov_len: buffer.len() };
    message.msg_name = std::ptr::from_mut(&mut address).cast::<c_void>();
    message.msg_namelen = ADDRESS_LEN;
    message.msg_iov = std::ptr::from_mut(&mut piece);
    message.msg_iovlen = 1;
    message.msg_control = std::ptr::from_mut(&mut control).cast::<c_void>();
    message.msg_controllen = CONTROL_LEN;
    // SAFETY: every pointer of the message is one to a local of that length, and `buffer` is borrowed.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let Ok(len) = usize::try_from(got) else { return Err(io::Error::last_os_error()) };
    let unknown = || io::Error::from(io::ErrorKind::InvalidData);
    // SAFETY: the kernel has filled the message in, and its control memory was initialised before.
    let asked = unsafe { asked_of(&message) }.ok_or_else(unknown)?;
    let from = stored_address(&address).ok_or_else(unknown)?;
    Ok(Arrived { len: len.min(buffer.len()), from, asked })
}

/// Sends a datagram from that address of this host.
///
/// # Errors
/// As the kernel refuses it: `EADDRNOTAVAIL` or `EINVAL` if the host has that address no more.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], to: SocketAddr, from: Asked) -> io::Result<()> {
    let address = SockAddr::from(to);
    // SAFETY: all zeros is a valid message header with null pointers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut control = Control { bytes: [0; CONTROL_LEN] };
    let mut piece =
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast::<c_void>(), iov_len: bytes.len() };
    message.msg_name = address.as_ptr().cast_mut().cast::<c_void>();
    message.msg_namelen = address.len();
    message.msg_iov = std::ptr::from_mut(&mut piece);
    message.msg_iovlen = 1;
    set_source(&mut control, &mut message, from);
    // SAFETY: every pointer of the message is one to a local or an argument, of that length, and the kernel only reads.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What the message's ancillary data says.
///
/// # Safety
/// The message's control pointer and length must be those of initialised memory, as after a `recvmsg`.
unsafe fn asked_of(message: &libc::msghdr) -> Option<Asked> {
    // SAFETY: promised by the caller; the macros stay within `msg_controllen`.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    // SAFETY: arithmetic only.
    let fits = |len: u32| header.cmsg_len >= unsafe { libc::CMSG_LEN(len) } as usize;
    match (header.cmsg_level, header.cmsg_type) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) if fits(INFO_V4_LEN) => {
            // SAFETY: this kind holds this struct, and is long enough for it.
            let info = unsafe { libc::CMSG_DATA(header).cast::<libc::in_pktinfo>().read_unaligned() };
            // What was sent to all has an address of this host's here.
            let address = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
            Some(Asked { address: address.into(), interface: 0 })
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if fits(INFO_V6_LEN) => {
            // SAFETY: as above.
            let info = unsafe { libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>().read_unaligned() };
            let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            let interface = if address.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
            let address = if address.is_multicast() { Ipv6Addr::UNSPECIFIED } else { address };
            Some(Asked { address: address.into(), interface })
        }
        _ => None,
    }
}

/// Says where a message is to be sent from.
fn set_source(control: &mut Control, message: &mut libc::msghdr, from: Asked) {
    let (level, kind, len) = match from.address {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO, INFO_V4_LEN),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, INFO_V6_LEN),
    };
    message.msg_control = std::ptr::from_mut(control).cast::<c_void>();
    // SAFETY: arithmetic only.
    let (space, whole) = unsafe { (libc::CMSG_SPACE(len), libc::CMSG_LEN(len)) };
    message.msg_controllen = space as usize;
    // SAFETY: the message's control is this buffer, aligned and long enough for a header and the longer struct, so the
    // header and its data lie within it.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = whole as usize;
        let data = libc::CMSG_DATA(header);
        match from.address {
            IpAddr::V4(address) => data.cast::<libc::in_pktinfo>().write_unaligned(libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from(address).to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            }),
            IpAddr::V6(address) => data.cast::<libc::in6_pktinfo>().write_unaligned(libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: address.octets() },
                ipi6_ifindex: from.interface,
            }),
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_types, reason = "this driver is about sockets")]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn socket(address: &str) -> UdpSocket {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        keep(socket.as_fd(), address.contains(':')).unwrap();
        socket
    }

    #[test]
    fn answers_leave_from_the_address_that_was_asked() {
        for (all, asked) in [("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "127.9.8.7"), ("::", "::1")] {
            let (server, client) = (socket(all), socket(if all == "::" { "::1" } else { "127.0.0.2" }));
            let there = SocketAddr::new(asked.parse().unwrap(), server.local_addr().unwrap().port());
            client.send_to(b"question", there).unwrap();
            // Until it has come.
            server.peek(&mut [0]).unwrap();
            let mut buffer = [0; 64];
            let arrived = receive(server.as_fd(), &mut buffer).unwrap();
            assert_eq!(&buffer[..arrived.len], b"question");
            assert_eq!(arrived.from, client.local_addr().unwrap());
            assert_eq!(arrived.asked, Asked { address: there.ip(), interface: 0 });
            send(server.as_fd(), b"answer", arrived.from, arrived.asked).unwrap();
            let (len, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&b"answer"[..], there));
            let none = receive(server.as_fd(), &mut buffer).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn nothing_is_sent_from_an_address_of_somebody_else() {
        let (server, client) = (socket("0.0.0.0"), socket("127.0.0.1"));
        let foreign = Asked { address: [192, 0, 2, 1].into(), interface: 0 };
        assert!(send(server.as_fd(), b"forged", client.local_addr().unwrap(), foreign).is_err());
    }

    #[test]
    fn what_is_no_such_socket_is_refused() {
        let file = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
        assert!(keep(file.as_fd(), false).is_err());
        assert!(receive(file.as_fd(), &mut []).is_err());
        let (plain, client) = (UdpSocket::bind("127.0.0.1:0").unwrap(), socket("127.0.0.1"));
        client.send_to(b"?", plain.local_addr().unwrap()).unwrap();
        plain.peek(&mut [0]).unwrap();
        let error = receive(plain.as_fd(), &mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "nobody has asked for it");
    }
}
