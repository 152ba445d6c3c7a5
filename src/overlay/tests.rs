//! Whole data planes on loopback, which all nodes share, with programs of this process in the place of TAPs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout};

use super::sessions::{Agree, AgreeError, Agreeing, Agreement, Answered, Confirm, Sessions};
use super::*;
use crate::api::{EndpointDevice, Subnet};
use crate::crypto::envelope::SessionId;
use crate::crypto::exporter::SessionKeys;
use crate::crypto::identity::NodeId;
use crate::crypto::key::Key;
use crate::gateway::mac_of;
use crate::state::StateDir;
use crate::switch::drops::DropReason;
use crate::switch::io::channel::{ChannelEnd, channel};
use crate::switch::tunnel::Protection;
use crate::switch::wire::Vni;

const PATIENCE: Duration = Duration::from_secs(30);
/// Where the gateway of every network is.
const GATEWAY: [u8; 4] = [10, 0, 9, 1];

/// A directory for one test's state, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vswitchd-overlay-{name}-{}", std::process::id()));
        // One that a killed run with this process id has left.
        std::fs::remove_dir_all(&path).ok();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Connections that always work.
#[derive(Default)]
struct Links(Mutex<BTreeMap<NodeId, Sessions>>);

struct Link(NodeId, Arc<Links>);

struct Word(Answered);

impl Confirm for Word {
    fn confirm(self: Box<Self>) -> Agreeing<()> {
        self.0.confirmed();
        Box::pin(std::future::ready(Ok(())))
    }
}

fn keys(own: NodeId, peer: NodeId, send: SessionId, receive: SessionId) -> SessionKeys {
    let key = |sender: NodeId, session: SessionId| {
        Key::derive(b"no secret at all", &[sender.as_bytes(), &session.id().to_be_bytes()])
    };
    SessionKeys { send: key(own, send), receive: key(peer, receive) }
}

impl Agree for Link {
    fn ask(&self, peer: NodeId, receive: SessionId) -> Agreeing<Agreement> {
        let Self(own, links) = self;
        let own = *own;
        let agree = || {
            let there = links.0.lock().unwrap().get(&peer).cloned();
            let there = there.ok_or_else(|| AgreeError::Connection("nobody is there".into()))?;
            let refused = |error: sessions::AnswerError| AgreeError::Refused(error.to_string());
            let answering = there.answer(own, receive).map_err(refused)?;
            let send = answering.receive();
            let answered = answering.install(keys(peer, own, receive, send)).map_err(refused)?;
            Ok(Agreement { send, keys: keys(own, peer, send, receive), confirm: Box::new(Word(answered)) })
        };
        Box::pin(std::future::ready(agree()))
    }
}

fn network(name: &str, vni: u32, protection: Protection, created_ms: u64) -> NetworkView {
    let vni = Vni::new(vni).unwrap();
    NetworkView {
        id: NetworkId(format!("id-{name}")),
        name: name.into(),
        vni,
        protection,
        underlay_mtu: None,
        subnets: vec![Subnet {
            subnet: "10.0.9.0/24".parse().unwrap(),
            gateway: GATEWAY.into(),
            ip_range: None,
            reserved: BTreeMap::new(),
        }],
        internal: false,
        foreign: BTreeSet::new(),
        created_ms,
    }
}

struct Host {
    number: u8,
    overlay: Overlay,
    events: UnboundedReceiver<OverlayEvent>,
    ends: BTreeMap<String, ChannelEnd>,
    life: u64,
}

impl Host {
    fn start(number: u8, folder: &Folder, links: &Arc<Links>) -> Self {
        let own = NodeId::from_bytes([number; 16]);
        let config = OverlayConfig {
            workers: NonZeroUsize::new(2).unwrap(),
            probe_interval: Duration::from_millis(100),
            ..OverlayConfig::new(own, format!("node-{number}"), SocketAddr::from(([127, 0, 0, 1], 0)))
        };
        let state = Arc::new(StateDir::open(&folder.0.join(number.to_string())).unwrap());
        let (overlay, events) =
            Overlay::start(config, Arc::new(Link(own, Arc::clone(links))), state).unwrap();
        links.0.lock().unwrap().insert(own, overlay.sessions().clone());
        Self { number, overlay, events, ends: BTreeMap::new(), life: 1 }
    }

