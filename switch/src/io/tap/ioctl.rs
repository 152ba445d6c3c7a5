//! The ioctls of /dev/net/tun and of a link, typed. Sources: Linux Documentation/networking/tuntap.rst, netdevice(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libc::{c_int, c_short, c_uint};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::wire::MacAddr;

/// Opens /dev/net/tun: a queue of no device yet. It is bound to the namespace of the calling thread.
pub(super) fn open_queue() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
}

/// A name as `struct ifreq` takes it: its bytes, then zeros.
#[derive(Clone, Copy, Debug)]
pub(super) struct IfName([libc::c_char; libc::IFNAMSIZ]);

impl IfName {
    /// `None` if the kernel would refuse the name (`dev_valid_name`), or expand a `%d` in it.
    pub(super) fn new(name: &str) -> Option<Self> {
        let refused =
            |byte: u8| matches!(byte, b'/' | b':' | b'%' | 0) || byte.is_ascii_whitespace() || byte == 0x0b;
        if name.is_empty()
            || name.len() >= libc::IFNAMSIZ
            || matches!(name, "." | "..")
            || name.bytes().any(refused)
        {
            return None;
        }
        let mut bytes = [0; libc::IFNAMSIZ];
        for (to, from) in bytes.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        Some(Self(bytes))
    }

    /// The bytes before the first zero.
    pub(super) fn bytes(self) -> Vec<u8> {
        self.0.iter().take_while(|&&byte| byte != 0).map(|byte| byte.to_ne_bytes()[0]).collect()
    }

    /// A pattern that the kernel makes a free name of, which is to be read back.
    pub(super) fn any() -> Self {
        let mut bytes = [0; libc::IFNAMSIZ];
        for (to, from) in bytes.iter_mut().zip(b"vswitch%d") {
            *to = libc::c_char::from_ne_bytes([*from]);
        }
        Self(bytes)
    }

    fn request(self) -> libc::ifreq {
        // SAFETY: all zeros is a valid `ifreq`: it holds integers and a union of them.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name = self.0;
        request
    }
}

