//! Who is at the other end of a UNIX socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The user that the kernel noted for the peer when it connected or listened (`SO_PEERCRED`, unix(7)), as a number
/// of the calling process's user namespace; users that it does not know are all 65534.
///
/// rustix has this call too, but takes the peer's process id for one that is never 0. It is 0 for a peer
/// outside of our PID namespace, and those are the ones to be asked about here.
///
/// # Errors
/// If it is no UNIX socket.
#[expect(unsafe_code, reason = "rustix's call can't be used across PID namespaces")]
pub fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut credentials = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).expect("a dozen bytes");
    // SAFETY: both pointers are to live locals of the lengths stated, and the kernel writes no more than
    // `length` bytes of plain integers.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if outcome == 0 { Ok(credentials.uid) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn our_own_socket_is_ours() {
        let (a, _b) = UnixStream::pair().unwrap();
        assert_eq!(peer_uid(a.as_fd()).unwrap(), rustix::process::geteuid().as_raw());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(peer_uid(file.as_fd()).is_err());
    }
}
