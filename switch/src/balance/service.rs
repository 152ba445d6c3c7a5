//! Services: virtual addresses, and the tasks that answer for them.
//!
//! [`ServiceSpec`] is what the control plane says, checked once by [`Service::new`]; a [`Service`] is what workers read, a
//! new one for each change.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::choice::{self, Score};
use crate::storm::{StormBucket, StormLimit};
use crate::tables::TableError;
use crate::wire::{MacAddr, Vni};

/// Services of one network. Each takes a MAC address, and is looked up by it.
pub const SERVICES_MAX: usize = 4_096;
/// Tasks of one service: all are asked at each new flow, which is microseconds with so many.
pub const TASKS_MAX: usize = 1_024;
/// Virtual addresses of one service.
pub const ADDRESSES_MAX: usize = 8;

/// What clients of a service are told of in ICMP, all of them together: RFC 4443 §2.4(f) has errors limited. Resets are
/// not: each answers one segment of TCP.
const MESSAGES: StormLimit = StormLimit { frames_per_second: 1_000, burst: 50 };

/// A service of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// The MAC address of all of its virtual addresses: no endpoint's.
    pub mac: MacAddr,
    /// The virtual addresses, of either family or both: 1 to [`ADDRESSES_MAX`]. All ports are the service's.
    pub addresses: Vec<IpAddr>,
    /// Its tasks, at most [`TASKS_MAX`]; with none, clients are refused at once.
    pub tasks: Vec<Task>,
    /// How long flows may be silent.
    pub idle: IdleLimits,
}

/// An endpoint that answers for a service. Where it is, the forwarding table knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its IPv4 address; without, it gets no IPv4 flows.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address; without, it gets no IPv6 flows.
    pub ipv6: Option<Ipv6Addr>,
    /// What it gets.
    pub state: TaskState,
}

/// What a task gets. One that gets nothing any more is left out of the service, and its flows are reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// New flows, and those it has.
    Live,
    /// Only the flows it has.
    Draining,
}

/// How long flows of a service may be silent before they are forgotten. Those of TCP that are being opened or closed, and
/// echoes, have fixed limits (two minutes at most, an hour if one side has closed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleLimits {
    /// Established TCP connections.
    pub tcp: Duration,
    /// UDP, once the task has answered.
    pub udp: Duration,
}

impl Default for IdleLimits {
    /// A day for TCP: pools of connections rest over night, and RFC 5382 §5 asks for more than two hours. Five minutes for
    /// UDP (RFC 4787 §4.3).
    fn default() -> Self {
        Self { tcp: Duration::from_secs(24 * 3_600), udp: Duration::from_secs(300) }
    }
}

/// Why a service can't be. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// The network has no port and no peer.
    #[error("network {0} has no members")]
    NoSuchNetwork(Vni),
    /// [`SERVICES_MAX`] are there.
    #[error("a network has at most {SERVICES_MAX} services")]
    TooManyServices,
    /// [`TASKS_MAX`] are fewer.
    #[error("a service has at most {TASKS_MAX} tasks")]
    TooManyTasks,
    /// None, or more than [`ADDRESSES_MAX`].
    #[error("a service has 1 to {ADDRESSES_MAX} virtual addresses")]
    Addresses,
    /// No single host's address.
    #[error("{0} can't be the address of a service or task")]
    NotAHost(IpAddr),
    /// No single station's MAC address.
    #[error("{0} can't be the MAC address of a service or task")]
    NotAStation(MacAddr),
    /// A MAC address twice, or one that is an endpoint's already.
    #[error("{0} is the MAC address of something else")]
    MacInUse(MacAddr),
    /// An address twice, or one that is another service's already.
    #[error("{0} is the address of something else")]
    AddressInUse(IpAddr),
    /// The tables can't hold it.
    #[error(transparent)]
    Tables(#[from] TableError),
}

/// A service in the tables.
#[derive(Debug)]
pub struct Service {
    /// Its tasks in the order of their MAC addresses.
    spec: ServiceSpec,
    /// Of this version of it; no other service or version has the same.
    pub(super) epoch: u32,
    messages: Arc<Mutex<StormBucket>>,
}

impl Service {
    /// Checks a service by itself; it takes over from `before`.
    ///
    /// # Errors
    /// What contradicts itself.
    pub(crate) fn new(
        mut spec: ServiceSpec,
        epoch: u32,
        before: Option<&Self>,
    ) -> Result<Self, ServiceError> {
        if spec.addresses.is_empty() || spec.addresses.len() > ADDRESSES_MAX {
            return Err(ServiceError::Addresses);
        }
        if spec.tasks.len() > TASKS_MAX {
            return Err(ServiceError::TooManyTasks);
        }
        spec.tasks.sort_unstable_by_key(|task| task.mac);
        let mut macs: Vec<_> = spec.tasks.iter().map(|task| task.mac).chain([spec.mac]).collect();
        if let Some(&mac) = macs.iter().find(|mac| mac.is_multicast() || mac.is_zero()) {
            return Err(ServiceError::NotAStation(mac));
        }
        macs.sort_unstable();
        if let Some(pair) = macs.array_windows().find(|[one, next]| one == next) {
            return Err(ServiceError::MacInUse(pair[0]));
        }
        let of_tasks = spec.tasks.iter().flat_map(Task::addresses);
        let mut addresses: Vec<_> = spec.addresses.iter().copied().chain(of_tasks).collect();
        if let Some(&address) = addresses.iter().find(|&&address| !is_host(address)) {
            return Err(ServiceError::NotAHost(address));
        }
        addresses.sort_unstable();
        if let Some(pair) = addresses.array_windows().find(|[one, next]| one == next) {
            return Err(ServiceError::AddressInUse(pair[0]));
        }
        let new = || Arc::new(Mutex::new(StormBucket::new(MESSAGES)));
        let messages = before.map_or_else(new, |before| Arc::clone(&before.messages));
        Ok(Self { spec, epoch, messages })
    }

