//! Requests: method, path and body to a [`Call`], and back.

use super::refusal::{Code, Refusal};

/// What can be asked of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// How it is.
    Status,
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
        match (resource, method) {
            ("status", "GET") => empty(body).map(|()| Self::Status),
            ("status", _) => Err(Refusal::new(Code::MethodNotAllowed, "want GET")),
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
            Self::Status => "GET",
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> String {
        let resource = match self {
            Self::Status => "status",
        };
        format!("/{VERSION}/{resource}")
    }

    /// Its body.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        match self {
            Self::Status => Vec::new(),
        }
    }
}

fn empty(body: &[u8]) -> Result<(), Refusal> {
    if body.is_empty() { Ok(()) } else { Err(Refusal::new(Code::BadRequest, "this request has no body")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_come_as_they_went() {
        for call in [Call::Status] {
            assert_eq!(Call::parse(call.method(), &call.path(), &call.body()), Ok(call));
        }
    }

    #[test]
    fn other_requests_are_refused() {
        let code = |method, path, body: &[u8]| Call::parse(method, path, body).unwrap_err().code;
        for path in
            ["", "/", "/v1", "/v1/", "/v2/status", "//v1/status", "/v1/status/", "/v1/../v1/status", "\u{0}"]
        {
            assert_eq!(code("GET", path, b""), Code::NotFound, "{path:?}");
        }
        assert_eq!(code("POST", "/v1/status", b""), Code::MethodNotAllowed);
        assert_eq!(code("GET", "/v1/status", b"{}"), Code::BadRequest);
    }
}