    fn spec(name: &str, network: &str) -> EndpointSpec {
        let network = NetworkId(format!("id-{network}"));
        EndpointSpec::new(name, name, network, EndpointDevice::tap(format!("tap-{name}"), None))
    }

    fn attach(&mut self, name: &str, network: &str) -> EndpointView {
        let (port, end) = channel(256).unwrap();
        let device = Box::new(ChannelDevice { port, mtu: 1_400 });
        self.ends.insert(name.into(), end);
        self.overlay.attach_device(Self::spec(name, network), device).unwrap()
    }

    fn node(&self) -> NodeView {
        NodeView {
            node: NodeId::from_bytes([self.number; 16]),
            name: format!("node-{}", self.number),
            life: self.life,
            data: self.overlay.local(),
            present: self.overlay.presence(),
            endpoints: Vec::new(),
        }
    }

    async fn event(&mut self, mut wanted: impl FnMut(&OverlayEvent) -> bool) -> OverlayEvent {
        let mut seen = Vec::new();
        let next = async {
            loop {
                let event = self.events.recv().await.expect("the overlay lives");
                if wanted(&event) {
                    return event;
                }
                seen.push(event);
            }
        };
        let found = timeout(PATIENCE, next).await;
        found.unwrap_or_else(|_| panic!("node {}: no such event, but {seen:?}", self.number))
    }
}

/// Tells everybody what gossip would.
fn gossip(hosts: &[Host], networks: &[NetworkView]) {
    // Twice: who has ports where is known only after everybody knows the networks.
    for _ in 0..2 {
        let nodes: Vec<_> = hosts.iter().map(Host::node).collect();
        for host in hosts {
            host.overlay.update(View {
                nodes: nodes.clone(),
                networks: networks.to_vec(),
                services: Vec::new(),
            });
        }
    }
}

fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

fn frame(to: [u8; 6], from: u8, number: u32) -> Vec<u8> {
    [&to[..], &mac(from), &[0x88, 0xb5], &number.to_be_bytes(), &[0; 42]].concat()
}

