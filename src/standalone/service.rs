//! Services given by hand: a virtual address and its tasks.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::ConfigError;
use super::config::{NetworkSpec, vni};
use crate::gateway::mac_of;
use crate::switch::balance::{IdleLimits, ServiceError, ServiceSpec as Spec, Task, TaskState};
use crate::switch::switch::Switch;
use crate::switch::wire::Vni;

/// A virtual address, and the endpoints that answer for it: `VNI:ADDRESS=TASK[,TASK]…`, a task as `ADDRESS[@MAC]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    vni: Vni,
    address: IpAddr,
    tasks: Vec<Task>,
}

/// A contradiction in what was given.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceSpecError {
    /// Not a service.
    #[error("\"{0}\" is no service: want VNI:ADDRESS=TASK[,TASK...], a task as ADDRESS[@MAC]")]
    Service(String),
    /// A task of the other family, which can't answer.
    #[error("{0} can't be a task of {1}: one is IPv4, the other IPv6")]
    Family(IpAddr, IpAddr),
    /// A service of a network that we don't serve.
    #[error("--service {0} is of a network that has no --vni")]
    Vni(ServiceSpec),
    /// A service twice.
    #[error("--service {0} is given twice: list its tasks together")]
    Twice(ServiceSpec),
}

impl fmt::Display for ServiceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.vni, self.address)
    }
}

impl FromStr for ServiceSpec {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || ServiceSpecError::Service(text.into());
        let (id, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (address, listed) = rest.split_once('=').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let tasks = listed.split(',').map(|task| {
            let (own, mac) = match task.split_once('@') {
                Some((own, mac)) => (own, Some(mac.parse().map_err(|_| wrong())?)),
                None => (task, None),
            };
            let own: IpAddr = own.parse().map_err(|_| wrong())?;
            let (ipv4, ipv6) = match (own, address) {
                (IpAddr::V4(own), IpAddr::V4(_)) => (Some(own), None),
                (IpAddr::V6(own), IpAddr::V6(_)) => (None, Some(own)),
                _ => return Err(ServiceSpecError::Family(own, address)),
            };
            Ok(Task { mac: mac.unwrap_or_else(|| mac_of(own)), ipv4, ipv6, state: TaskState::Live })
        });
        Ok(Self { vni: vni(id)?, address, tasks: tasks.collect::<Result<_, _>>()? })
    }
}

/// Checks that services are each of a network that is served, and given once.
///
/// # Errors
/// The first that is not.
pub fn check_services(
    services: Vec<ServiceSpec>,
    networks: &[NetworkSpec],
) -> Result<Vec<ServiceSpec>, ServiceSpecError> {
    let mut given = HashSet::new();
    for service in &services {
        if networks.iter().all(|network| network.vni != service.vni) {
            return Err(ServiceSpecError::Vni(service.clone()));
        }
        if !given.insert((service.vni, service.address)) {
            return Err(ServiceSpecError::Twice(service.clone()));
        }
    }
    Ok(services)
}

impl ServiceSpec {
    pub(super) fn vni(&self) -> Vni {
        self.vni
    }

    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    pub(super) fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Sets it, in a network that has its ports.
    pub(super) fn set(&self, switch: &Switch) -> Result<(), ServiceError> {
        let (mac, addresses) = (mac_of(self.address), vec![self.address]);
        let spec = Spec { mac, addresses, tasks: self.tasks.clone(), idle: IdleLimits::default() };
        switch.set_service(self.vni, spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::wire::MacAddr;

    fn parsed(text: &str) -> Result<ServiceSpec, String> {
        text.parse().map_err(|error: ConfigError| error.to_string())
    }

    #[test]
    fn tasks_have_the_mac_address_that_is_given_or_follows_from_theirs() {
        let service = parsed("42:10.0.9.100=10.0.9.2,10.0.9.3@02:00:00:00:00:03").unwrap();
        let macs: Vec<_> = service.tasks.iter().map(|task| task.mac).collect();
        assert_eq!(macs, [MacAddr([2, 0x42, 10, 0, 9, 2]), MacAddr([2, 0, 0, 0, 0, 3])]);
        assert_eq!(service.to_string(), "42:10.0.9.100");
        let six = parsed("42:fd00::64=fd00::2@02:00:00:00:00:02").unwrap();
        assert_eq!((six.tasks[0].ipv4, six.tasks[0].ipv6), (None, Some("fd00::2".parse().unwrap())));
    }

    #[test]
    fn texts_that_are_none() {
        for text in [
            "42",
            "42:10.0.9.100",
            "42:10.0.9.100=",
            "42:web=10.0.9.2",
            "42:10.0.9.100=10.0.9.2@x",
            "x:1.1.1.1=1.1.1.2",
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
        let other = parsed("42:10.0.9.100=fd00::2").unwrap_err();
        assert_eq!(other, "fd00::2 can't be a task of 10.0.9.100: one is IPv4, the other IPv6");
    }

    #[test]
    fn contradictions_are_named() {
        let check = |services: &[&str]| {
            let services = services.iter().map(|text| parsed(text).unwrap()).collect();
            check_services(services, &["42:a".parse().unwrap()]).map_err(|error| error.to_string())
        };
        assert_eq!(
            check(&["42:10.0.9.100=10.0.9.2", "42:10.0.9.101=10.0.9.2"]).map(|services| services.len()),
            Ok(2)
        );
        let stranger = check(&["43:10.0.9.100=10.0.9.2"]).unwrap_err();
        assert_eq!(stranger, "--service 43:10.0.9.100 is of a network that has no --vni");
        let twice = check(&["42:10.0.9.100=10.0.9.2", "42:10.0.9.100=10.0.9.3"]).unwrap_err();
        assert_eq!(twice, "--service 42:10.0.9.100 is given twice: list its tasks together");
    }
}
