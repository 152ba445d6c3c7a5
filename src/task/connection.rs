//! Both ends of a task's control socket: frames over a stream.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::frame::{CHUNK_MAX, Frame, FrameError, Reply, Request, Status};

/// The socket's name in a task's directory.
pub const CONTROL: &str = "control";

/// Why a keeper could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Nobody keeps that task any more.
    #[error("the task has ended")]
    Ended,
    /// The directory is another user's.
    #[error("only the daemon's user and root can talk to its tasks: {0}")]
    Denied(io::Error),
    /// The other side talks nonsense.
    #[error("the task's keeper: {0}")]
    Frame(#[from] FrameError),
    /// An answer to another question.
    #[error("the task's keeper gives an answer to another question: is it of another version?")]
    Unexpected,
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// The socket failed.
    #[error("the task's keeper can't be talked to: {0}")]
    Io(io::Error),
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Self::Ended,
            io::ErrorKind::PermissionDenied => Self::Denied(error),
            _ => Self::Io(error),
        }
    }
}

/// What comes.
#[derive(Debug)]
pub struct Receiver {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
}

/// What goes.
#[derive(Debug)]
pub struct Sender {
    stream: OwnedWriteHalf,
    buffer: Vec<u8>,
}

/// Both ways of a stream.
#[must_use]
pub fn split(stream: UnixStream) -> (Receiver, Sender) {
    let (reads, writes) = stream.into_split();
    (Receiver { stream: reads, buffer: Vec::new() }, Sender { stream: writes, buffer: Vec::new() })
}

/// A directory's file by a path that is short enough for a socket's address, however deep the directory is; of use as long
/// as the descriptor is open.
///
/// # Errors
/// If it can't be opened.
pub(super) fn short_path(directory: &Path, name: &str) -> io::Result<(std::os::fd::OwnedFd, PathBuf)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let descriptor = open(directory, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{name}", descriptor.as_raw_fd());
    Ok((descriptor, path.into()))
}

/// Connects to the keeper of the task with that directory.
///
/// # Errors
/// See [`ConnectionError`].
pub async fn connect(directory: &Path) -> Result<(Receiver, Sender), ConnectionError> {
    let (_open, path) = short_path(directory, CONTROL)?;
    Ok(split(UnixStream::connect(path).await?))
}

/// Asks a keeper one thing.
///
/// # Errors
/// See [`ConnectionError`].
pub async fn ask(directory: &Path, request: Request) -> Result<Reply, ConnectionError> {
    let (mut receiver, mut sender) = connect(directory).await?;
    sender.send(&Frame::Request(request)).await?;
    receiver.reply().await
}

/// Asks a keeper something that is answered by how the task is.
///
/// # Errors
/// See [`ConnectionError`].
pub async fn ask_status(directory: &Path, request: Request) -> Result<Status, ConnectionError> {
    match ask(directory, request).await? {
        Reply::Status(status) => Ok(status),
        Reply::Done | Reply::Refused { .. } => Err(ConnectionError::Unexpected),
    }
}

impl Receiver {
    /// The next frame; none if the other side has hung up between two.
    ///
    /// # Errors
    /// If what comes is no frame, or the stream fails.
    pub async fn next(&mut self) -> Result<Option<Frame>, ConnectionError> {
        loop {
            if let Some((frame, len)) = Frame::parse(&self.buffer)? {
                self.buffer.drain(..len);
                return Ok(Some(frame));
            }
            self.buffer.reserve(CHUNK_MAX);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(ConnectionError::Ended) };
            }
        }
    }

    /// The answer to a request.
    ///
    /// # Errors
    /// If it is refused, or none.
    pub async fn reply(&mut self) -> Result<Reply, ConnectionError> {
        match self.next().await? {
            Some(Frame::Reply(Reply::Refused { reason })) => Err(ConnectionError::Refused(reason)),
            Some(Frame::Reply(reply)) => Ok(reply),
            Some(_) => Err(ConnectionError::Unexpected),
            None => Err(ConnectionError::Ended),
        }
    }
}

impl Sender {
    /// Sends a frame. If this is dropped before it is done, the connection is of no use.
    ///
    /// # Errors
    /// If the stream fails.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), ConnectionError> {
        self.buffer.clear();
        frame.emit(&mut self.buffer);
        Ok(self.stream.write_all(&self.buffer).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_go_over_a_stream_in_whatever_pieces() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut receiver, _) = split(a);
        let (_, mut sender) = split(b);
        let frames = [Frame::Input(vec![7; CHUNK_MAX]), Frame::InputEnd, Frame::Ended(2)];
        let sent = frames.clone();
        let sending = tokio::spawn(async move {
            for frame in &sent {
                sender.send(frame).await.unwrap();
            }
            // Half a head: the other side is to notice.
            sender.stream.write_all(&[2, 0]).await.unwrap();
        });
        for frame in frames {
            assert_eq!(receiver.next().await.unwrap(), Some(frame));
        }
        sending.await.unwrap();
        assert!(matches!(receiver.next().await, Err(ConnectionError::Ended)));
    }

    #[tokio::test]
    async fn a_task_without_keeper_has_ended() {
        let nowhere = std::env::temp_dir().join("vswitchd-no-such-task");
        assert!(matches!(ask(&nowhere, Request::Status).await, Err(ConnectionError::Ended)));
    }
}