    /// What it was made with.
    #[must_use]
    pub fn spec(&self) -> &ServiceSpec {
        &self.spec
    }

    /// Whether it has a task with this MAC and IP address, live or draining.
    pub(super) fn has_task(&self, mac: MacAddr, address: IpAddr) -> bool {
        let found = self.spec.tasks.binary_search_by_key(&mac, |task| task.mac);
        found.is_ok_and(|index| self.spec.tasks[index].addresses().any(|own| own == address))
    }

    /// The live tasks that a flow to `to` may have, best first.
    pub(super) fn candidates(&self, flow: u64, to: IpAddr) -> impl Iterator<Item = (MacAddr, IpAddr)> {
        let mut last: Option<Score> = None;
        std::iter::from_fn(move || {
            let live = self.spec.tasks.iter().filter(|task| task.state == TaskState::Live);
            let able = live.filter_map(|task| Some((task.mac, task.address_like(to)?)));
            let scored = able.map(|(mac, address)| (choice::score(flow, mac), address));
            let next = scored.filter(|(score, _)| last.is_none_or(|last| *score < last));
            let (score, address) = next.max_by_key(|&(score, _)| score)?;
            last = Some(score);
            Some((score.mac, address))
        })
    }

    /// Whether somebody may be sent an ICMP message now.
    pub(super) fn may_tell(&self, now: Instant) -> bool {
        // Nothing panics while it holds the lock.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).allow(1, now)
    }
}

impl Task {
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }

    /// Its address of the family of `to`.
    fn address_like(&self, to: IpAddr) -> Option<IpAddr> {
        match to {
            IpAddr::V4(_) => self.ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => self.ipv6.map(IpAddr::V6),
        }
    }
}

/// Whether one host may have this address, and packets carry it: IPv4 as IPv6 (RFC 4291 §2.5.5.2) is for programs only.
fn is_host(address: IpAddr) -> bool {
    let never = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    !never
        && match address {
            IpAddr::V4(address) => !address.is_broadcast(),
            IpAddr::V6(address) => address.to_ipv4_mapped().is_none(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0x42, 10, 0, 0, last])
    }

    fn task(last: u8) -> Task {
        Task { mac: mac(last), ipv4: Some([10, 0, 0, last].into()), ipv6: None, state: TaskState::Live }
    }

    fn spec(tasks: Vec<Task>) -> ServiceSpec {
        ServiceSpec {
            mac: mac(100),
            addresses: vec![[10, 0, 0, 100].into()],
            tasks,
            idle: IdleLimits::default(),
        }
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        let refused = |spec| Service::new(spec, 1, None).unwrap_err();
        let good = || spec(vec![task(1), task(2)]);
        let vip = IpAddr::from([10, 0, 0, 100]);
        assert_eq!(refused(ServiceSpec { addresses: vec![], ..good() }), ServiceError::Addresses);
        assert_eq!(refused(ServiceSpec { addresses: vec![vip; 9], ..good() }), ServiceError::Addresses);
        assert_eq!(
            refused(ServiceSpec { addresses: vec![vip; 2], ..good() }),
            ServiceError::AddressInUse(vip)
        );
        assert_eq!(refused(spec(vec![task(1); TASKS_MAX + 1])), ServiceError::TooManyTasks);
        assert_eq!(refused(spec(vec![task(1), task(1)])), ServiceError::MacInUse(mac(1)));
        assert_eq!(refused(spec(vec![task(100)])), ServiceError::MacInUse(mac(100)));
        let same = Task { mac: mac(1), ..task(2) };
        assert_eq!(refused(spec(vec![task(2), same])), ServiceError::AddressInUse([10, 0, 0, 2].into()));
        let group = MacAddr([1; 6]);
        assert_eq!(refused(ServiceSpec { mac: group, ..good() }), ServiceError::NotAStation(group));
        for text in
            ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1", "::1", "ff02::1", "::ffff:10.0.0.1"]
        {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(
                refused(ServiceSpec { addresses: vec![address], ..good() }),
                ServiceError::NotAHost(address)
            );
        }
    }

    #[test]
    fn candidates_are_live_of_the_family_and_each_once() {
        let six = Task { ipv6: Some("fd00::3".parse().unwrap()), ..task(3) };
        let service = Service::new(
            spec(vec![task(4), task(1), Task { state: TaskState::Draining, ..task(2) }, six]),
            1,
            None,
        )
        .unwrap();
        let all =
            |flow, to: IpAddr| service.candidates(flow, to).map(|(mac, _)| mac.0[5]).collect::<Vec<_>>();
        let mut firsts = std::collections::BTreeSet::new();
        for flow in 0..100 {
            let mut tasks = all(flow, [10, 0, 0, 100].into());
            assert_eq!(tasks, all(flow, [10, 0, 0, 100].into()), "the same each time");
            firsts.insert(tasks[0]);
            tasks.sort_unstable();
            assert_eq!(tasks, [1, 3, 4]);
            assert_eq!(all(flow, "fd00::64".parse().unwrap()), [3]);
        }
        assert_eq!(firsts.len(), 3);
        assert!(service.has_task(mac(2), [10, 0, 0, 2].into()), "a draining one is still a task");
        assert!(
            !service.has_task(mac(2), [10, 0, 0, 1].into())
                && !service.has_task(mac(9), [10, 0, 0, 9].into())
        );
    }
}