/// Whether a frame gets from one end to another; tried until it does, while keys are agreed on and the like.
async fn reaches(from: (&Host, &str), to: (&Host, &str)) {
    let deadline = Instant::now() + PATIENCE;
    for number in 0.. {
        let sent = frame([0xff; 6], from.0.number, number);
        from.0.ends[from.1].send(&sent).unwrap();
        for _ in 0..20 {
            while let Ok(frame) = to.0.ends[to.1].try_receive() {
                if frame == sent {
                    return;
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
        let reports = [from.0, to.0].map(|host| host.overlay.report().map(|report| report.drops));
        assert!(Instant::now() < deadline, "nothing gets from {:?} to {:?}: {reports:?}", from.1, to.1);
    }
}

/// Empties an end, and says whether anything was there.
fn heard(host: &Host, end: &str) -> bool {
    std::iter::from_fn(|| host.ends[end].try_receive().ok()).count() > 0
}

/// Sends a frame from the first host to the third, which gets it; gives whether the second does, too.
fn flooded(hosts: &[Host]) -> bool {
    let until = |host: &Host, last: &[u8]| -> Vec<Vec<u8>> {
        let next = || host.ends["p"].receive_timeout(PATIENCE).expect("it is sent to this host");
        std::iter::repeat_with(next).take_while(|frame| frame != last).collect()
    };
    let (unicast, behind) = (frame(mac(3), 1, 7), frame([0xff; 6], 1, 8));
    hosts[0].ends["p"].send(&unicast).unwrap();
    hosts[0].ends["p"].send(&behind).unwrap();
    until(&hosts[2], &unicast);
    until(&hosts[1], &behind).contains(&unicast)
}

#[tokio::test]
async fn plain_and_sealed_networks_of_nodes_at_one_address() {
    let (folder, links) = (Folder::new("both"), Arc::default());
    let mut hosts: Vec<_> = (1..=3).map(|number| Host::start(number, &folder, &links)).collect();
    let networks = [network("plain", 1, Protection::Plain, 1), network("sealed", 2, Protection::Sealed, 1)];
    gossip(&hosts, &networks);
    assert!(hosts.iter().all(|host| host.overlay.presence().is_empty()));
    for host in &mut hosts {
        assert!(host.attach("p", "plain").carried);
    }
    hosts[0].attach("s", "sealed");
    hosts[2].attach("s", "sealed");
    gossip(&hosts, &networks);
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        reaches((&hosts[from], "p"), (&hosts[to], "p")).await;
    }
    reaches((&hosts[0], "s"), (&hosts[2], "s")).await;
    reaches((&hosts[2], "s"), (&hosts[0], "s")).await;
    assert_eq!(hosts[1].overlay.sessions().report().len(), 0, "it shares no sealed network");

    // Each has learnt the other two apart: what is for one no longer comes to both.
    reaches((&hosts[2], "p"), (&hosts[0], "p")).await;
    reaches((&hosts[1], "p"), (&hosts[0], "p")).await;
    let deadline = Instant::now() + PATIENCE;
    // What was heard is learnt a moment later; until then it is flooded.
    while flooded(&hosts) {
        assert!(Instant::now() < deadline, "what is for the third host still comes to the second");
    }

    // With its last port a node leaves a network.
    hosts[2].ends.remove("s");
    let gone = hosts[2].event(|event| matches!(event, OverlayEvent::EndpointGone { .. })).await;
    assert!(gone.to_string().starts_with("endpoint s of network id-sealed is gone"), "{gone}");
    gossip(&hosts, &networks);
    assert!(hosts.iter().all(|host| host.overlay.sessions().report().is_empty()));
    assert!(hosts[2].overlay.detach("p").unwrap() && !hosts[2].overlay.detach("p").unwrap());
    assert!(hosts[2].overlay.presence().is_empty() && hosts[2].overlay.endpoints().is_empty());
}

#[tokio::test]
async fn paths_are_ok_blocked_and_ok_again() {
    let (folder, links) = (Folder::new("paths"), Arc::default());
    let mut hosts: Vec<_> = (1..=2).map(|number| Host::start(number, &folder, &links)).collect();
    let networks = [network("net", 1, Protection::Sealed, 1)];
    gossip(&hosts, &networks);
    for host in &mut hosts {
        host.attach("a", "net");
    }
    gossip(&hosts, &networks);
    hosts[0].event(|event| matches!(event, OverlayEvent::PathOk { .. })).await;
    let paths = hosts[0].overlay.paths();
    assert_eq!((paths.len(), paths[0].data, &paths[0].name[..]), (1, DataPath::Ok, "node-2"));
    assert!(paths[0].rtt.is_some());

    // A hole in the ground: gossip says that it is alive, and nobody reads its socket.
    let deaf = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let there = hosts[1].node();
    let view = |data| View {
        nodes: vec![NodeView { data, ..there.clone() }],
        networks: networks.to_vec(),
        services: Vec::new(),
    };
    hosts[0].overlay.update(view(deaf.local_addr().unwrap()));
    let blocked = hosts[0].event(|event| matches!(event, OverlayEvent::PathBlocked { .. })).await.to_string();
    let port = deaf.local_addr().unwrap().port();
    assert_eq!(blocked, format!("node-2: control OK, data path blocked (UDP {port} from node-1 to node-2)"));
    hosts[0].overlay.update(view(there.data));
    hosts[0].event(|event| matches!(event, OverlayEvent::PathOk { .. })).await;
}

#[tokio::test]
async fn another_data_port_keeps_endpoints_and_keys() {
    let (folder, links) = (Folder::new("move"), Arc::default());
    let mut hosts: Vec<_> = (1..=2).map(|number| Host::start(number, &folder, &links)).collect();
    let networks = [network("net", 1, Protection::Sealed, 1)];
    gossip(&hosts, &networks);
    for host in &mut hosts {
        host.attach("a", "net");
    }
    gossip(&hosts, &networks);
    reaches((&hosts[0], "a"), (&hosts[1], "a")).await;
    let before = hosts[0].overlay.local();
    let taken = hosts[1].overlay.local();
    assert!(hosts[0].overlay.move_to(taken).is_err());
    reaches((&hosts[0], "a"), (&hosts[1], "a")).await;

    for _ in 0..3 {
        let after = hosts[0].overlay.move_to(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        assert!(after != before && hosts[0].overlay.local() == after);
        gossip(&hosts, &networks);
        reaches((&hosts[0], "a"), (&hosts[1], "a")).await;
        reaches((&hosts[1], "a"), (&hosts[0], "a")).await;
    }
    assert_eq!(hosts[0].overlay.endpoints().len(), 1);
    // Its old port is free.
    std::net::UdpSocket::bind(before).unwrap();
}

#[tokio::test]
async fn of_two_networks_with_one_vni_one_is_carried_and_the_other_told() {
    let (folder, links) = (Folder::new("vni"), Arc::default());
    let mut hosts: Vec<_> = (1..=2).map(|number| Host::start(number, &folder, &links)).collect();
    let sealed = network("sealed", 1, Protection::Sealed, 5);
    let plain = network("plain", 1, Protection::Plain, 4);
    gossip(&hosts, std::slice::from_ref(&sealed));
    for host in &mut hosts {
        host.attach("s", "sealed");
    }
    gossip(&hosts, std::slice::from_ref(&sealed));
    reaches((&hosts[0], "s"), (&hosts[1], "s")).await;
    // The other side of a partition has made one before.
    let both = [sealed.clone(), plain];
    gossip(&hosts, &both);
    let told = hosts[0].event(|event| matches!(event, OverlayEvent::NetworkRefused(_))).await.to_string();
    assert!(told.starts_with("network sealed carries nothing: plain has VNI 1 too"), "{told}");
    for host in &mut hosts {
        assert!(host.attach("p", "plain").carried);
        let carried: Vec<_> = host.overlay.endpoints().iter().map(|endpoint| endpoint.carried).collect();
        assert_eq!(carried, [true, false]);
    }
    gossip(&hosts, &both);
    reaches((&hosts[0], "p"), (&hosts[1], "p")).await;
    heard(&hosts[1], "s");
    hosts[0].ends["s"].send(&frame([0xff; 6], 1, 9)).unwrap();
    reaches((&hosts[0], "p"), (&hosts[1], "p")).await;
    assert!(!heard(&hosts[1], "s"));

    gossip(&hosts, &[sealed]);
    hosts[0].event(|event| matches!(event, OverlayEvent::NetworkCarried(_))).await;
    reaches((&hosts[0], "s"), (&hosts[1], "s")).await;
}

#[tokio::test]
async fn what_can_not_be_attached_is_refused_and_nothing_is_kept() {
    let (folder, links) = (Folder::new("refused"), Arc::default());
    let mut host = Host::start(1, &folder, &links);
    let device = || Box::new(ChannelDevice { port: channel(1).unwrap().0, mtu: 1_400 });
    let refused = |host: &Host, spec: EndpointSpec| host.overlay.attach_device(spec, device()).unwrap_err();
    assert!(matches!(refused(&host, Host::spec("a", "net")), AttachError::NoNetwork(_)));
    let networks = [network("net", 1, Protection::Plain, 1)];
    gossip(std::slice::from_ref(&host), &networks);
    host.attach("a", "net");
    assert!(matches!(refused(&host, Host::spec("a", "net")), AttachError::Taken(_)));
    assert!(matches!(refused(&host, Host::spec("", "net")), AttachError::Name(_)));
    let missing = EndpointSpec {
        device: EndpointDevice::tap("tap-b", Some("/nowhere".into())),
        ..Host::spec("b", "net")
    };
    assert!(host.overlay.attach(missing).unwrap_err().is_gone());
    let names: BTreeSet<_> =
        host.overlay.endpoints().into_iter().map(|endpoint| endpoint.spec.name).collect();
    assert_eq!(names, ["a".to_owned()].into());
    let file = std::fs::read_to_string(folder.0.join("1").join(FILE)).unwrap();
    assert!(file.contains("\"name\":\"a\"") && !file.contains("\"b\""), "{file}");
}

/// An echo request to the gateway.
fn ping(number: u16) -> Vec<u8> {
    let own = mac_of(IpAddr::from(GATEWAY)).0;
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2(mac(1), own).ipv4([10, 0, 9, 7], GATEWAY, 64);
    step.icmpv4_echo_request(7, number).write(&mut frame, b"there?").unwrap();
    frame
}

/// Whether the gateway answers an endpoint, and nothing else is heard there.
fn is_answered(host: &Host, end: &str, number: u16) -> bool {
    let end = &host.ends[end];
    end.send(&ping(number)).unwrap();
    let reply = end.receive_timeout(PATIENCE).unwrap();
    (&reply[..6], reply[34], &reply[40..42]) == (&mac(1)[..], 0, &number.to_be_bytes()[..])
}

#[tokio::test]
async fn each_node_has_the_gateway_of_a_network_while_it_has_endpoints_there() {
    let (folder, links) = (Folder::new("gateway"), Arc::default());
    let mut hosts: Vec<_> = (1..=2).map(|number| Host::start(number, &folder, &links)).collect();
    let networks = [network("net", 1, Protection::Plain, 1)];
    gossip(&hosts, &networks);
    for host in &mut hosts {
        host.attach("a", "net");
    }
    gossip(&hosts, &networks);
    reaches((&hosts[0], "a"), (&hosts[1], "a")).await;
    // The other one's gateway hears nothing of it, so nothing has to be dropped that it says.
    for (number, host) in (1..).zip(&hosts) {
        assert!(is_answered(host, "a", number));
    }
    for _ in 0..2 {
        hosts[0].overlay.move_to(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        gossip(&hosts, &networks);
        assert!(is_answered(&hosts[0], "a", 7), "it is a port of the next switch, too");
    }
    // Another address is another gateway.
    let mut moved = networks.clone();
    moved[0].subnets[0].gateway = [10, 0, 9, 254].into();
    gossip(&hosts, &moved);
    hosts[0].ends["a"].send(&ping(9)).unwrap();
    reaches((&hosts[1], "a"), (&hosts[0], "a")).await;
    gossip(&hosts, &networks);
    assert!(is_answered(&hosts[0], "a", 10));
    assert!(hosts[0].overlay.detach("a").unwrap());
    hosts[0].attach("b", "net");
    assert!(is_answered(&hosts[0], "b", 11));
    let drops = hosts.iter().filter_map(|host| Some(host.overlay.report()?.drops));
    let drops: Vec<_> =
        drops.flatten().filter(|(reason, _)| *reason == DropReason::SourceElsewhere).collect();
    assert_eq!(drops, []);
}

/// Whom an endpoint is told to be at an address.
fn resolved(host: &Host, end: &str, address: [u8; 4]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    let request = [&[0xff; 6][..], &mac(1), &[8, 6], &head, &mac(1), &[10, 0, 9, 7], &[0; 6], &address];
    host.ends[end].send(&request.concat()).unwrap();
    let reply = host.ends[end].receive_timeout(PATIENCE).unwrap();
    assert_eq!((&reply[20..22], &reply[28..32]), (&[0, 2][..], &address[..]), "no reply to ARP: {reply:?}");
    reply[22..28].to_vec()
}

#[tokio::test]
async fn a_service_that_is_refused_is_told_once_and_stops_no_other() {
    let (folder, links) = (Folder::new("services"), Arc::default());
    let mut host = Host::start(1, &folder, &links);
    let networks = vec![network("net", 1, Protection::Plain, 1)];
    let service = |name: &str, last: u8| ServiceView {
        id: format!("id-{name}"),
        name: name.into(),
        network: networks[0].id.clone(),
        aliases: Vec::new(),
        vips: vec![[10, 0, 9, last].into()],
        idle: crate::switch::balance::IdleLimits::default(),
    };
    let services = vec![service("web", 100), service("twice", 100), service("db", 101)];
    let view = || View { nodes: Vec::new(), networks: networks.clone(), services: services.clone() };
    host.overlay.update(view());
    host.attach("a", "net");
    for _ in 0..3 {
        host.overlay.update(view());
    }
    for last in [100, 101] {
        assert_eq!(resolved(&host, "a", [10, 0, 9, last]), [2, 0x42, 10, 0, 9, last]);
    }
    host.overlay.move_to(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    assert_eq!(
        resolved(&host, "a", [10, 0, 9, 101]),
        [2, 0x42, 10, 0, 9, 101],
        "the next switch has it, too"
    );
    let moved = |event: &OverlayEvent| matches!(event, OverlayEvent::Moved(_));
    let mut told = Vec::new();
    host.event(|event| {
        told.extend(matches!(event, OverlayEvent::SwitchRefused { .. }).then(|| event.to_string()));
        moved(event)
    })
    .await;
    assert_eq!(
        told,
        ["can't balance service twice in network 1: 10.0.9.100 is the address of something else"]
    );
}
