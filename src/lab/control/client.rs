//! The other terminals' side.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::geteuid;

use super::server::address;
use super::{LabName, Listing, Reply, Request, SOCKET_PREFIX};
use crate::lab::cluster::DaemonPlace;
use crate::namespace::messages::{self, CodecError};
use crate::namespace::peer::peer_uid;
use crate::namespace::visit::Kind;

/// How long a lab may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a lab may take to end.
const END_PATIENCE: Duration = Duration::from_secs(20);
/// How far apart the ends of a lab and of a command in it may be.
const LAST_MOMENT: Duration = Duration::from_millis(200);

/// Why a lab could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// This user has no lab.
    #[error("no lab is running: start one with `vswitchd lab --keep`")]
    NoLab,
    /// There is none of that name.
    #[error("no lab named {0} is running: `vswitchd lab ls` lists those that are")]
    NoSuchLab(LabName),
    /// Several labs, and none was named.
    #[error("several labs are running ({0}): say which with --name")]
    Several(String),
    /// Somebody else listens under the lab's name.
    #[error("what listens as lab {0} is another user's: not talking to it")]
    Stranger(LabName),
    /// The lab can't do it.
    #[error("lab {name}: {reason}")]
    Refused {
        /// The lab.
        name: LabName,
        /// Its reason.
        reason: String,
    },
    /// The lab did not end in time.
    #[error("lab {0} does not end: kill its process")]
    Stays(LabName),
    /// The answer makes no sense.
    #[error("lab {name}: {source}")]
    Talk {
        /// The lab.
        name: LabName,
        /// What is wrong with it.
        source: CodecError,
    },
    /// `/proc/net/unix` can't be read.
    #[error("can't look for labs: {0}")]
    Look(io::Error),
}

/// The names of this user's labs, in order.
///
/// # Errors
/// If the list of sockets can't be read.
pub fn labs() -> Result<Vec<LabName>, AskError> {
    let sockets = fs::read("/proc/net/unix").map_err(AskError::Look)?;
    Ok(names_in(&String::from_utf8_lossy(&sockets), geteuid().as_raw()))
}

/// Picks them from the list's last column, in which `@` stands for an abstract name's first byte (unix(7)).
fn names_in(sockets: &str, uid: u32) -> Vec<LabName> {
    let prefix = format!("@{SOCKET_PREFIX}{uid}/");
    let column = sockets.lines().filter_map(|line| line.split_ascii_whitespace().nth(7));
    let mut names: Vec<LabName> =
        column.filter_map(|path| path.strip_prefix(&prefix)?.parse().ok()).collect();
    names.sort();
    // Each connection that waits to be accepted is listed under the same name.
    names.dedup();
    names
}

/// The lab that is meant: the named one, or the only one.
///
/// # Errors
/// If there is none, or several.
pub fn choose(name: Option<LabName>) -> Result<LabName, AskError> {
    if let Some(name) = name {
        return Ok(name);
    }
    let mut labs = labs()?;
    match (labs.pop(), labs.is_empty()) {
        (None, _) => Err(AskError::NoLab),
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            let names: Vec<&str> = labs.iter().chain([&last]).map(LabName::as_str).collect();
            Err(AskError::Several(names.join(", ")))
        }
    }
}

/// What a lab consists of.
///
/// # Errors
/// See [`AskError`].
pub fn list(name: &LabName) -> Result<Listing, AskError> {
    match ask(name, &Request::List)? {
        (_, Reply::Lab(listing), _) => Ok(listing),
        (_, other, _) => Err(refused(name, other)),
    }
}

/// A visit to a lab; the lab ends the connection when it ends.
#[derive(Debug)]
pub struct Visit(UnixStream);

impl Visit {
    /// Whether the lab has ended, or does so within a moment: it dies together with the commands in it.
    #[must_use]
    pub fn has_lab_ended(&self) -> bool {
        let mut stream = &self.0;
        let patient = self.0.set_read_timeout(Some(LAST_MOMENT));
        let outcome = patient.and_then(|()| stream.read(&mut [0]));
        matches!(outcome, Ok(0)) || outcome.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
    }
}

/// A way into a node or an endpoint.
#[derive(Debug)]
pub struct Entrance {
    /// Ends with the lab.
    pub visit: Visit,
    /// To be joined.
    pub namespaces: Vec<(Kind, OwnedFd)>,
    /// The node's daemon, if it runs one.
    pub daemon: Option<DaemonPlace>,
}

