//! Requests: method, path and body to a [`Call`], and back.

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::refusal::{Code, Refusal};
use super::types::{InitRequest, JoinRequest, LeaveRequest};
use crate::crypto::identity::Role;

/// What can be asked of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// How it is.
    Status,
    /// To make a cluster.
    Init(InitRequest),
    /// To enter one.
    Join(JoinRequest),
    /// To leave it.
    Leave(LeaveRequest),
    /// The join token of a role.
    Token(Role),
    /// A new one, in place of the old.
    RotateToken(Role),
}

/// The only version there is.
const VERSION: &str = "v1";

impl Call {
    /// Makes sense of a request, of which nothing is trusted.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::MethodNotAllowed`] or [`Code::BadRequest`], and why.
    pub fn parse(method: &str, path: &str, body: &[u8]) -> Result<Self, Refusal> {
        let inside = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let Some((VERSION, resource)) = inside else {
            return Err(Refusal::new(Code::NotFound, "no such path: those of this daemon begin with /v1/"));
        };
        let parts: Vec<&str> = resource.split('/').collect();
        match (parts.as_slice(), method) {
            (["status"], "GET") => empty(body).map(|()| Self::Status),
            (["init"], "POST") => document(body).map(Self::Init),
            (["join"], "POST") => document(body).map(Self::Join),
            (["leave"], "POST") => document(body).map(Self::Leave),
            (["token", role], "GET") => empty(body).and_then(|()| role_of(role)).map(Self::Token),
            (["token", role, "rotate"], "POST") => {
                empty(body).and_then(|()| role_of(role)).map(Self::RotateToken)
            }
            (["status"] | ["token", _], _) => Err(Refusal::new(Code::MethodNotAllowed, "want GET")),
            (["init" | "join" | "leave"] | ["token", _, "rotate"], _) => {
                Err(Refusal::new(Code::MethodNotAllowed, "want POST"))
            }
            _ => Err(Refusal::new(
                Code::NotFound,
                "no such path: perhaps the daemon is older than what asks (`vswitchd status` shows its version)",
            )),
        }
    }

    /// Its method.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self {
            Self::Status | Self::Token(_) => "GET",
            Self::Init(_) | Self::Join(_) | Self::Leave(_) | Self::RotateToken(_) => "POST",
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Status => format!("/{VERSION}/status"),
            Self::Init(_) => format!("/{VERSION}/init"),
            Self::Join(_) => format!("/{VERSION}/join"),
            Self::Leave(_) => format!("/{VERSION}/leave"),
            Self::Token(role) => format!("/{VERSION}/token/{role}"),
            Self::RotateToken(role) => format!("/{VERSION}/token/{role}/rotate"),
        }
    }

    /// Its body, which may hold a secret.
    #[must_use]
    pub fn body(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Status | Self::Token(_) | Self::RotateToken(_) => Zeroizing::default(),
            Self::Init(request) => emit(request),
            Self::Join(request) => emit(request),
            Self::Leave(request) => emit(request),
        }
    }
}

fn emit(document: &impl Serialize) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(serde_json::to_vec(document).expect("requests are plain structs"))
}

fn document<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    // Serde's messages name fields and places, and quote only what is of a wrong type.
    serde_json::from_slice(body).map_err(|error| Refusal::new(Code::BadRequest, format!("the body: {error}")))
}

fn role_of(text: &str) -> Result<Role, Refusal> {
    let refused = |error| Refusal::new(Code::NotFound, format!("no such role: {error}"));
    text.parse().map_err(refused)
}

fn empty(body: &[u8]) -> Result<(), Refusal> {
    if body.is_empty() { Ok(()) } else { Err(Refusal::new(Code::BadRequest, "this request has no body")) }
}

#[cfg(test)]
mod tests {
    use super::super::SecretText;
    use super::*;

    fn calls() -> Vec<Call> {
        let join = JoinRequest {
            token: SecretText(Zeroizing::new("VSWTKN-1-a-b".into())),
            managers: vec!["192.0.2.1".into()],
            advertise_addr: Some("eth0".into()),
            listen_addr: Some("[::]:2377".parse().unwrap()),
            name: None,
            gossip_port: Some(7947),
        };
        let mut calls = vec![
            Call::Status,
            Call::Init(InitRequest { name: Some("one".into()), ..InitRequest::default() }),
            Call::Join(join),
            Call::Leave(LeaveRequest { force: true }),
        ];
        calls.extend(Role::ALL.into_iter().flat_map(|role| [Call::Token(role), Call::RotateToken(role)]));
        calls
    }

    #[test]
    fn calls_come_as_they_went() {
        for call in calls() {
            assert_eq!(Call::parse(call.method(), &call.path(), &call.body()), Ok(call));
        }
    }

    #[test]
    fn other_requests_are_refused() {
        let code = |method: &str, path: &str, body: &[u8]| Call::parse(method, path, body).unwrap_err().code;
        for path in
            ["", "/", "/v1", "/v1/", "/v2/status", "//v1/status", "/v1/status/", "/v1/../v1/status", "\u{0}"]
        {
            assert_eq!(code("GET", path, b""), Code::NotFound, "{path:?}");
        }
        for call in calls() {
            assert_eq!(code("PUT", &call.path(), &call.body()), Code::MethodNotAllowed, "{call:?}");
            let mut other = call.body().to_vec();
            if other.pop().is_none() {
                other.extend(b"{}");
            }
            assert_eq!(code(call.method(), &call.path(), &other), Code::BadRequest, "{call:?}");
        }
        assert_eq!(code("GET", "/v1/token/king", b""), Code::NotFound);
        assert_eq!(code("POST", "/v1/init", br#"{"advertise-addr":"x"}"#), Code::BadRequest);
    }

    #[test]
    fn secrets_are_not_printed() {
        let shown = format!("{:?}", calls());
        assert!(!shown.contains("VSWTKN") && shown.contains("redacted"), "{shown}");
    }
}
