//! Who is at the ends of a carried connection: a client's TCP, a pipe to a gateway, TLS to another node.

use std::io;

use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use super::pump::{Party, Wire};
use crate::gateway::nat::outer::reset_on_close;
use crate::gateway::pipe::{Fate, Pipe};

/// A link as it is between members.
pub(crate) type Link = TlsStream<TcpStream>;

/// Moves a link's socket to the runtime that this is called in.
pub(super) fn move_here(link: &mut Link) -> io::Result<()> {
    let (stream, _) = link.get_mut();
    let socket = rustix::io::fcntl_dupfd_cloexec(&*stream, 0)?;
    *stream = TcpStream::from_std(socket.into())?;
    Ok(())
}

impl Wire for Link {
    type Stream = Self;

    fn stream(&mut self) -> &mut Self {
        self
    }

    fn is_broken(&self) -> bool {
        !matches!(self.get_ref().0.take_error(), Ok(None))
    }

    fn give_up(&self) {
        reset_on_close(self.get_ref().0);
    }
}

/// A client's connection to this host.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    finished: bool,
}

impl Client {
    pub(super) fn new(stream: std::net::TcpStream) -> io::Result<Self> {
        // Both sides decide for themselves when to send. Where that can't be said, they are slower.
        let _slower = stream.set_nodelay(true);
        Ok(Self { stream: TcpStream::from_std(stream)?, finished: false })
    }
}

impl Party for Client {
    type Stream = TcpStream;

    fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    fn finish(&mut self) {
        self.finished = true;
    }

    fn is_gone(&self) -> bool {
        !matches!(self.stream.take_error(), Ok(None))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !self.finished {
            reset_on_close(&self.stream);
        }
    }
}

/// The way to a task by its gateway.
#[derive(Debug)]
pub(super) struct Inside {
    stream: UnixStream,
    fate: Fate,
    finished: bool,
}

impl Inside {
    pub(super) fn new(pipe: Pipe) -> io::Result<Self> {
        let Pipe { stream, fate } = pipe;
        Ok(Self { stream: UnixStream::from_std(stream)?, fate, finished: false })
    }
}

impl Party for Inside {
    type Stream = UnixStream;

    fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    fn judge(&self, read: io::Result<usize>) -> io::Result<usize> {
        self.fate.read(read?)
    }

    fn finish(&mut self) {
        self.finished = true;
    }

    fn is_gone(&self) -> bool {
        self.fate.is_reset()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if !self.finished {
            self.fate.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, Shutdown, TcpListener};
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_client_that_resets_behind_its_end_is_gone() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut near, _) = listener.accept().unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
        near.set_nonblocking(true).unwrap();
        let client = Client::new(near).unwrap();
        assert!(!client.is_gone());
        reset_on_close(&far);
        drop(far);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !client.is_gone() {
            assert!(Instant::now() < deadline, "it is not noticed");
            tokio::task::yield_now().await;
        }
    }
}
