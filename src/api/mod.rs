//! The daemon's local API: HTTP/1.1 with JSON bodies on a UNIX socket.
//!
//! ```text
//! method and path              body                 answer
//! GET  /v1/status              –                    Status
//! POST /v1/init                InitRequest          Initialized
//! POST /v1/join                JoinRequest          Joined
//! POST /v1/leave               LeaveRequest         null
//! GET  /v1/token/ROLE          –                    TokenAnswer
//! POST /v1/token/ROLE/rotate   –                    TokenAnswer
//! ```
//!
//! A path begins with the version of what it means. Every refusal has the status of its [`Code`] and the body
//! `{"error": "<code>", "message": "<one line that says what to do>"}`. One request a connection.
//!
//! Who may talk is settled by the socket's file (its owner, and a group if one is named) and, again, by what the
//! kernel says of the peer. [`Call`] is the one place where paths and bodies are parsed and emitted: the server and
//! the [`client`] share it.

mod call;
pub mod client;
mod refusal;
pub mod server;
mod socket;
mod types;

pub use call::Call;
pub use refusal::{Code, Refusal};
pub use socket::{Socket, SocketError};
pub use types::{
    ClusterStatus, InitRequest, Initialized, JoinRequest, Joined, LeaveRequest, SecretText, Status,
    TokenAnswer,
};

/// Bytes of a request's body.
pub const BODY_MAX: usize = 64 * 1024;
/// Bytes of an answer's body: a row of a thousand bytes for each of many thousand nodes.
pub const ANSWER_MAX: usize = 16 << 20;
