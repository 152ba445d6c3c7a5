//! The lab's side.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use rustix::process::geteuid;

use super::{LabName, Listing, Reply, Request, SOCKET_PREFIX};
use crate::lab::Lab;
use crate::lab::cluster::DaemonPlace;
use crate::namespace::messages::{self, CodecError};
use crate::namespace::netns::NetNs;
use crate::namespace::peer::peer_uid;
use crate::namespace::visit::Kind;

/// How long a peer may take for its request; others wait meanwhile, and all are the same user.
const PATIENCE: Duration = Duration::from_secs(1);
/// Visitors whose connection is kept, so that they see it end with the lab; the first are let go for later ones.
const VISITS_MAX: usize = 256;
/// Names that are tried for a lab without one.
const NAMES_TRIED: u32 = 100;

/// Why a lab can't be found by others.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another lab has the name.
    #[error(
        "a lab named {0} is running already: choose another --name, or end it with `vswitchd lab down --name {0}`"
    )]
    Taken(LabName),
    /// The socket can't be opened.
    #[error("can't open the control socket: {0}")]
    Io(#[from] io::Error),
}

/// The address of a lab of the calling user.
pub(super) fn address(name: &LabName) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("{SOCKET_PREFIX}{}/{name}", geteuid().as_raw()))
}

/// Opens the socket of a lab, in the calling thread's network namespace: before entering a sandbox. Without a
/// name it is called `lab`, or `lab2`, `lab3`, … if others are there.
///
/// # Errors
/// If the name is taken, or no socket is to be had.
pub fn listen(name: Option<&LabName>) -> Result<(LabName, UnixListener), ListenError> {
    if let Some(name) = name {
        return Ok((name.clone(), listen_as(name)?));
    }
    let numbered = |number| if number == 1 { "lab".into() } else { format!("lab{number}") };
    let mut last = Err(ListenError::Io(io::ErrorKind::AddrInUse.into()));
    for number in 1..=NAMES_TRIED {
        let name = LabName(numbered(number));
        last = listen_as(&name).map(|listener| (name, listener));
        if !matches!(last, Err(ListenError::Taken(_))) {
            break;
        }
    }
    last
}

fn listen_as(name: &LabName) -> Result<UnixListener, ListenError> {
    UnixListener::bind_addr(&address(name)?).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::Taken(name.clone()),
        _ => error.into(),
    })
}

/// The name under which a socket listens, as [`listen`] has chosen it.
///
/// # Errors
/// If it is not such a socket.
pub fn name_of(listener: &UnixListener) -> io::Result<LabName> {
    let address = listener.local_addr()?;
    let bytes = address.as_abstract_name().unwrap_or_default();
    let name = std::str::from_utf8(bytes).ok().and_then(|text| text.rsplit('/').next()?.parse().ok());
    name.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// What becomes of a connection after its request.
enum Then {
    HangUp,
    Stay,
    End,
}

/// Answers requests.
#[derive(Debug)]
pub struct Server {
    listing: Listing,
    /// Of the sandbox, as the calling process is in it.
    sandbox: Vec<(Kind, OwnedFd)>,
    places: HashMap<String, Place>,
}

/// A node, the host outside or an endpoint.
#[derive(Debug)]
struct Place {
    netns: NetNs,
    /// Of the node, if it is one's.
    daemon: Option<DaemonPlace>,
}

impl Server {
    /// For a lab in this process's sandbox.
    ///
    /// # Errors
    /// If `/proc` is not there.
    pub fn new(name: &LabName, lab: &Lab) -> io::Result<Self> {
        let kinds = [Kind::User, Kind::Pid, Kind::Mnt];
        let sandbox = kinds.into_iter().map(|kind| Ok((kind, kind.own()?))).collect::<io::Result<_>>()?;
        let mut listing = Listing::new(name.as_str(), lab.plan());
        let mut places = HashMap::new();
        for (listed, node) in listing.nodes.iter_mut().zip(lab.nodes()) {
            listed.daemon = node.daemon().cloned();
            let place = |netns: &NetNs| Place { netns: netns.clone(), daemon: node.daemon().cloned() };
            places.insert(node.plan().name.clone(), place(node.netns()));
            let endpoints = node.endpoints().iter();
            places.extend(endpoints.map(|of| (of.plan().name.clone(), place(of.netns()))));
        }
        let outside = lab.outside();
        places.insert(outside.plan().name.clone(), Place { netns: outside.netns().clone(), daemon: None });
        Ok(Self { listing, sandbox, places })
    }

    /// Serves until somebody asks the lab to end; gives that connection, whose end tells them that it has.
    ///
    /// # Errors
    /// If the socket fails. A peer's failure is only its own.
    pub fn serve(&self, listener: &UnixListener) -> io::Result<UnixStream> {
        let mut visits = VecDeque::new();
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match self.converse(&stream) {
                Ok(Then::HangUp) => {}
                Ok(Then::Stay) => {
                    if visits.len() == VISITS_MAX {
                        visits.pop_front();
                    }
                    visits.push_back(stream);
                }
                Ok(Then::End) => return Ok(stream),
                // A peer that hangs up or talks nonsense gets no answer.
                Err(_) => {}
            }
        }
    }

    /// Answers one request.
    fn converse(&self, stream: &UnixStream) -> Result<Then, CodecError> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // In a user namespace other users, root included, have no number: they are all "nobody".
        if peer_uid(stream.as_fd())? != geteuid().as_raw() {
            messages::send(stream, &Reply::Refused { reason: "this lab is another user's".into() }, &[])?;
            return Ok(Then::HangUp);
        }
        let (request, _) = messages::receive::<Request>(stream)?;
        match request {
            Request::List => messages::send(stream, &Reply::Lab(self.listing.clone()), &[])?,
            Request::Enter { target } => {
                self.admit(stream, &target)?;
                return Ok(Then::Stay);
            }
            Request::Down => {
                messages::send(stream, &Reply::Ending, &[])?;
                return Ok(Then::End);
            }
        }
        Ok(Then::HangUp)
    }

    fn admit(&self, stream: &UnixStream, target: &str) -> Result<(), CodecError> {
        let Some(place) = self.places.get(target) else {
            let reason = format!("it has no node or endpoint of that name: try {}", self.some_names());
            return messages::send(stream, &Reply::Refused { reason }, &[]);
        };
        let mut kinds: Vec<Kind> = self.sandbox.iter().map(|(kind, _)| *kind).collect();
        let mut descriptors: Vec<_> = self.sandbox.iter().map(|(_, fd)| fd.as_fd()).collect();
        kinds.push(Kind::Net);
        descriptors.push(place.netns.as_fd());
        messages::send(stream, &Reply::Entrance { kinds, daemon: place.daemon.clone() }, &descriptors)
    }

    fn some_names(&self) -> String {
        let nodes = self.listing.nodes.iter().take(4);
        let names = nodes.flat_map(|node| {
            let endpoints = node.endpoints.iter().map(|endpoint| endpoint.name.as_str());
            std::iter::once(node.name.as_str()).chain(endpoints.take(2))
        });
        names.collect::<Vec<_>>().join(", ")
    }
}
