//! A program's ends of pipes and terminals, as a keeper reads and writes them.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// A pipe or terminal that is waited for instead of blocking.
#[derive(Debug)]
pub(super) struct Waited(AsyncFd<OwnedFd>);

impl Waited {
    pub(super) fn new(descriptor: impl Into<OwnedFd>) -> io::Result<Self> {
        let descriptor = descriptor.into();
        fcntl_setfl(&descriptor, fcntl_getfl(&descriptor)? | OFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for the sake of types that change what they stand for"
        )]
        AsyncFd::new(descriptor).map(Self)
    }

    /// Waits until there is something to be read, or the end; of a pidfd, until its process has ended.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.0.readable().await.map(|mut ready| ready.clear_ready())
    }

    pub(super) fn get(&self) -> &OwnedFd {
        self.0.get_ref()
    }

    /// What is there to be read, at most as much as fits; nothing at the end.
    pub(super) async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|descriptor| Ok(rustix::io::read(descriptor, &mut *into)?));
            match read {
                // A terminal that no program has open any more.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => return Ok(0),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(outcome) => return outcome,
                Err(_would_block) => {}
            }
        }
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|descriptor| Ok(rustix::io::write(descriptor, bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(outcome) => bytes = &bytes[outcome?..],
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}
