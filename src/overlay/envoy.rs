//! What has to be done in somebody else's user namespace, by a process that goes there.
//!
//! An ordinary user's daemon stays in the host's namespaces, where it may make no device; and a network namespace that an
//! ordinary user has made, such as a task's, belongs to a user namespace in which that user may do all. A process with
//! several threads can't go there (setns(2)), so the daemon sends this program's `envoy` command: one errand, one answer,
//! over a socket that is its standard input. Devices come back as descriptors.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::fstat;
use serde::{Deserialize, Serialize};

use super::endpoint::{AttachError, EndpointSpec};
use super::interface;
use crate::api::{EndpointDevice, text};
use crate::namespace::init::THIS_PROGRAM;
use crate::namespace::messages::{self, CodecError, DESCRIPTORS_MAX};
use crate::namespace::netns::NetNs;
use crate::namespace::sandbox::is_privileged;
use crate::namespace::visit::{self, Kind};
use crate::switch::io::netns::{NetnsRef, owner};
use crate::switch::io::tap::{Offloads, Tap, TapConfig, TapFacts};
use crate::switch::wire::MacAddr;

/// How long an errand may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an envoy is to do. With it come the user namespace and the network namespace.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "errand", rename_all = "lowercase")]
enum Errand {
    /// To open a TAP.
    Open(Wanted),
    /// To settle an endpoint's interface.
    Settle {
        /// The endpoint; its namespace is the one that comes along.
        spec: EndpointSpec,
        /// Whether its TAP was made for it.
        made: bool,
    },
    /// To find a name for its TAP.
    Name {
        /// The endpoint.
        spec: EndpointSpec,
    },
    /// To set its MTU.
    Mtu {
        /// The endpoint.
        spec: EndpointSpec,
        /// Bytes.
        mtu: u32,
    },
    /// To remove its interface.
    Remove {
        /// The endpoint.
        gone: EndpointSpec,
        /// Those that stay in its namespace.
        beside: Vec<EndpointSpec>,
    },
}

/// A [`TapConfig`], without what is the same for all.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    name: String,
    mtu: Option<u32>,
    up: bool,
    super_frame_max: Option<u32>,
    queues: usize,
    offloads: [bool; 5],
}

/// What has come of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
enum Answer {
    /// A TAP, whose queues come along.
    Opened {
        name: String,
        created: bool,
        offloads: [bool; 5],
        #[serde(with = "text")]
        mac: MacAddr,
        mtu: u32,
    },
    /// The endpoint's MAC address.
    Settled {
        #[serde(with = "text::optional")]
        mac: Option<MacAddr>,
        /// Its way out.
        ways_out: Vec<IpAddr>,
    },
    /// A name that is free.
    Named { name: String },
    /// That it is done.
    Done,
    /// Why nothing has.
    Failed { reason: String },
}

