//! What comes to a daemon: by its API, from nodes that want to join, from members; and to a task's keeper.

use vswitchd::api::{Call, Code};
use vswitchd::task::frame::Frame;

pub use vswitchd::node::hostile::{join, link, record};

/// A request to the API, as a line `METHOD PATH` and a body: refused for one of three reasons, or what is written for it
/// is read as the same.
pub fn api(data: &[u8]) {
    let end = data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len());
    let (line, body) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let Ok(line) = std::str::from_utf8(line) else { return };
    let (method, path) = line.split_once(' ').unwrap_or((line, ""));
    match Call::parse(method, path, body) {
        Ok(call) => {
            assert_eq!(call.method(), method);
            // Not always the same path: an empty query means none.
            assert_eq!(Call::parse(method, &call.path(), &call.body()), Ok(call));
        }
        Err(refusal) => {
            let reasons = [Code::NotFound, Code::MethodNotAllowed, Code::BadRequest];
            assert!(reasons.contains(&refusal.code), "{refusal:?}");
        }
    }
}

/// Bytes at a task's control socket: each frame is read as what is written for it, and no beginning of it is one.
pub fn task(mut data: &[u8]) {
    while let Ok(Some((frame, len))) = Frame::parse(data) {
        assert!(Frame::parse(&data[..len - 1]).is_ok_and(|parsed| parsed.is_none()), "a part is a whole");
        let mut written = Vec::new();
        frame.emit(&mut written);
        assert_eq!(Frame::parse(&written), Ok(Some((frame, written.len()))));
        data = &data[len..];
    }
}
