//! Services as they are listed and shown.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::HostAddress;
use crate::service::{Port, Protocol, ServiceSpec};

/// What came of [`super::Call::CreateService`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCreated {
    /// The service's id: 25 digits of base 36.
    pub id: String,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its id: 25 digits of base 36.
    pub id: String,
    /// What was asked for; networks are named by their ids.
    pub spec: ServiceSpec,
    /// Another one with every change for which tasks are replaced: a time in microseconds since 1970.
    pub generation: u64,
    /// Its published ports, each with the number that it was given if none was asked for.
    pub ports: Vec<Port>,
    /// Its networks, in the order of its tasks' interfaces.
    pub networks: Vec<ServicePlace>,
    /// Tasks that there are to be: of a global service one for each node that is there, runs tasks and meets the constraints.
    pub wanted: usize,
    /// Tasks that run, as far as they are heard.
    pub running: usize,
    /// Milliseconds since 1970 when it was made.
    pub created_ms: u64,
    /// The same when it was changed last.
    pub updated_ms: u64,
    /// What it shares with older services, made where nobody knew of them.
    pub conflicts: Vec<ServiceConflict>,
    /// Its ports that nodes should listen on and do not.
    #[serde(default)]
    pub unbound: Vec<UnboundPort>,
}

/// A port of a service that a node should listen on and does not. It is tried again every few seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnboundPort {
    /// The node's name.
    pub node: String,
    /// The service's name; its id if it has just been removed.
    pub service: String,
    /// The port's number.
    pub published: u16,
    /// What it is of.
    pub protocol: Protocol,
    /// The node's address that it is wanted at; all, if none is given.
    pub address: Option<IpAddr>,
    /// Why the node does not listen; others wrote it.
    pub reason: String,
    /// Milliseconds since 1970 when it was tried first, by its node's clock.
    pub since_ms: u64,
}

/// As people write it: `8080/tcp`, `127.0.0.1:8080/tcp`.
impl fmt::Display for UnboundPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { published, protocol, .. } = self;
        match self.address {
            Some(address) => write!(f, "{}/{protocol}", SocketAddr::new(address, *published)),
            None => write!(f, "{published}/{protocol}"),
        }
    }
}

/// A service's place in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePlace {
    /// The network's id.
    pub network: String,
    /// The network's name; its id if it has been removed.
    pub name: String,
    /// Its virtual addresses there: one of each IP version, or none in endpoint mode `dnsrr`.
    pub vips: Vec<HostAddress>,
}

/// A task of a service, or a slot that has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTaskView {
    /// The task's id; empty if there is none. The endpoint's, if others make the tasks of the service.
    pub id: String,
    /// Its name, as people see it: the service's, and the slot's number from 1, as in `web.1`; in a global service that alone. If
    /// others make its tasks, the name of the endpoint is behind it: `web.m1`.
    pub name: String,
    /// The service's name.
    pub service: String,
    /// Its slot, from 0; none in a global service.
    pub slot: Option<u16>,
    /// The name of the node that has it, or that is to; none if no node may.
    pub node: Option<String>,
    /// The generation of the service that it runs.
    pub generation: u64,
    /// Whether it is to run.
    pub wanted: bool,
    /// What it does: `pending` if there is no task yet, `waiting`, `starting`, `running`, `draining`, `complete`, `failed`
    /// or `rejected`; `not listening` if it is no task but a port that its node can't have.
    pub state: String,
    /// Why; empty if there is nothing to say.
    pub reason: String,
    /// Whether it has ended, and its node has no other one of its generation follow: by the service's restart policy, or since it
    /// can't or may not run it.
    #[serde(default)]
    pub last: bool,
    /// Milliseconds since 1970 when that began, by its node's clock.
    pub since_ms: Option<u64>,
}

impl ServiceTaskView {
    /// The name of a service's task in a slot, which is counted from 0.
    #[must_use]
    pub fn name_of(service: &str, slot: Option<u16>) -> String {
        match slot {
            Some(slot) => format!("{service}.{}", u32::from(slot) + 1),
            None => service.into(),
        }
    }
}

/// Where a reader is in a task's log who comes back later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogMark {
    /// Which of its files, by inode.
    pub file: u64,
    /// Bytes of it that were read.
    pub offset: u64,
}

/// What [`super::Call::ServiceLogs`] is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogsRequest {
    /// How many lines are wanted of what a task wrote before; none: all.
    pub tail: Option<u64>,
    /// Where the asker is, by tasks' ids; of others it wants what is said by `tail`.
    pub marks: BTreeMap<String, LogMark>,
}

/// What it gives: perhaps not all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLogs {
    /// Of each task.
    pub logs: Vec<TaskLog>,
    /// Of which tasks it is not to be had, and why.
    pub failures: Vec<String>,
}

/// What a task has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskLog {
    /// The task's id.
    pub id: String,
    /// The service's name, and the slot's number from 1.
    pub name: String,
    /// The name of its node.
    pub node: String,
    /// Lines of JSON, as [`crate::task::log::Entry`] has them.
    pub lines: String,
    /// Where they end.
    pub mark: Option<LogMark>,
    /// Whether there were more behind them already.
    #[serde(default)]
    pub more: bool,
}

/// A service by name and id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRef {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// What a service shares with an older one: both were made at once, on two managers or on two sides of a partition.
///
/// Of two the older one holds what both want, or if they are equally old the one with the smaller id: so all nodes that
/// know both say the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "kebab-case")]
pub enum ServiceConflict {
    /// The name, which means the other one. This one is named by its id.
    Name {
        /// The older service.
        holder: ServiceRef,
    },
    /// A published port, which leads to the other one.
    Port {
        /// The port's number.
        published: u16,
        /// What it carries.
        protocol: Protocol,
        /// The older service.
        holder: ServiceRef,
    },
}

impl fmt::Display for ServiceConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { holder } => write!(f, "name means {}", holder.id),
            Self::Port { published, protocol, holder } => {
                write!(f, "port {published}/{protocol} is that of {} ({})", holder.name, holder.id)
            }
        }
    }
}
