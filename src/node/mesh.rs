//! The routing mesh, told what records say: which ports services publish, who is behind them, who is there; and what this node
//! says of ports that it could not have.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Cluster, now_ms};
use super::links::{Answer, LinkError, Links, Request};
use super::records::{EndpointRecord, NetworkRecord, ServiceRecord, TaskRecord, UnboundRecord, node_id};
use crate::api::{NodeFilter, NodeStatus, UnboundPort};
use crate::crypto::identity::NodeId;
use crate::gossip;
use crate::mesh::{At, Candidate, Dial, Dialing, Link, Place, Plan, Published, Unbound, one_of_each};
use crate::overlay::BackendState;
use crate::service::port::{Protocol, overlap};

/// How often a port that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How often links are looked through for those that nobody needs.
const TIDY: Duration = Duration::from_secs(10);
/// Ports that could not be had of which a node tells, and is believed: each is a record on every node.
const UNBOUND_MAX: usize = 256;
/// Characters of a reason at most that another node gives: more than any of ours has.
const REASON_MAX: usize = 512;
/// The same of the id of a service that nobody knows.
const SERVICE_MAX: usize = 64;

/// Calls other members for the mesh.
#[derive(Debug)]
pub(super) struct Dialer(pub(super) Links);

impl Dial for Dialer {
    fn dial(&self, node: NodeId, to: SocketAddr) -> Dialing {
        let links = self.0.clone();
        Box::pin(async move { carry(&links, node, to).await.map_err(|error| error.to_string()) })
    }
}

async fn carry(links: &Links, node: NodeId, to: SocketAddr) -> Result<Link, LinkError> {
    let mut conversation = links.call(Some(node), to).await?;
    conversation.send(&Request::Carry).await?;
    match conversation.receive().await? {
        Answer::Done => Ok(conversation.into_stream()),
        Answer::Refused(reason) => Err(LinkError::No(reason.lines().collect())),
        _ => Err(LinkError::Nonsense),
    }
}

/// Tells the mesh what records say, until the cluster ends.
pub(super) async fn keep(cluster: Arc<Cluster>) {
    loop {
        let again = cluster.follow_mesh();
        let pause = if again { RETRY } else { TIDY };
        tokio::select! {
            () = cluster.mesh_changed.notified() => {}
            () = tokio::time::sleep(pause) => cluster.mesh.tidy(),
        }
    }
}

impl Cluster {
    /// Has the mesh do what records say now. Whether it is to be tried again soon.
    pub(super) fn follow_mesh(&self) -> bool {
        let (unbound, again) = self.mesh.follow(self.mesh_plan());
        self.say_unbound(unbound);
        again
    }

    /// Ports of services at addresses that no live node has, with the services' ids: each once.
    pub(super) fn homeless_ports(&self) -> Vec<(String, UnboundPort)> {
        let records = self.gossip.list::<UnboundRecord>();
        if !records.iter().any(|(.., record)| record.reason.is_empty()) {
            return Vec::new();
        }
        let nodes = self.list_briefly(&NodeFilter::default()).into_iter();
        let live =
            nodes.filter(|node| node.status == NodeStatus::Ready).filter_map(|node| node.id.parse().ok());
        let services = self.services().into_iter().map(|(id, record)| (id, record.spec.name.to_string()));
        homeless_ports(records, &live.collect(), &services.collect())
    }

    /// Ports of services that nodes should listen on and do not, with the node and the service of each.
    pub(super) fn unbound_ports(&self) -> Vec<(NodeId, String, UnboundPort)> {
        let records = self.gossip.list::<UnboundRecord>();
        if records.is_empty() {
            return Vec::new();
        }
        let nodes = self.nodes().into_iter().map(|(node, record)| (node, record.name));
        let services = self.services().into_iter().map(|(id, record)| (id, record.spec.name.to_string()));
        unbound_ports(records, &nodes.collect(), &services.collect())
    }

