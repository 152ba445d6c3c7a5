//! An endpoint's way to its addresses: leased here, or asked of others, within a bounded time.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::super::cluster::Cluster;
use super::super::life::{bad_request, conflict, internal};
use super::super::links::{Answer, LinkError, Request};
use super::super::records::node_id;
use super::message::{AddressAnswer, AddressAsk, AddressRequest};
use super::pools::{Network, Place, PoolError};
use crate::api::{HostAddress, Refusal, Subnet};
use crate::crypto::identity::NodeId;
use crate::ipam::{Acquire, Refusal as NoAddress, Reply, Step, Want};

/// How long a node may take to answer before the next one is asked.
const ASK_PATIENCE: Duration = Duration::from_secs(2);
/// How long all may take together.
const PATIENCE: Duration = Duration::from_secs(5);

/// A subnet to get an address of.
struct Source<'n> {
    network: &'n Network,
    place: Place,
    subnet: &'n Subnet,
}

/// Why there was none.
enum Failure {
    NoAddress(NoAddress),
    Pool(PoolError),
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        Self::Pool(error)
    }
}

impl Cluster {
    /// An address of each IP version that the network has: of those that are `wanted`, or free ones. They are the
    /// endpoint's from here on, until [`super::Pools::retain`] finds that it is not there.
    ///
    /// # Errors
    /// If one is not to be had: whose it is, or how many there are. Those of other subnets may be leased then.
    pub(in crate::node) async fn acquire(
        &self,
        network: &Network,
        endpoint: &str,
        wanted: &[IpAddr],
    ) -> Result<Vec<HostAddress>, Refusal> {
        let deadline = Instant::now() + PATIENCE;
        let mut addresses = Vec::new();
        for v4 in [true, false] {
            let of_version = |address: &&IpAddr| address.is_ipv4() == v4;
            let wanted = wanted.iter().find(of_version).copied();
            addresses.extend(self.acquire_version(network, endpoint, (v4, wanted), deadline).await?);
        }
        self.say_shares();
        Ok(addresses)
    }

    /// Of the subnet that `wanted` is in, or of the first that has room.
    async fn acquire_version(
        &self,
        network: &Network,
        endpoint: &str,
        (v4, wanted): (bool, Option<IpAddr>),
        deadline: Instant,
    ) -> Result<Option<HostAddress>, Refusal> {
        let fits = |subnet: &Subnet| match wanted {
            Some(address) => subnet.subnet.contains(address),
            None => subnet.subnet.is_ipv4() == v4,
        };
        let sources = Place::all(network).filter(|(_, subnet)| fits(subnet));
        let mut reasons = Vec::new();
        for (place, subnet) in sources {
            let source = Source { network, place, subnet };
            match self.acquire_from(&source, endpoint, wanted, deadline).await {
                Ok(address) => return Ok(HostAddress::new(address, subnet.subnet.length())),
                Err(Failure::Pool(error)) => return Err(internal(error)),
                Err(Failure::NoAddress(reason)) => {
                    reasons.push(format!("network {}: {}", network.1.name, self.describe(&reason)));
                }
            }
        }
        match (wanted, reasons.is_empty()) {
            (Some(address), true) => Err(bad_request(outside(network, address))),
            (None, true) => Ok(None),
            _ => Err(conflict(reasons.join("; "))),
        }
    }

    async fn acquire_from(
        &self,
        source: &Source<'_>,
        endpoint: &str,
        wanted: Option<IpAddr>,
        deadline: Instant,
    ) -> Result<IpAddr, Failure> {
        let Source { place, subnet, .. } = source;
        let mut acquire = Acquire::new(endpoint, wanted);
        let mut asking = None;
        loop {
            let mut others = self.others(source.network, place, subnet)?;
            if Instant::now() >= deadline {
                others.values_mut().for_each(|other| other.alive = false);
            }
            let step = self.addresses.change(place, subnet, |pool| acquire.step(pool, &others))?;
            let (node, want) = match step {
                Step::Leased(address) => return Ok(address),
                Step::Refused(reason) => return Err(Failure::NoAddress(reason)),
                Step::Ask(node, want) => (node, want),
            };
            if asking.is_none() {
                // Whoever had it before may have been given enough for us, too; or it is too late.
                asking = timeout_at(deadline, self.asking.lock()).await.ok();
                continue;
            }
            match timeout(ASK_PATIENCE, self.ask_want(source, node_id(node), want)).await {
                Ok(Ok(reply)) => {
                    self.addresses.change(place, subnet, |pool| acquire.handle_reply(pool, node, &reply))?
                }
                Ok(Err(error)) => {
                    debug!("{} has no addresses for us: {error}", node_id(node));
                    acquire.handle_silence(node);
                }
                Err(_) => acquire.handle_silence(node),
            }
        }
    }

    async fn ask_want(&self, source: &Source<'_>, node: NodeId, want: Want) -> Result<Reply, LinkError> {
        let Place { network, subnet } = source.place.clone();
        let request = AddressRequest { network, subnet, ask: AddressAsk::Want(want) };
        match self.ask_addresses(node, vec![request]).await?.pop() {
            Some(AddressAnswer::Reply(reply)) => Ok(reply),
            Some(AddressAnswer::Unknown) => Err(LinkError::No("it does not know the subnet".into())),
            _ => Err(LinkError::Nonsense),
        }
    }

    /// Asks a member about addresses; there is an answer to each request.
    pub(super) async fn ask_addresses(
        &self,
        node: NodeId,
        requests: Vec<AddressRequest>,
    ) -> Result<Vec<AddressAnswer>, LinkError> {
        let count = requests.len();
        let place = self.peers().into_iter().find(|(known, _)| *known == node).map(|(_, peer)| peer.addr);
        let place = place.ok_or_else(|| LinkError::No("nobody knows where it is".into()))?;
        match self.links.ask(Some(node), place, &Request::Addresses(requests)).await? {
            (_, Answer::Addresses(answers)) if answers.len() == count => Ok(answers),
            _ => Err(LinkError::Nonsense),
        }
    }

    /// For people, who know endpoints and nodes by their names.
    fn describe(&self, reason: &NoAddress) -> String {
        let NoAddress::Taken { address, holder, node } = reason else { return reason.to_string() };
        let node = node_id(*node);
        let record = self.endpoint_records().into_iter().find(|(_, id, _)| id == holder);
        let name = record.map_or_else(|| holder.clone(), |(_, _, record)| record.name);
        format!("{address} is in use by endpoint {name} on node {}", self.node_name(node))
    }
}

fn outside((_, record): &Network, address: IpAddr) -> String {
    let subnets = record.subnets.iter().map(|subnet| subnet.subnet.to_string()).collect::<Vec<_>>();
    format!("{address} is in no subnet of network {} ({})", record.name, subnets.join(", "))
}
