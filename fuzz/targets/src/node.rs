//! What comes to a daemon: by its API, from nodes that want to join, from members; and to a task's keeper.

use vswitchd::api::{Call, Code, PUBLISHED_MAX, Publish, PublishedPort};
use vswitchd::task::frame::Frame;

pub use vswitchd::node::hostile::{join, link, mesh, record, service};

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

/// What is written behind `--publish`: some ports, each of which is read again from its shortest form.
pub fn publish(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(Publish(ports)) = text.parse() else { return };
    assert!((1..=PUBLISHED_MAX).contains(&ports.len()), "{} ports", ports.len());
    for port in ports {
        let PublishedPort { address, published, target, protocol } = port;
        assert_ne!(target, 0);
        let published = if published == 0 { String::new() } else { published.to_string() };
        let written = match address {
            Some(address) if address.is_ipv6() => format!("[{address}]:{published}:{target}/{protocol}"),
            Some(address) => format!("{address}:{published}:{target}/{protocol}"),
            None if published.is_empty() => format!("{target}/{protocol}"),
            None => format!("{published}:{target}/{protocol}"),
        };
        assert_eq!(written.parse::<Publish>(), Ok(Publish(vec![port])), "{written}");
        assert_eq!(port.clashes(&port), port.published > 0);
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
