//! What goes over a task's control socket.
//!
//! ```text
//!  0      1              5
//! | kind | length (u32) | that many bytes |
//!
//! kind  from    meaning          bytes
//! 0     client  a request        JSON, a Request
//! 1     keeper  its answer       JSON, a Reply
//! 2     client  input            as they are
//! 3     client  end of input     none
//! 4, 5  keeper  output, errors   as they are
//! 6     client  terminal's size  rows (u16), columns (u16)
//! 7     keeper  line of the log  JSON, a log::Entry
//! 8     keeper  it has ended     exit code (u8)
//! ```
//!
//! Big-endian. A connection begins with a request; what follows is said at [`Request`]. Nothing here reads or writes.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::TaskState;

/// Bytes of a frame after its head: the longest line of a log, every byte of it escaped.
pub const PAYLOAD_MAX: usize = 256 * 1024;
/// Bytes of input or output in a frame, at most, where we make them.
pub const CHUNK_MAX: usize = 32 * 1024;
/// Bytes of a frame's head.
const HEAD: usize = 5;

/// What a keeper is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// How the task is: a [`Reply::Status`].
    Status,
    /// The same, and again whenever it changes, until the task has ended.
    Watch,
    /// To start the program, if that has not been done: a [`Reply::Status`] of afterwards.
    Start,
    /// To send a signal to the program: a [`Reply::Done`]. It is no frame of an attached client, since it would have to wait
    /// behind input that the program does not read.
    Signal {
        /// Its number.
        number: u8,
    },
    /// To end the program by a signal, or by SIGKILL after a while: a [`Reply::Done`] at once.
    Stop {
        /// The signal's number.
        number: u8,
        /// Milliseconds until SIGKILL.
        patience_ms: u64,
    },
    /// What the program writes from now on, its end, and with `input` a way to what it reads: a [`Reply::Done`], then
    /// frames.
    Attach {
        /// Whether input will come.
        input: bool,
        /// Whether output is wanted; otherwise it is only the end.
        output: bool,
    },
    /// Lines of the log, from so many before the end, and those to come until the program's end: frames.
    Logs {
        /// How many; none: all that there are.
        tail: Option<u64>,
    },
}

/// What a keeper answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "lowercase")]
pub enum Reply {
    /// How the task is.
    Status(Status),
    /// It is done.
    Done,
    /// It can't be done.
    Refused {
        /// Why.
        reason: String,
    },
}

/// How a task is; also what is kept of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What it does.
    pub state: TaskState,
    /// The process that holds its namespaces, as the host numbers it.
    pub pid: u32,
    /// Milliseconds since 1970 when its program was started, if it was.
    pub started_ms: Option<u64>,
    /// The same when it ended, if it has.
    pub ended_ms: Option<u64>,
    /// Its exit code, if it has ended.
    pub exit_code: Option<u8>,
    /// Why it could not be started.
    pub error: Option<String>,
}

/// Which of a program's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output; with a terminal, both.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A terminal's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A client's request.
    Request(Request),
    /// Its answer.
    Reply(Reply),
    /// For the program's input.
    Input(Vec<u8>),
    /// There is no more input.
    InputEnd,
    /// What the program has written.
    Output(Stream, Vec<u8>),
    /// The size of the client's terminal.
    Resize(Size),
    /// A line of the log, as it is kept.
    Log(Vec<u8>),
    /// The program has ended with this code.
    Ended(u8),
}

/// Bytes that are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind that there is not.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// More than [`PAYLOAD_MAX`] bytes.
    #[error("a frame of {0} bytes is too long")]
    TooLong(u32),
    /// Not the bytes that go with the kind.
    #[error("a frame of kind {kind} that makes no sense: {reason}")]
    Malformed {
        /// The kind.
        kind: u8,
        /// What is wrong.
        reason: String,
    },
}

