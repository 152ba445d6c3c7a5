//! Receiving datagrams of a UNIX socket: `recvmmsg` into buffers of the pool, and who sent the last.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::SocketAddrUnix;

use crate::io::{Frame, ReadError};
use crate::packet::{PacketBuf, Pool};
use crate::wire::virtio::Offload;

/// Datagrams of one system call.
const BATCH: usize = 32;
/// Bytes of a UNIX socket's name, which the assertion ties.
const NAME_LEN: libc::socklen_t = 110;
const _: () = assert!(size_of::<libc::sockaddr_un>() == NAME_LEN as usize);

/// The arrays of one `recvmmsg`, kept between calls so that none allocates.
#[derive(Debug)]
pub(super) struct Receiver {
    messages: Vec<libc::mmsghdr>,
    pieces: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_un>,
    buffers: Vec<PacketBuf>,
    /// Whether it is asked who sends.
    learns: bool,
    /// Who sent last: the path's bytes.
    sender: Vec<u8>,
    news: bool,
}

// SAFETY: the arrays hold raw pointers, into each other and into `buffers`, that are set anew by every call and
// not followed outside of it; `buffers` is owned.
unsafe impl Send for Receiver {}

impl Receiver {
    pub(super) fn new(learns: bool) -> Self {
        Self {
            messages: Vec::with_capacity(BATCH),
            pieces: Vec::with_capacity(BATCH),
            names: Vec::with_capacity(BATCH),
            buffers: Vec::with_capacity(BATCH),
            learns,
            sender: Vec::new(),
            news: false,
        }
    }

    /// Appends frames, in one system call; gives how many were longer than a buffer.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        pool: &mut Pool,
        into: &mut Vec<Frame>,
        max: usize,
    ) -> Result<u64, ReadError> {
        self.prepare(pool, max.min(BATCH));
        let got = if self.buffers.is_empty() { Ok(0) } else { self.call(socket) };
        let malformed = got.as_ref().map_or(0, |&got| self.collect(got, pool, into));
        self.buffers.drain(..).for_each(|buf| pool.put(buf));
        match got {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(ReadError::Io(error)),
            _ => Ok(malformed),
        }
    }

    /// Who sends now, if that has changed.
    pub(super) fn take_news(&mut self) -> Option<SocketAddrUnix> {
        std::mem::take(&mut self.news).then(|| SocketAddrUnix::new(&*self.sender).ok()).flatten()
    }

    /// Fills the arrays in for as many messages as there are buffers, at most `count`.
    fn prepare(&mut self, pool: &mut Pool, count: usize) {
        self.buffers.extend(std::iter::from_fn(|| pool.take()).take(count));
        let count = self.buffers.len();
        // SAFETY: all zeros is a valid name of a UNIX socket, and a valid message header with null pointers.
        let (name, message): (libc::sockaddr_un, libc::mmsghdr) = unsafe { std::mem::zeroed() };
        self.messages.clear();
        self.messages.resize(count, message);
        self.names.resize(count, name);
        self.pieces.clear();
        self.pieces.extend(self.buffers.iter_mut().map(|buf| {
            let room = buf.room();
            libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() }
        }));
        let parts = self.pieces.iter_mut().zip(&mut self.names);
        for (message, (piece, name)) in self.messages.iter_mut().zip(parts) {
            let header = &mut message.msg_hdr;
            header.msg_iov = piece;
            header.msg_iovlen = 1;
            if self.learns {
                header.msg_name = std::ptr::from_mut(name).cast();
                header.msg_namelen = NAME_LEN;
            }
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
            match usize::try_from(got).map_err(|_| io::Error::last_os_error()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    fn collect(&mut self, got: usize, pool: &mut Pool, into: &mut Vec<Frame>) -> u64 {
        let mut malformed = 0;
        for (mut buf, message) in self.buffers.drain(..got).zip(&self.messages) {
            if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                malformed += 1;
                pool.put(buf);
                continue;
            }
            // 32 bits hold it: not truncated, it is within the buffer.
            buf.set_len(message.msg_len as usize);
            into.push(Frame { buf, offload: Offload::default() });
        }
        if let Some(last) = got.checked_sub(1).filter(|_| self.learns) {
            self.note(last);
        }
        malformed
    }

    /// Notes who sent a message. One without a path can't be answered, and changes nothing.
    fn note(&mut self, index: usize) {
        let length = usize::try_from(self.messages[index].msg_hdr.msg_namelen).unwrap_or(usize::MAX);
        let name = &self.names[index];
        let path = length.saturating_sub(std::mem::offset_of!(libc::sockaddr_un, sun_path));
        let bytes =
            name.sun_path.iter().take(path).map(|byte| byte.to_ne_bytes()[0]).take_while(|&byte| byte != 0);
        if path > 0 && bytes.clone().next().is_some() && !bytes.clone().eq(self.sender.iter().copied()) {
            self.sender.clear();
            self.sender.extend(bytes);
            self.news = true;
        }
    }
}
