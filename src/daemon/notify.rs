//! Tells the service manager how it goes: sd_notify(3), which is one datagram to the socket that
//! `NOTIFY_SOCKET` names.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    Ready,
    Stopping,
}

impl Notice {
    fn text(self) -> &'static [u8] {
        match self {
            Self::Ready => b"READY=1",
            Self::Stopping => b"STOPPING=1",
        }
    }
}

/// Sends it to `socket`, an absolute path or, behind `@`, an abstract name.
pub(super) fn notify(socket: &OsStr, notice: Notice) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(socket)?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "NOTIFY_SOCKET is no socket's address")),
    };
    let sender = UnixDatagram::unbound()?;
    sender.send_to_addr(notice.text(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_arrives_by_path_and_by_name() {
        let name = format!("vswitchd-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let by_path = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        notify(path.as_os_str(), Notice::Ready).unwrap();
        notify(OsStr::new(&format!("@{name}")), Notice::Stopping).unwrap();
        let mut text = [0; 32];
        let len = by_path.recv(&mut text).unwrap();
        assert_eq!(&text[..len], b"READY=1");
        let len = by_name.recv(&mut text).unwrap();
        assert_eq!(&text[..len], b"STOPPING=1");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn other_addresses_are_errors() {
        for address in ["", "vsock:2:1234", "relative/path", "/no/such/socket"] {
            assert!(notify(OsStr::new(address), Notice::Ready).is_err(), "{address}");
        }
    }
}
