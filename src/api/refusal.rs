//! Why a call was not done.

use serde::{Deserialize, Serialize};

/// What kind of refusal it is, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request makes no sense.
    BadRequest,
    /// Whoever asks may not.
    Forbidden,
    /// There is no such path.
    NotFound,
    /// The path is there, but not with this method.
    MethodNotAllowed,
    /// The request's body did not arrive in time.
    Timeout,
    /// The request's body is too long.
    TooLarge,
    /// It can't be done as things are.
    Conflict,
    /// What does it is not running at the moment.
    Unavailable,
    /// No manager let this node into its cluster.
    NotJoined,
    /// The daemon failed; its log has more.
    Internal,
    /// A code that a newer daemon has.
    #[serde(other)]
    Unknown,
}

impl Code {
    /// The status of HTTP that goes with it (RFC 9110 §15).
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Timeout => 408,
            Self::TooLarge => 413,
            Self::Conflict => 409,
            Self::Internal | Self::Unknown => 500,
            Self::NotJoined => 502,
            Self::Unavailable => 503,
        }
    }
}

/// A refusal as it goes over the socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Its kind.
    #[serde(rename = "error")]
    pub code: Code,
    /// What is wrong and what to do, in one line.
    pub message: String,
}

impl Refusal {
    /// With a message, of which line ends are taken out.
    #[must_use]
    pub fn new(code: Code, message: impl AsRef<str>) -> Self {
        let message = message.as_ref().lines().collect::<Vec<_>>().join("; ");
        Self { code, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_one_shape() {
        let refusal = Refusal::new(Code::TooLarge, "too\nlong");
        let json = serde_json::to_string(&refusal).unwrap();
        assert_eq!(json, r#"{"error":"too-large","message":"too; long"}"#);
        assert_eq!(serde_json::from_str::<Refusal>(&json).unwrap(), refusal);
    }

    #[test]
    fn codes_of_newer_daemons_are_understood_as_refusals() {
        let newer = r#"{"error":"moon-too-full","message":"wait"}"#;
        assert_eq!(serde_json::from_str::<Refusal>(newer).unwrap().code, Code::Unknown);
    }
}