/// The way into a node or an endpoint.
///
/// # Errors
/// See [`AskError`].
pub fn enter(name: &LabName, target: &str) -> Result<Entrance, AskError> {
    match ask(name, &Request::Enter { target: target.into() })? {
        (stream, Reply::Entrance { kinds, daemon }, descriptors) if kinds.len() == descriptors.len() => {
            let namespaces = kinds.into_iter().zip(descriptors).collect();
            Ok(Entrance { visit: Visit(stream), namespaces, daemon })
        }
        (_, other, _) => Err(refused(name, other)),
    }
}

/// Ends a lab and waits until it has ended.
///
/// # Errors
/// See [`AskError`].
pub fn down(name: &LabName) -> Result<(), AskError> {
    let mut stream = match ask(name, &Request::Down)? {
        (stream, Reply::Ending, _) => stream,
        (_, other, _) => return Err(refused(name, other)),
    };
    let patient = stream.set_read_timeout(Some(END_PATIENCE));
    match patient.and_then(|()| stream.read(&mut [0])) {
        // A lab that was killed meanwhile has ended as well.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Err(_) => Err(AskError::Stays(name.clone())),
    }
}

fn refused(name: &LabName, reply: Reply) -> AskError {
    let reason = match reply {
        Reply::Refused { reason } => reason,
        _ => "an answer to another question: is it of another version?".into(),
    };
    AskError::Refused { name: name.clone(), reason }
}

type Answer = (UnixStream, Reply, Vec<OwnedFd>);

fn ask(name: &LabName, request: &Request) -> Result<Answer, AskError> {
    match converse(name, request) {
        // As a lab does that ends just now: then nobody is there any more.
        Err(AskError::Talk { source, .. }) if is_hang_up(&source) => converse(name, request),
        outcome => outcome,
    }
}

fn is_hang_up(error: &CodecError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    match error {
        CodecError::Ended => true,
        CodecError::Io(error) => matches!(error.kind(), ConnectionReset | BrokenPipe),
        _ => false,
    }
}

fn converse(name: &LabName, request: &Request) -> Result<Answer, AskError> {
    let talk = |source: CodecError| AskError::Talk { name: name.clone(), source };
    let stream = address(name).and_then(|address| UnixStream::connect_addr(&address));
    let stream = stream.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => AskError::NoSuchLab(name.clone()),
        _ => talk(error.into()),
    })?;
    // Anybody may listen under any abstract name.
    let peer = peer_uid(stream.as_fd()).map_err(|error| talk(error.into()))?;
    if peer != geteuid().as_raw() {
        return Err(AskError::Stranger(name.clone()));
    }
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| talk(error.into()))?;
    messages::send(&stream, request, &[]).map_err(talk)?;
    let (reply, descriptors) = messages::receive(&stream).map_err(talk)?;
    Ok((stream, reply, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labs_are_found_among_sockets() {
        let sockets = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 16385 @vswitchd-lab/1000/two
0000000000000000: 00000003 00000000 00000000 0001 02 16390 @vswitchd-lab/1000/two
0000000000000000: 00000002 00000000 00010000 0001 01 16386 @vswitchd-lab/1000/lab
0000000000000000: 00000002 00000000 00010000 0001 01 16387 @vswitchd-lab/1001/other
0000000000000000: 00000002 00000000 00010000 0001 01 16388 @vswitchd-lab/1000/no/name
0000000000000000: 00000002 00000000 00010000 0001 01 16389 /run/vswitchd-lab/1000/file
0000000000000000: 00000003 00000000 00000000 0001 03 16391
";
        let names: Vec<String> = names_in(sockets, 1000).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["lab", "two"]);
        assert!(names_in(sockets, 100).is_empty());
        assert!(names_in("", 1000).is_empty());
    }

    #[test]
    fn a_lab_that_ends_while_it_is_asked_is_none() {
        let name: LabName = format!("ending-{}", std::process::id()).parse().unwrap();
        let (_, listener) = super::super::server::listen(Some(&name)).unwrap();
        let lab = std::thread::spawn(move || {
            let connection = listener.accept().unwrap();
            drop(listener);
            drop(connection);
        });
        let outcome = list(&name);
        lab.join().unwrap();
        assert!(matches!(&outcome, Err(AskError::NoSuchLab(of)) if *of == name), "{outcome:?}");
    }

    #[test]
    fn names_that_could_mislead_are_refused() {
        for text in ["", "a/b", "a b", "ü", "@x", &"x".repeat(33)] {
            assert!(text.parse::<LabName>().is_err(), "{text}");
        }
        assert!("My-lab_2.0".parse::<LabName>().is_ok());
    }
}