/// Why an errand was not done.
#[derive(Debug, thiserror::Error)]
pub enum EnvoyError {
    /// The envoy could not.
    #[error("{0}")]
    Failed(String),
    /// The envoy can't be sent or understood.
    #[error("the process sent to the endpoint's user namespace: {0}")]
    Talk(#[from] CodecError),
    /// The same.
    #[error("the process sent to the endpoint's user namespace: {0}")]
    Io(#[from] io::Error),
    /// The same.
    #[error("the process sent to the endpoint's user namespace gives an answer to another question")]
    Answer,
}

/// A network namespace in which only an envoy can do something.
#[derive(Debug)]
pub(super) struct Abroad {
    user: OwnedFd,
    net: OwnedFd,
}

impl Abroad {
    /// Looks whether an endpoint's is one. One whose owner isn't told is none: who tries to enter it says why not.
    pub(super) fn find(spec: &EndpointSpec) -> Result<Option<Self>, AttachError> {
        let Some(netns) = spec.netns_ref()?.filter(|_| !is_privileged()) else { return Ok(None) };
        let net = netns.open()?;
        let Ok(user) = owner(net.as_fd()) else { return Ok(None) };
        let place = |namespace: &OwnedFd| fstat(namespace).map(|stat| (stat.st_dev, stat.st_ino));
        let own = Kind::User.own().map_err(EnvoyError::from)?;
        let foreign = place(&own) != place(&user);
        Ok(foreign.then_some(Self { user, net }))
    }

    /// Opens a TAP there.
    pub(super) fn open(&self, config: &TapConfig) -> Result<Tap, EnvoyError> {
        let errand = Errand::Open(Wanted {
            name: config.name.clone(),
            mtu: config.mtu,
            up: config.up,
            super_frame_max: config.super_frame_max,
            queues: config.queues.min(DESCRIPTORS_MAX),
            offloads: to_flags(config.offloads),
        });
        match self.send(&errand)? {
            (Answer::Opened { name, created, offloads, mac, mtu }, queues) => {
                let facts = TapFacts { name, created, offloads: from_flags(offloads), mac, mtu };
                Tap::from_parts(facts, queues).ok_or(EnvoyError::Answer)
            }
            _ => Err(EnvoyError::Answer),
        }
    }

    /// Does what [`interface::settle`] does, there.
    pub(super) fn settle(&self, spec: &mut EndpointSpec, made: bool) -> Result<Vec<IpAddr>, EnvoyError> {
        match self.send(&Errand::Settle { spec: spec.clone(), made })? {
            (Answer::Settled { mac, ways_out }, _) => {
                spec.mac = mac;
                Ok(ways_out)
            }
            _ => Err(EnvoyError::Answer),
        }
    }

    /// Does what [`interface::name`] does, there.
    pub(super) fn name(&self, spec: &EndpointSpec) -> Result<String, EnvoyError> {
        match self.send(&Errand::Name { spec: spec.clone() })? {
            (Answer::Named { name }, _) => Ok(name),
            _ => Err(EnvoyError::Answer),
        }
    }

    /// Does what [`interface::set_mtu`] does, there.
    pub(super) fn set_mtu(&self, spec: &EndpointSpec, mtu: u32) -> Result<(), EnvoyError> {
        self.send_for_done(&Errand::Mtu { spec: spec.clone(), mtu })
    }

    /// Does what [`interface::remove`] does, there.
    pub(super) fn remove(&self, gone: &EndpointSpec, beside: Vec<EndpointSpec>) -> Result<(), EnvoyError> {
        self.send_for_done(&Errand::Remove { gone: gone.clone(), beside })
    }

    fn send_for_done(&self, errand: &Errand) -> Result<(), EnvoyError> {
        match self.send(errand)? {
            (Answer::Done, _) => Ok(()),
            _ => Err(EnvoyError::Answer),
        }
    }

    fn send(&self, errand: &Errand) -> Result<(Answer, Vec<OwnedFd>), EnvoyError> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        let mut command = Command::new(THIS_PROGRAM);
        command.arg("envoy").stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
        let mut envoy = command.stderr(Stdio::null()).spawn()?;
        // The command has our copy of its end.
        drop(command);
        let answer = messages::send(&ours, errand, &[self.user.as_fd(), self.net.as_fd()])
            .and_then(|()| messages::receive(&ours));
        if answer.is_err() {
            // It may hang; or it has ended, and this is in vain.
            let _ended = envoy.kill();
        }
        envoy.wait()?;
        match answer? {
            (Answer::Failed { reason }, _) => Err(EnvoyError::Failed(reason)),
            answered => Ok(answered),
        }
    }
}

/// The envoy's side: does the errand that comes at `stream` and answers there.
///
/// # Errors
/// If it can't be heard or answered; what can't be done is an answer.
pub fn serve(stream: &UnixStream) -> Result<(), EnvoyError> {
    let (errand, descriptors) = messages::receive::<Errand>(stream)?;
    let (answer, queues) = match <[OwnedFd; 2]>::try_from(descriptors) {
        Ok([user, net]) => run(errand, user, &net),
        Err(_) => return Err(EnvoyError::Answer),
    }
    .unwrap_or_else(|error| {
        let reason = error.to_string();
        (Answer::Failed { reason }, Vec::new())
    });
    let queues: Vec<_> = queues.iter().map(AsFd::as_fd).collect();
    Ok(messages::send(stream, &answer, &queues)?)
}

fn run(
    errand: Errand,
    user: OwnedFd,
    net: &OwnedFd,
) -> Result<(Answer, Vec<OwnedFd>), Box<dyn std::error::Error + Send + Sync>> {
    visit::join(vec![(Kind::User, user)])?;
    let place = format!("/proc/self/fd/{}", net.as_raw_fd());
    match errand {
        Errand::Open(wanted) => {
            let config = TapConfig {
                netns: Some(NetnsRef::Path(place.into())),
                mtu: wanted.mtu,
                up: wanted.up,
                offloads: from_flags(wanted.offloads),
                super_frame_max: wanted.super_frame_max,
                queues: wanted.queues,
                ..TapConfig::new(wanted.name)
            };
            // A device is made in one namespace and moved to another, so that it goes with that; and here, too, it can be
            // made in a namespace of this user namespace only.
            let (facts, queues) = NetNs::create()?.run(|| Tap::open(&config))??.into_parts()?;
            let TapFacts { name, created, offloads, mac, mtu } = facts;
            Ok((Answer::Opened { name, created, offloads: to_flags(offloads), mac, mtu }, queues))
        }
        Errand::Settle { mut spec, made } => {
            spec.device = EndpointDevice::tap(spec.device.interface(), Some(place));
            let ways_out = interface::settle_here(&mut spec, made)?;
            Ok((Answer::Settled { mac: spec.mac, ways_out }, Vec::new()))
        }
        Errand::Name { mut spec } => {
            spec.device = EndpointDevice::tap(spec.device.interface(), Some(place));
            Ok((Answer::Named { name: interface::name_here(&spec)? }, Vec::new()))
        }
        Errand::Mtu { mut spec, mtu } => {
            spec.device = EndpointDevice::tap(spec.device.interface(), Some(place));
            interface::set_mtu_here(&spec, mtu)?;
            Ok((Answer::Done, Vec::new()))
        }
        Errand::Remove { mut gone, beside } => {
            gone.device = EndpointDevice::tap(gone.device.interface(), Some(place));
            interface::remove_here(&gone, &beside)?;
            Ok((Answer::Done, Vec::new()))
        }
    }
}

fn to_flags(offloads: Offloads) -> [bool; 5] {
    let Offloads { header, checksum, tso, ecn, uso } = offloads;
    [header, checksum, tso, ecn, uso]
}

fn from_flags([header, checksum, tso, ecn, uso]: [bool; 5]) -> Offloads {
    Offloads { header, checksum, tso, ecn, uso }
}
