//! What this machine can do for a switch, measured in some seconds by the switch's own code.
//!
//! One file a measurement: [`machine`] only reads, [`tap`], [`udp`], [`memory`] and [`aead`] say what one core can
//! do in each stage of a frame's life, [`stream`] what comes of all together, and [`limits`] draws the conclusion.
//! [`run`] does all and gives a [`Report`]; showing it is the command line's.
//!
//! Costs are CPU time of the thread that does the work, so a busy machine makes them hardly worse; what went
//! through is by the clock. TAPs and links are made in namespaces of their own, which needs a sandbox
//! ([`crate::namespace::sandbox`]); without one those parts are missing and say why.

pub mod aead;
mod cpu;
mod frames;
mod halt;
pub mod limits;
pub mod machine;
pub mod memory;
mod processors;
mod report;
pub mod stream;
pub mod tap;
pub mod udp;

use std::io;
use std::time::Duration;

use crate::lab::throughput::FlowError;
use crate::lab::{LabError, PlanError};
use crate::namespace::netlink::NetlinkError;
use crate::namespace::netns::NetnsError;
use crate::namespace::obstacle::{Obstacle, check_tun};
use crate::switch::io::tap::TapError;
use crate::switch::io::udp::BindError;
use crate::switch::io::{ReadError, WriteError};
use crate::switch::tables::TableError;

pub use cpu::Tally;
pub use report::{Part, Report};

/// Why something could not be measured. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// This machine forbids it.
    #[error(transparent)]
    Forbidden(#[from] Obstacle),
    /// No namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// No link or address.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// No TAP.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A TAP gives nothing more.
    #[error("reading a TAP: {0}")]
    Read(#[from] ReadError),
    /// A TAP takes nothing more.
    #[error("writing to a TAP: {0}")]
    Write(#[from] WriteError),
    /// No UDP socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The tables of a switch in memory refused an entry.
    #[error(transparent)]
    Table(#[from] TableError),
    /// No plan for the two switches.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The two switches could not be built or run.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The stream broke.
    #[error(transparent)]
    Flow(#[from] FlowError),
    /// A system call that nothing should refuse.
    #[error("{what}: {source}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Everything was in place, and still nothing came through.
    #[error("{0}: nothing came through")]
    Nothing(&'static str),
}

/// Makes a [`BenchError::System`].
fn system<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> BenchError {
    move |source| BenchError::System { what, source: source.into() }
}

/// Measures everything that can be; `each` is for one measurement, of which there are nine, and `sandbox`
/// says whether this process is in one, or why not. Calls `begins` with the name of what comes next.
#[must_use]
pub fn run(each: Duration, sandbox: Result<(), String>, mut begins: impl FnMut(&'static str)) -> Report {
    let confined = sandbox.is_ok();
    let devices = sandbox.and_then(|()| check_tun().map_err(|obstacle| obstacle.to_string()));
    begins("the machine");
    let machine = machine::read();
    begins("TAP devices");
    let tap = part(&devices, || tap::measure(each));
    begins("UDP");
    let udp = udp::measure(each, confined).into();
    begins("the switch in memory");
    let memory = memory::measure(each).into();
    begins("AES-256-GCM");
    let aead = aead::measure(each).into();
    begins("two switches");
    let stream = part(&devices, || stream::measure(each));
    Report { machine, tap, udp, memory, aead, stream }
}

/// Measures, if there is what it needs.
fn part<T>(needed: &Result<(), String>, measure: impl FnOnce() -> Result<T, BenchError>) -> Part<T> {
    match needed {
        Ok(()) => measure().into(),
        Err(missing) => Part::Missing { missing: missing.clone() },
    }
}