/// Does one ioctl whose argument is an `ifreq`.
fn interface(fd: BorrowedFd<'_>, code: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: every code given by this file takes a pointer to an `ifreq`, which outlives the call.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), code, std::ptr::from_mut(request)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Attaches a queue to the device of that name, which is made if there is none (`TUNSETIFF`).
/// Gives its name, which differs only from a pattern.
pub(super) fn attach(queue: BorrowedFd<'_>, name: IfName, flags: c_int) -> io::Result<IfName> {
    let mut request = name.request();
    request.ifr_ifru.ifru_flags = flag_bits(flags);
    interface(queue, libc::TUNSETIFF, &mut request)?;
    Ok(IfName(request.ifr_name))
}

/// The flags that the device really has, [`libc::IFF_PERSIST`] among them (`TUNGETIFF`).
pub(super) fn device_flags(queue: BorrowedFd<'_>) -> io::Result<c_int> {
    let mut request = IfName([0; libc::IFNAMSIZ]).request();
    interface(queue, libc::TUNGETIFF, &mut request)?;
    // SAFETY: TUNGETIFF fills the member in, and all bits are valid in it.
    Ok(c_int::from(unsafe { request.ifr_ifru.ifru_flags }) & 0xffff)
}

/// The kernel keeps sixteen flag bits in a signed field.
fn flag_bits(flags: c_int) -> c_short {
    let [low, high, ..] = flags.to_le_bytes();
    c_short::from_le_bytes([low, high])
}

/// States the length of the header before each frame (`TUNSETVNETHDRSZ`), for the whole device.
pub(super) fn set_header_len(queue: BorrowedFd<'_>, len: c_int) -> io::Result<()> {
    // SAFETY: this request takes a pointer to an int, which outlives the call.
    let answer = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// States which unfinished frames we take (`TUN_F_…`, `TUNSETOFFLOAD`), for the whole device. EINVAL: not these.
pub(super) fn set_offload(queue: BorrowedFd<'_>, mask: c_uint) -> io::Result<()> {
    // SAFETY: this request takes its argument by value.
    let answer = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(mask)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The device's MAC address, asked through its queue.
pub(super) fn mac(queue: BorrowedFd<'_>, name: IfName) -> io::Result<MacAddr> {
    let mut request = name.request();
    interface(queue, libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: the request fills the member in, and all bits are valid in it.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let mut bytes = [0; 6];
    for (to, from) in bytes.iter_mut().zip(data) {
        [*to] = from.to_ne_bytes();
    }
    Ok(MacAddr(bytes))
}

/// Changes the device's MAC address through its queue, for which holding the queue is right enough.
pub(super) fn set_mac(queue: BorrowedFd<'_>, name: IfName, mac: MacAddr) -> io::Result<()> {
    let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
    for (to, from) in address.sa_data.iter_mut().zip(mac.0) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let mut request = name.request();
    request.ifr_ifru.ifru_hwaddr = address;
    interface(queue, libc::SIOCSIFHWADDR, &mut request)
}

/// `struct ethtool_value`.
#[repr(C)]
struct LinkValue {
    command: u32,
    data: u32,
}

/// Linux include/uapi/linux/ethtool.h.
const ETHTOOL_GLINK: u32 = 0x0a;

/// A link of the calling thread's namespace, of any kind.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
    name: IfName,
}

impl Link {
    pub(super) fn new(name: IfName) -> io::Result<Self> {
        // Any family does: these requests only use the socket to find the namespace.
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, name })
    }

    fn ask(&self, code: libc::Ioctl) -> io::Result<libc::ifreq> {
        let mut request = self.name.request();
        interface(self.socket.as_fd(), code, &mut request)?;
        Ok(request)
    }

    /// Its number in this namespace.
    pub(super) fn index(&self) -> io::Result<c_int> {
        let request = self.ask(libc::SIOCGIFINDEX)?;
        // SAFETY: the request fills the member in, and all bits are valid in it.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex })
    }

    /// Whether there is a link of this name.
    pub(super) fn exists(&self) -> io::Result<bool> {
        match self.ask(libc::SIOCGIFFLAGS) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn mtu(&self) -> io::Result<c_int> {
        let request = self.ask(libc::SIOCGIFMTU)?;
        // SAFETY: the request fills the member in, and all bits are valid in it.
        Ok(unsafe { request.ifr_ifru.ifru_mtu })
    }

    pub(super) fn set_mtu(&self, mtu: c_int) -> io::Result<()> {
        let mut request = self.name.request();
        request.ifr_ifru.ifru_mtu = mtu;
        interface(self.socket.as_fd(), libc::SIOCSIFMTU, &mut request)
    }

    fn flags(&self) -> io::Result<c_short> {
        let request = self.ask(libc::SIOCGIFFLAGS)?;
        // SAFETY: the request fills the member in, and all bits are valid in it.
        Ok(unsafe { request.ifr_ifru.ifru_flags })
    }

    pub(super) fn is_up(&self) -> io::Result<bool> {
        Ok(self.flags()? & flag_bits(libc::IFF_UP) != 0)
    }

    /// Whether it is up and has carrier: a TAP has it as long as somebody has a queue of it (`ETHTOOL_GLINK`). `false`
    /// for a link that can't say.
    pub(super) fn has_carrier(&self) -> bool {
        let mut value = LinkValue { command: ETHTOOL_GLINK, data: 0 };
        let mut request = self.name.request();
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // The request points to a value of the form that this command wants, which outlives the call.
        interface(self.socket.as_fd(), libc::SIOCETHTOOL, &mut request).is_ok() && value.data != 0
    }

    pub(super) fn set_up(&self) -> io::Result<()> {
        let mut request = self.name.request();
        request.ifr_ifru.ifru_flags = self.flags()? | flag_bits(libc::IFF_UP);
        interface(self.socket.as_fd(), libc::SIOCSIFFLAGS, &mut request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_refuses_or_expands_are_refused() {
        for bad in ["", ".", "..", "a/b", "a b", "a\tb", "tap%d", "a:b", "sixteen-bytes-ab", "a\0"] {
            assert!(IfName::new(bad).is_none(), "{bad:?}");
        }
        for good in ["tap0", "fifteen-bytes-a", "...", "tap.5"] {
            assert!(IfName::new(good).is_some(), "{good:?}");
        }
    }

    #[test]
    fn loopback_is_a_link_and_nonsense_is_none() {
        let link = |name| Link::new(IfName::new(name).unwrap()).unwrap();
        assert!(link("lo").exists().unwrap());
        assert!(link("lo").mtu().unwrap() >= 1500);
        assert!(!link("no-such-link-x").exists().unwrap());
    }
}