impl Frame {
    /// Makes sense of the first frame of `bytes`; gives it and its length, or none if more bytes are needed.
    ///
    /// # Errors
    /// If they can't become a frame: the connection is of no use then.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let Some((&[kind, a, b, c, d], rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
        if kind > 8 {
            return Err(FrameError::Kind(kind));
        }
        let length = u32::from_be_bytes([a, b, c, d]);
        let wanted = usize::try_from(length).ok().filter(|&length| length <= PAYLOAD_MAX);
        let wanted = wanted.ok_or(FrameError::TooLong(length))?;
        match rest.get(..wanted) {
            Some(payload) => Self::of(kind, payload).map(|frame| Some((frame, HEAD + wanted))),
            None => Ok(None),
        }
    }

    fn of(kind: u8, payload: &[u8]) -> Result<Self, FrameError> {
        let malformed = |reason: &str| FrameError::Malformed { kind, reason: reason.into() };
        match (kind, payload) {
            (0, _) => json(kind, payload).map(Self::Request),
            (1, _) => json(kind, payload).map(Self::Reply),
            (2, _) => Ok(Self::Input(payload.into())),
            (3, []) => Ok(Self::InputEnd),
            (4, _) => Ok(Self::Output(Stream::Stdout, payload.into())),
            (5, _) => Ok(Self::Output(Stream::Stderr, payload.into())),
            (6, &[a, b, c, d]) => {
                let (rows, columns) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                Ok(Self::Resize(Size { rows, columns }))
            }
            (7, _) => Ok(Self::Log(payload.into())),
            (8, &[code]) => Ok(Self::Ended(code)),
            _ => Err(malformed("wrong length")),
        }
    }

    /// Appends it to `bytes`.
    ///
    /// # Panics
    /// If it is longer than [`PAYLOAD_MAX`]; whoever makes one has cut it.
    pub fn emit(&self, bytes: &mut Vec<u8>) {
        let (kind, payload) = match self {
            Self::Request(request) => (0, &*emit_json(request)),
            Self::Reply(reply) => (1, &*emit_json(reply)),
            Self::Input(input) => (2, &**input),
            Self::InputEnd => (3, &[][..]),
            Self::Output(Stream::Stdout, output) => (4, &**output),
            Self::Output(Stream::Stderr, output) => (5, &**output),
            Self::Resize(Size { rows, columns }) => {
                (6, &*[rows.to_be_bytes(), columns.to_be_bytes()].concat())
            }
            Self::Log(line) => (7, &**line),
            Self::Ended(code) => (8, std::slice::from_ref(code)),
        };
        assert!(payload.len() <= PAYLOAD_MAX, "a frame of {} bytes", payload.len());
        bytes.push(kind);
        bytes.extend(u32::try_from(payload.len()).expect("the limit is lower").to_be_bytes());
        bytes.extend(payload);
    }
}

fn json<T: DeserializeOwned>(kind: u8, payload: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(payload).map_err(|error| FrameError::Malformed { kind, reason: error.to_string() })
}

fn emit_json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("requests and replies are plain structs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        let status = Status {
            state: TaskState::Exited,
            pid: 7,
            started_ms: Some(1),
            ended_ms: Some(2),
            exit_code: Some(127),
            error: Some("not found".into()),
        };
        vec![
            Frame::Request(Request::Status),
            Frame::Request(Request::Watch),
            Frame::Request(Request::Start),
            Frame::Request(Request::Signal { number: 15 }),
            Frame::Request(Request::Stop { number: 15, patience_ms: 10_000 }),
            Frame::Request(Request::Attach { input: true, output: false }),
            Frame::Request(Request::Logs { tail: Some(3) }),
            Frame::Reply(Reply::Status(status)),
            Frame::Reply(Reply::Done),
            Frame::Reply(Reply::Refused { reason: "no".into() }),
            Frame::Input(b"ls\n".to_vec()),
            Frame::InputEnd,
            Frame::Output(Stream::Stdout, vec![0xff; CHUNK_MAX]),
            Frame::Output(Stream::Stderr, Vec::new()),
            Frame::Resize(Size { rows: 24, columns: 300 }),
            Frame::Log(b"{}".to_vec()),
            Frame::Ended(255),
        ]
    }

    #[test]
    fn frames_come_as_they_went_and_parts_wait_for_the_rest() {
        for frame in frames() {
            let mut bytes = Vec::new();
            frame.emit(&mut bytes);
            for len in 0..bytes.len() {
                assert_eq!(Frame::parse(&bytes[..len]), Ok(None), "{len} bytes of {frame:?}");
            }
            let len = bytes.len();
            bytes.push(8);
            assert_eq!(Frame::parse(&bytes), Ok(Some((frame, len))));
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_as_soon_as_that_is_known() {
        assert_eq!(Frame::parse(&[9, 0, 0, 0, 0]), Err(FrameError::Kind(9)));
        assert_eq!(Frame::parse(&[2, 0, 4, 0, 1]), Err(FrameError::TooLong(0x4_0001)));
        for bytes in [
            &[3, 0, 0, 0, 1, 0][..],
            &[6, 0, 0, 0, 3, 0, 0, 0],
            &[8, 0, 0, 0, 2, 0, 0],
            &[0, 0, 0, 0, 2, b'{', b'}'],
            &[1, 0, 0, 0, 1, b'x'],
        ] {
            let kind = bytes[0];
            let refused = Frame::parse(bytes);
            assert!(
                matches!(refused, Err(FrameError::Malformed { kind: of, .. }) if of == kind),
                "{bytes:?}"
            );
        }
    }
}