    fn mesh_plan(&self) -> Plan {
        let services = self.services();
        let peers = self.peers().into_iter().filter(|(_, peer)| peer.alive);
        let peers: BTreeMap<NodeId, SocketAddr> =
            peers.filter(|(node, _)| *node != self.id).map(|(node, peer)| (node, peer.addr)).collect();
        let revoked: BTreeSet<NodeId> = self.revoked.load().nodes().map(|(node, _)| node).collect();
        let publishes =
            services.iter().any(|(_, service)| service.ports.iter().any(|port| At::of(port).is_some()));
        // Most changes are about networks of which nothing is published.
        let facts = if publishes {
            let here =
                |(node, ..): &(NodeId, String, EndpointRecord)| *node == self.id || peers.contains_key(node);
            let endpoints = self.endpoint_records().into_iter().filter(here);
            PlaceFacts::new(endpoints, &self.networks(), self.task_records())
        } else {
            PlaceFacts::default()
        };
        Plan::new(ports(services, &facts), peers, revoked)
    }

    fn say_unbound(&self, unbound: Vec<Unbound>) {
        let said = self.said::<UnboundRecord>();
        let record = |Unbound { service, at, reason }: Unbound| {
            let key = at.door(0).to_string();
            let before = said.get(&key).filter(|said| said.service == service);
            let since_ms = before.map_or_else(now_ms, |said| said.since_ms);
            let At { address, published, protocol } = at;
            (key, UnboundRecord { service, published, protocol, address, reason, since_ms })
        };
        let (there, elsewhere): (Vec<_>, Vec<_>) =
            unbound.into_iter().partition(|unbound| !unbound.reason.is_empty());
        // What this host could have comes first.
        let unbound = there.into_iter().chain(elsewhere);
        let wanted: BTreeMap<String, UnboundRecord> = unbound.take(UNBOUND_MAX).map(record).collect();
        self.say(&wanted, "which ports of services this node can't listen on");
    }
}

/// What nodes say of ports that they should listen on and do not: each of at most [`UNBOUND_MAX`]. `nodes` and `services` are
/// names by ids.
fn unbound_ports(
    records: Vec<(Option<gossip::NodeId>, String, UnboundRecord)>,
    nodes: &HashMap<NodeId, String>,
    services: &HashMap<String, String>,
) -> Vec<(NodeId, String, UnboundPort)> {
    let mut said: HashMap<NodeId, usize> = HashMap::new();
    let mut is_believed = |node: NodeId| {
        let count = said.entry(node).or_default();
        *count += 1;
        *count <= UNBOUND_MAX
    };
    let port = |(owner, _, record): (Option<gossip::NodeId>, String, UnboundRecord)| {
        let UnboundRecord { service, published, protocol, address, reason, since_ms } = record;
        let id = node_id(owner?);
        (is_believed(id) && !reason.is_empty()).then(|| {
            let node = nodes.get(&id).cloned().unwrap_or_else(|| id.to_string());
            let name = services.get(&service).cloned().unwrap_or_else(|| legible(&service, SERVICE_MAX));
            let reason = legible(&reason, REASON_MAX);
            let port = UnboundPort { node, service: name, published, protocol, address, reason, since_ms };
            (id, service, port)
        })
    };
    let mut ports: Vec<_> = records.into_iter().filter_map(port).collect();
    ports.sort_by(|(_, _, one), (_, _, other)| {
        (&one.node, one.published, one.protocol).cmp(&(&other.node, other.published, other.protocol))
    });
    ports
}

/// Those of which every live node says that it has not got the address: of a service that is known, each once.
fn homeless_ports(
    records: Vec<(Option<gossip::NodeId>, String, UnboundRecord)>,
    live: &BTreeSet<NodeId>,
    services: &HashMap<String, String>,
) -> Vec<(String, UnboundPort)> {
    type Wanted = (String, u16, Protocol, IpAddr);
    let mut said: BTreeMap<Wanted, (BTreeSet<NodeId>, u64)> = BTreeMap::new();
    for (owner, _, record) in records {
        let (Some(node), Some(address)) = (owner.map(node_id), record.address) else { continue };
        if !record.reason.is_empty() || !live.contains(&node) || !services.contains_key(&record.service) {
            continue;
        }
        let key = (record.service, record.published, record.protocol, address);
        let (nodes, since_ms) = said.entry(key).or_default();
        nodes.insert(node);
        *since_ms = record.since_ms.max(*since_ms);
    }
    let port = |((service, published, protocol, address), (nodes, since_ms))| {
        (nodes == *live).then(|| {
            let name = services.get(&service).cloned().unwrap_or_default();
            let (node, reason) = ("all nodes".into(), format!("no node has the address {address}"));
            let address = Some(address);
            (service, UnboundPort { node, service: name, published, protocol, address, reason, since_ms })
        })
    };
    said.into_iter().filter_map(port).collect()
}

