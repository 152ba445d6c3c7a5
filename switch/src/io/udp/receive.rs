//! Receiving: `recvmmsg` into buffers of the pool, runs joined by `UDP_GRO`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::control::{Control, joined_segment};
use crate::io::Received;
use crate::packet::{DATA_MAX, PacketBuf, Pool};

/// Messages of one system call. A run of 64 KiB each is 2 MiB: more per call would only leave the cache.
const BATCH: usize = 32;

/// The arrays of one `recvmmsg`, kept between calls so that none allocates.
#[derive(Debug)]
pub(super) struct Receiver {
    messages: Vec<libc::mmsghdr>,
    pieces: Vec<libc::iovec>,
    addresses: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    buffers: Vec<PacketBuf>,
    /// Datagrams that no one is given, because a buffer does not hold them.
    pub(super) discarded: u64,
}

// SAFETY: the arrays hold raw pointers, into each other and into `buffers`, that are set anew by every call and not
// followed outside of it; `buffers` is owned.
unsafe impl Send for Receiver {}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            messages: Vec::with_capacity(BATCH),
            pieces: Vec::with_capacity(BATCH),
            addresses: Vec::with_capacity(BATCH),
            controls: Vec::with_capacity(BATCH),
            buffers: Vec::with_capacity(BATCH),
            discarded: 0,
        }
    }

    /// See [`crate::io::DatagramIo::receive`].
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        pool: &mut Pool,
        into: &mut Vec<Received>,
        max: usize,
    ) -> io::Result<()> {
        let mut left = max;
        while left > 0 {
            self.prepare(pool, left.min(BATCH));
            let asked = self.buffers.len();
            if asked == 0 {
                break;
            }
            let got = self.call(socket);
            if let Ok(got) = got {
                self.collect(got, pool, into);
            }
            self.buffers.drain(..).for_each(|buf| pool.put(buf));
            match got {
                Ok(got) if got < asked => break,
                Ok(got) => left -= got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fills the arrays in for as many messages as there are buffers, at most `count`.
    fn prepare(&mut self, pool: &mut Pool, count: usize) {
        self.buffers.extend(std::iter::from_fn(|| pool.take()).take(count));
        let count = self.buffers.len();
        // SAFETY: all zeros is a valid address storage, and a valid message header with null pointers.
        let (address, message): (libc::sockaddr_storage, libc::mmsghdr) = unsafe { std::mem::zeroed() };
        self.messages.clear();
        self.messages.resize(count, message);
        self.addresses.resize(count, address);
        self.controls.resize(count, Control::EMPTY);
        self.pieces.clear();
        self.pieces.extend(self.buffers.iter_mut().map(|buf| {
            let room = buf.room();
            libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() }
        }));
        let parts = self.pieces.iter_mut().zip(&mut self.addresses).zip(&mut self.controls);
        for (message, ((piece, address), control)) in self.messages.iter_mut().zip(parts) {
            let header = &mut message.msg_hdr;
            header.msg_iov = piece;
            header.msg_iovlen = 1;
            header.msg_name = std::ptr::from_mut(address).cast();
            header.msg_namelen = ADDRESS_LEN;
            control.offer(header);
        }
    }

    fn call(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let count = libc::c_uint::try_from(self.messages.len()).expect("at most BATCH");
        loop {
            // SAFETY: `prepare` has just made every pointer one into arrays and buffers of this struct, with their
            // lengths, and none has moved since.
            let got = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    self.messages.as_mut_ptr(),
                    count,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                )
            };
            match usize::try_from(got) {
                Ok(got) => return Ok(got),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn collect(&mut self, got: usize, pool: &mut Pool, into: &mut Vec<Received>) {
        for ((buf, message), address) in self.buffers.drain(..got).zip(&self.messages).zip(&self.addresses) {
            // 32 bits hold it: at most DATA_MAX.
            let len = message.msg_len as usize;
            let whole = message.msg_hdr.msg_flags & libc::MSG_TRUNC == 0 && len <= DATA_MAX;
            let from = stored_address(address).filter(|_| whole);
            let Some(from) = from else {
                self.discarded += 1;
                pool.put(buf);
                continue;
            };
            let mut buf = buf;
            buf.set_len(len);
            // SAFETY: the kernel has filled this message in, and its control memory was initialised before.
            let joined = unsafe { joined_segment(&message.msg_hdr) };
            into.push(Received { buf, from, segment: joined.map_or(len, |segment| segment.min(len)).max(1) });
        }
    }
}

/// 128, which the assertion ties.
const ADDRESS_LEN: libc::socklen_t = 128;
const _: () = assert!(size_of::<libc::sockaddr_storage>() == ADDRESS_LEN as usize);

/// The sender; `None` for a family that no IP socket gives.
pub(in crate::io) fn stored_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the storage is longer than any address and aligned for each; the family says which it is.
            let raw = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let raw = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            // The flow label is no part of who sent it.
            Some(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), 0, raw.sin6_scope_id).into())
        }
        _ => None,
    }
}
