//! Two ends of a stream within this host, which tell a reset from an end in order as TCP does and socket pairs don't.
//!
//! A reset is a flag beside the socket, set before it is closed: who then reads the end of the stream finds it.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One end. Dropping it is an end in order unless [`Fate::reset`] was called.
#[derive(Debug)]
pub struct Pipe {
    /// Bytes both ways; it does not block.
    pub stream: UnixStream,
    /// How it ends.
    pub fate: Fate,
}

/// Which end has reset the stream.
#[derive(Debug)]
pub struct Fate {
    own: Arc<AtomicBool>,
    other: Arc<AtomicBool>,
}

impl Pipe {
    /// Both ends.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = UnixStream::pair()?;
        one.set_nonblocking(true)?;
        other.set_nonblocking(true)?;
        let (a, b) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let fate = Fate { own: Arc::clone(&a), other: Arc::clone(&b) };
        Ok((Self { stream: one, fate }, Self { stream: other, fate: Fate { own: b, other: a } }))
    }
}

impl Fate {
    /// Has what follows be a reset. Close the stream behind it.
    pub fn reset(&self) {
        self.own.store(true, Ordering::Release);
    }

    /// Whether the other end has reset the stream.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.other.load(Ordering::Acquire)
    }

    /// What it means that so many bytes were read.
    ///
    /// # Errors
    /// It is the end of a stream that was reset.
    pub fn read(&self, len: usize) -> io::Result<usize> {
        if len == 0 && self.is_reset() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(len) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_reset_is_told_from_an_end() {
        for reset in [false, true] {
            let (one, other) = Pipe::pair().unwrap();
            (&one.stream).write_all(b"word").unwrap();
            if reset {
                one.fate.reset();
            }
            drop(one);
            let mut buffer = [0; 8];
            assert_eq!((&other.stream).read(&mut buffer).unwrap(), 4);
            assert!(other.fate.read(4).is_ok(), "bytes come before it");
            assert_eq!((&other.stream).read(&mut buffer).unwrap(), 0);
            assert_eq!(other.fate.read(0).is_err(), reset);
        }
    }
}