/// What another node says, in one line of at most `max` characters.
fn legible(text: &str, max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(max).collect()
}

/// What is known of endpoints that answer for services.
#[derive(Debug, Default)]
struct PlaceFacts {
    /// By the service's id, and whether they take new connections.
    by_service: HashMap<(String, BackendState), Vec<Found>>,
    /// Ids of networks that lead nowhere.
    internal: HashSet<String>,
    /// Ids of the routing mesh's own networks: two, if they were made on two sides of a partition.
    ingress: HashSet<String>,
}

#[derive(Debug)]
struct Found {
    place: Place,
    /// The id of the network that it is in.
    network: String,
    /// The id of its task.
    task: String,
}

impl PlaceFacts {
    fn new(
        endpoints: impl Iterator<Item = (NodeId, String, EndpointRecord)>,
        networks: &[(String, NetworkRecord)],
        tasks: Vec<(NodeId, String, TaskRecord)>,
    ) -> Self {
        // A node knows of its own tasks only.
        let pairs = tasks.into_iter().flat_map(|(node, id, task)| {
            task.endpoints.into_iter().map(move |endpoint| ((node, endpoint), id.clone()))
        });
        let task_of: HashMap<(NodeId, String), String> = pairs.collect();
        let those = |is_it: fn(&NetworkRecord) -> bool| {
            networks.iter().filter(|(_, network)| is_it(network)).map(|(id, _)| id.clone()).collect()
        };
        let (internal, ingress) =
            (those(|network| network.options.internal), those(|network| network.options.ingress));
        let mut facts = Self { internal, ingress, ..Self::default() };
        for (node, id, record) in endpoints {
            let Some(backend) = record.backend else { continue };
            // A member may have chosen any key.
            let Some(place) = Place::new(node, &id) else { continue };
            let own = (node, id);
            let task = task_of.get(&own).unwrap_or(&own.1).clone();
            let key = (backend.service, backend.state);
            facts.by_service.entry(key).or_default().push(Found { place, network: record.network, task });
        }
        facts
    }

    fn places(&self, id: &str, service: &ServiceRecord, state: BackendState) -> Arc<[Place]> {
        let all = self.by_service.get(&(id.to_owned(), state)).map(Vec::as_slice).unwrap_or_default();
        let candidate = |Found { place, network, task }: &Found| {
            let own = service.spec.networks.iter().position(|own| own.network.as_str() == *network);
            // Whoever is elsewhere is none of its tasks, whatever a member says.
            let rank = own.or_else(|| self.ingress.contains(network).then_some(usize::MAX))?;
            let internal = self.internal.contains(network);
            Some(Candidate { place: place.clone(), task: task.clone(), internal, rank })
        };
        one_of_each(all.iter().filter_map(candidate))
    }
}

