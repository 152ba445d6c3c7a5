//! Ancillary data of one message: room for one `cmsghdr` with an integer (cmsg(3), udp(7)).

use libc::{c_int, c_void};

/// Bytes of ancillary data that hold one int: 24 on a 64-bit system.
// SAFETY: arithmetic only.
const LEN: usize = unsafe { libc::CMSG_SPACE(4) } as usize;
const _: () = assert!(size_of::<c_int>() == 4);

/// Aligned as `cmsghdr` is; the union exists for that.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union Control {
    bytes: [u8; LEN],
    header: libc::cmsghdr,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

impl Control {
    pub(super) const EMPTY: Self = Self { bytes: [0; LEN] };

    /// Offers the whole room to a receive.
    pub(super) fn offer(&mut self, message: &mut libc::msghdr) {
        message.msg_control = std::ptr::from_mut(self).cast::<c_void>();
        message.msg_controllen = LEN;
    }

    /// Says how a sent run is to be cut (`UDP_SEGMENT`).
    pub(super) fn set_segment(&mut self, message: &mut libc::msghdr, segment: u16) {
        message.msg_control = std::ptr::from_mut(self).cast::<c_void>();
        // SAFETY: arithmetic only.
        let (space, len) = unsafe { (libc::CMSG_SPACE(2), libc::CMSG_LEN(2)) };
        message.msg_controllen = space as usize;
        // SAFETY: the message's control is this buffer, aligned and long enough for a header and an int, so the
        // header and its two bytes of data lie within it.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(message);
            (*header).cmsg_level = libc::IPPROTO_UDP;
            (*header).cmsg_type = libc::UDP_SEGMENT;
            (*header).cmsg_len = len as usize;
            libc::CMSG_DATA(header).cast::<u16>().write_unaligned(segment);
        }
    }
}

/// The size of each datagram in a received run (`UDP_GRO`), if the kernel has joined any.
///
/// # Safety
/// The message's control pointer and length must be those of initialised memory, as after a `recvmmsg`.
pub(super) unsafe fn joined_segment(message: &libc::msghdr) -> Option<usize> {
    // SAFETY: promised by the caller; the macros stay within `msg_controllen`.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if (header.cmsg_level, header.cmsg_type) != (libc::IPPROTO_UDP, libc::UDP_GRO) {
        return None;
    }
    // SAFETY: this kind holds an int behind its header; a shorter one would not have been delivered.
    let segment = unsafe { libc::CMSG_DATA(header).cast::<c_int>().read_unaligned() };
    usize::try_from(segment).ok().filter(|segment| *segment > 0)
}