/// The ports of every node: of those that two services have, the older holds them (`services::conflict`).
fn ports(mut services: Vec<(String, ServiceRecord)>, facts: &PlaceFacts) -> BTreeMap<At, Published> {
    services.sort_by(|(one_id, one), (other_id, other)| {
        (one.created_ms, one_id).cmp(&(other.created_ms, other_id))
    });
    let mut taken = HashMap::<_, Vec<Option<IpAddr>>>::new();
    let mut ports = BTreeMap::new();
    for (id, service) in services {
        let is_taken = |at: &At| {
            let there = taken.get(&(at.published, at.protocol)).map(Vec::as_slice).unwrap_or_default();
            there.iter().any(|&other| overlap(at.address, other))
        };
        let own = service.ports.iter().filter_map(|port| Some((At::of(port)?, port)));
        let own: Vec<_> = own.filter(|(at, _)| !is_taken(at)).collect();
        if !own.is_empty() {
            let of = |state| facts.places(&id, &service, state);
            let (live, draining) = (of(BackendState::Live), of(BackendState::Draining));
            for (at, port) in own {
                let (service, target) = (id.clone(), port.target.get());
                let (places, draining) = (Arc::clone(&live), Arc::clone(&draining));
                let proxy = port.proxy.is_some();
                ports.insert(at, Published { service, target, proxy, places, draining });
            }
        }
        for port in &service.ports {
            let Some(published) = port.published else { continue };
            taken.entry((published.get(), port.protocol)).or_default().push(port.address);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::super::records::TaskPhase;
    use super::*;
    use crate::api::NetworkOptions;
    use crate::overlay::Backend;
    use crate::service::spec::tests::full;
    use crate::service::{Mode, Port, PortMode, Protocol, ServiceSpec, SpecParts};

    fn service(created_ms: u64, ports: &[(&str, PortMode)]) -> ServiceRecord {
        let spec = ServiceSpec::new(SpecParts { mode: Mode::Replicated(2), ports: Vec::new(), ..full() });
        let ports = ports.iter().flat_map(|(text, mode)| Port::parse(text, *mode).unwrap()).collect();
        ServiceRecord {
            spec: spec.unwrap(),
            generation: 1,
            created_ms,
            updated_ms: 0,
            vips: Vec::new(),
            ports,
        }
    }

    fn shown(ports: &BTreeMap<At, Published>) -> Vec<String> {
        let line = |(at, published): (&At, &Published)| {
            format!("{} {} {}", at.door(0), published.service, published.target)
        };
        ports.iter().map(line).collect()
    }

    #[test]
    fn the_oldest_has_a_port_and_only_those_of_the_mesh_count() {
        use PortMode::{Host, Ingress};
        let services = vec![
            ("b".to_owned(), service(2, &[("8080:81", Ingress), ("81:81", Ingress), ("82:82", Ingress)])),
            ("a".to_owned(), service(1, &[("8080:80", Ingress), ("81:80/udp", Ingress), ("82:80", Host)])),
            ("c".to_owned(), service(3, &[("127.0.0.1:81:83", Ingress), ("127.0.0.1:84:84", Ingress)])),
            ("d".to_owned(), service(4, &[("127.0.0.2:84:85", Ingress), ("127.0.0.1:84:86", Ingress)])),
        ];
        let mut reversed = services.clone();
        reversed.reverse();
        for services in [services, reversed] {
            let ports = ports(services, &PlaceFacts::default());
            assert_eq!(
                shown(&ports),
                [
                    "81/tcp b 81",
                    "81/udp a 80",
                    "8080/tcp a 80",
                    "127.0.0.1:84/tcp c 84",
                    "127.0.0.2:84/tcp d 85"
                ]
            );
        }
    }

    const NODE: NodeId = NodeId::from_bytes([1; 16]);

    fn endpoint(id: &str, network: &str, state: Option<BackendState>) -> (NodeId, String, EndpointRecord) {
        let record = EndpointRecord {
            network: network.into(),
            name: "x".into(),
            addresses: Vec::new(),
            mac: [2; 6],
            aliases: Vec::new(),
            backend: state.map(|state| Backend { service: "s".into(), state }),
        };
        (NODE, id.to_owned(), record)
    }

    fn network(id: &str, ingress: bool) -> (String, NetworkRecord) {
        let record = NetworkRecord {
            name: id.into(),
            vni: 4096,
            subnets: Vec::new(),
            options: NetworkOptions { ingress, ..NetworkOptions::default() },
            created_ms: 0,
            maker: gossip::NodeId([1; 16]),
        };
        (id.into(), record)
    }

    fn task(id: &str, endpoints: &[&str]) -> (NodeId, String, TaskRecord) {
        let record = TaskRecord {
            service: "s".into(),
            slot: Some(0),
            generation: 1,
            state: TaskPhase::Running,
            reason: String::new(),
            last: false,
            since_ms: 0,
            endpoints: endpoints.iter().map(|&id| id.into()).collect(),
        };
        (NODE, id.into(), record)
    }

    /// Those who answer at the only port of a service.
    fn places(service: ServiceRecord, facts: &PlaceFacts) -> Vec<Place> {
        let ports = ports(vec![("s".into(), service)], facts);
        let at = At { address: None, published: 8080, protocol: Protocol::Tcp };
        assert_eq!(ports.len(), 1);
        ports[&at].places.to_vec()
    }

    fn place(id: &str) -> Place {
        Place::new(NODE, id).unwrap()
    }

    #[test]
    fn live_tasks_in_the_networks_of_the_service_or_the_mesh_answer_and_each_once() {
        let service = service(1, &[("8080:80", PortMode::Ingress)]);
        let front = service.spec.networks[0].network.to_string();
        let live = Some(BackendState::Live);
        let endpoints = [
            endpoint("e1", &front, live),
            endpoint("e2", "mesh", live),
            endpoint("e3", &front, Some(BackendState::Draining)),
            endpoint("e4", &front, None),
            endpoint("e5", &front, live),
            endpoint("e6", "mesh", live),
            endpoint("e7", "elsewhere", live),
            endpoint("e8", "unknown", live),
        ];
        let networks = [network(&front, false), network("mesh", true), network("elsewhere", false)];
        let (_, id, lie) = task("t", &["e1", "e5"]);
        let tasks = vec![task("t", &["e2", "e1"]), (NodeId::from_bytes([9; 16]), id, lie)];
        let facts = PlaceFacts::new(endpoints.into_iter(), &networks, tasks);
        assert_eq!(places(service, &facts), ["e1", "e5", "e6"].map(place));
    }

    #[test]
    fn nobody_is_carried_to_what_is_no_id_of_an_endpoint() {
        let service = service(1, &[("8080:80", PortMode::Ingress)]);
        let front = service.spec.networks[0].network.to_string();
        let ids = ["x".repeat(255), "x".repeat(65), String::new(), "a\nb".into(), "x".repeat(64)];
        let endpoints = ids.iter().map(|id| endpoint(id, &front, Some(BackendState::Live)));
        let facts = PlaceFacts::new(endpoints, &[], Vec::new());
        assert_eq!(places(service, &facts), [place(&ids[4])]);
    }

    #[test]
    fn an_address_that_no_live_node_has_is_told_once() {
        let said = |node: u8, address: &str, reason: &str| {
            let record = UnboundRecord {
                service: "s".into(),
                published: 86,
                protocol: Protocol::Tcp,
                address: Some(address.parse().unwrap()),
                reason: reason.into(),
                since_ms: node.into(),
            };
            (Some(gossip::NodeId([node; 16])), format!("{address}:86/tcp"), record)
        };
        let records = vec![
            said(1, "10.11.12.13", ""),
            said(2, "10.11.12.13", ""),
            said(1, "198.18.0.2", ""),
            said(2, "198.18.0.2", "in use"),
            said(1, "198.18.0.3", ""),
        ];
        let services = [("s".to_owned(), "web".to_owned())].into();
        let live = [1, 2].map(|node| NodeId::from_bytes([node; 16])).into();
        let ports = homeless_ports(records.clone(), &live, &services);
        assert_eq!(ports.len(), 1, "{ports:?}");
        let (id, port) = &ports[0];
        assert_eq!((id.as_str(), port.to_string().as_str(), port.since_ms), ("s", "10.11.12.13:86/tcp", 2));
        assert_eq!(
            (port.node.as_str(), port.reason.as_str()),
            ("all nodes", "no node has the address 10.11.12.13")
        );
        let ports = unbound_ports(records, &HashMap::new(), &services);
        assert_eq!(ports.len(), 1, "where another has the address there is nothing to be told: {ports:?}");
    }

    #[test]
    fn no_node_says_more_of_its_ports_than_it_may() {
        let unbound = |node: u8, published: u16, service: &str, reason: &str| {
            let record = UnboundRecord {
                service: service.into(),
                published,
                protocol: Protocol::Tcp,
                address: None,
                reason: reason.into(),
                since_ms: 1,
            };
            (Some(gossip::NodeId([node; 16])), format!("{published}/tcp"), record)
        };
        let long = format!("in\n\u{1b}[2Juse{}", "!".repeat(REASON_MAX));
        let mut records: Vec<_> = (1..=1_000).map(|port| unbound(1, port, "s", &long)).collect();
        records.push(unbound(2, 80, &"x".repeat(255), "in use"));
        let (nodes, services) = ([(NODE, "one".into())].into(), [("s".into(), "web".into())].into());
        let ports = unbound_ports(records, &nodes, &services);
        let (one, two): (Vec<_>, Vec<_>) = ports.into_iter().partition(|(node, ..)| *node == NODE);
        assert_eq!((one.len(), two.len()), (UNBOUND_MAX, 1));
        assert!(one.iter().all(|(_, id, port)| id == "s" && port.node == "one" && port.service == "web"));
        let reason = &one[0].2.reason;
        assert!(reason.starts_with("in[2Juse!") && reason.len() == REASON_MAX, "{reason}");
        let (node, _, port) = &two[0];
        assert_eq!((&port.node, &port.service), (&node.to_string(), &"x".repeat(SERVICE_MAX)));
        assert_eq!((port.published, port.reason.as_str()), (80, "in use"));
    }
}
