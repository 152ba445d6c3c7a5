use vswitchd_crypto::key::Key;

use super::*;
use crate::fdb::Forward;

fn vni(id: u32) -> Vni {
    Vni::new(id).unwrap()
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 4789))
}

fn spec(network: u32, capabilities: Capabilities) -> PortSpec {
    PortSpec {
        name: String::new(),
        vni: vni(network),
        mtu: 1_450,
        capabilities,
        storm: StormLimit::default(),
    }
}

const STATION: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

/// A port in networks 1 and 2 each, and a peer in both.
fn master() -> (Master, PortId, PortId, VtepId) {
    let mut master = Master::new(address(1), Limits::default(), 1);
    let first = master.add_port(spec(1, Capabilities::default())).unwrap();
    let second = master.add_port(spec(2, Capabilities::default())).unwrap();
    let peer = master.add_peer(vni(1), address(2)).unwrap();
    assert_eq!(master.add_peer(vni(2), address(2)), Ok(peer));
    (master, first, second, peer)
}

#[test]
fn what_is_in_one_network_can_not_be_announced_or_heard_in_another() {
    let (mut master, _, second, _) = master();
    let at = Place::Port(second);
    assert_eq!(master.announce(vni(1), STATION, &[HOME], at), Err(TableError::NoSuchPlace));
    #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences matter")]
    let now = Instant::now();
    master.learn(&[News { vni: vni(1), mac: STATION, place: at }], now);
    assert_eq!(master.publish(now), Ok(false));
    assert_eq!(master.tables().fdb.lookup(vni(1), STATION), Forward::Flood);
}

#[test]
fn a_peer_that_leaves_a_network_is_forgotten_there_and_only_there() {
    let (mut master, _, _, peer) = master();
    for network in [1, 2] {
        master.announce(vni(network), STATION, &[HOME], Place::Vtep(peer)).unwrap();
    }
    master.remove_peer(vni(1), peer);
    let tables = master.tables();
    assert_eq!(tables.fdb.lookup(vni(1), STATION), Forward::Flood);
    assert_eq!(tables.fdb.lookup(vni(2), STATION), Forward::Remote(peer));
    assert_eq!(tables.topology.neighbours.keys().collect::<Vec<_>>(), [&(vni(2), HOME)]);
    master.remove_peer(vni(2), peer);
    assert!(master.tables().topology.peers.is_empty());
}

#[test]
fn a_port_takes_its_stations_along() {
    let (mut master, first, ..) = master();
    master.announce(vni(1), STATION, &[HOME], Place::Port(first)).unwrap();
    master.remove_port(first);
    let tables = master.tables();
    assert!(tables.fdb.is_empty() && tables.topology.neighbours.is_empty());
    assert!(tables.topology.networks[&vni(1)].ports.is_empty(), "the peer is still in it");
}

#[test]
fn addresses_that_no_peer_has_are_refused() {
    let (mut master, ..) = master();
    for text in ["0.0.0.0:1", "224.0.0.1:1", "255.255.255.255:1", &address(1).to_string(), "[2001:db8::1]:1"]
    {
        assert!(master.add_peer(vni(1), text.parse().unwrap()).is_err(), "{text}");
    }
}

#[test]
fn peers_at_one_address_are_told_apart_by_their_ports() {
    let (mut master, .., first) = master();
    let at = |port| SocketAddr::new(address(2).ip(), port);
    let [low, high] = [1_000, 60_000].map(|port| master.add_peer(vni(1), at(port)).unwrap());
    let own = master.add_peer(vni(1), SocketAddr::new(address(1).ip(), 1)).unwrap();
    let find = |master: &mut Master, port| master.tables().topology.peers.find(at(port));
    let at_ports = [1_000, address(2).port(), 60_000, 50_000].map(|port| find(&mut master, port));
    assert_eq!(
        at_ports,
        [Some(low), Some(first), Some(high), Some(low)],
        "any other port is the lowest one's"
    );
    assert_eq!(master.tables().topology.peers.exact(at(50_000)), None);
    assert_eq!(master.tables().topology.peers.find(address(1)), Some(own), "it shares our host");
    for (gone, left) in [(low, Some(first)), (high, Some(first)), (first, None)] {
        master.remove_peer(vni(2), gone);
        master.remove_peer(vni(1), gone);
        assert_eq!(find(&mut master, 50_000), left);
    }
}

fn opener(id: u32) -> Arc<Opener> {
    Arc::new(Opener::new(&Key::new(&[7; 32]), SessionId::new(id).unwrap()))
}

#[test]
fn a_network_is_sealed_before_it_has_members_and_until_it_is_forgotten() {
    let (mut master, ..) = master();
    assert_eq!(master.seal_network(vni(1)), Err(TableError::NetworkInUse(vni(1))));
    assert_eq!(master.tables().topology.networks[&vni(1)].protection, Protection::Plain);
    assert_eq!((master.seal_network(vni(3)), master.seal_network(vni(3))), (Ok(()), Ok(())));
    let port = master.add_port(spec(3, Capabilities::default())).unwrap();
    assert_eq!(master.seal_network(vni(3)), Ok(()), "it is");
    let peer = master.add_peer(vni(3), address(3)).unwrap();
    assert_eq!(master.forget_network(vni(3)), Err(TableError::NetworkInUse(vni(3))));
    master.remove_port(port);
    master.remove_peer(vni(3), peer);
    master.add_port(spec(3, Capabilities::default())).map(|port| master.remove_port(port)).unwrap();
    assert_eq!(master.tables().topology.networks[&vni(3)].protection, Protection::Sealed);
    assert_eq!((master.forget_network(vni(3)), master.forget_network(vni(3))), (Ok(()), Ok(())));
    assert!(!master.tables().topology.networks.contains_key(&vni(3)));
}

#[test]
fn sessions_are_bounded_differ_and_go_with_their_peer() {
    let (mut master, .., peer) = master();
    let other = master.add_peer(vni(1), address(3)).unwrap();
    let max = u32::try_from(SESSIONS_PER_PEER_MAX).unwrap();
    for id in 0..max {
        assert_eq!(master.add_opener(peer, opener(id)), Ok(()));
    }
    assert_eq!(master.add_opener(peer, opener(max)), Err(TableError::TooManySessions));
    let in_use = TableError::SessionInUse(SessionId::new(3).unwrap());
    assert_eq!(master.add_opener(other, opener(3)), Err(in_use));
    assert_eq!(master.add_opener(other, opener(max)), Ok(()));
    let nobody = VtepId(99);
    assert_eq!(master.add_opener(nobody, opener(max + 1)), Err(TableError::NoSuchPeer));
    assert_eq!(master.set_sealer(nobody, None), Err(TableError::NoSuchPeer));
    master.remove_peer(vni(1), peer);
    assert_eq!(
        master.tables().topology.peers.sessions_of(peer),
        SESSIONS_PER_PEER_MAX,
        "it is in another network still"
    );
    master.remove_peer(vni(2), peer);
    let tables = master.tables();
    let left = (0..=max).filter(|&id| tables.topology.peers.session(SessionId::new(id).unwrap()).is_some());
    assert_eq!(left.collect::<Vec<_>>(), [max]);
}

#[test]
fn super_frames_need_unfinished_checksums() {
    let (mut master, ..) = master();
    let port = master.add_port(spec(1, Capabilities { checksum: false, tso: true, uso: true })).unwrap();
    assert_eq!(master.tables().topology.ports[&port].spec.capabilities, Capabilities::default());
}

#[test]
fn a_large_table_is_published_at_intervals_a_small_one_at_once() {
    let (mut master, first, ..) = master();
    #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences matter")]
    let mut now = Instant::now();
    let hear = |master: &mut Master, n: u16, now| {
        let [high, low] = n.to_be_bytes();
        let mac = MacAddr([2, 1, 0, 0, high, low]);
        master.learn(&[News { vni: vni(1), mac, place: Place::Port(first) }], now);
        master.publish(now)
    };
    for n in 0..1_024 {
        assert_eq!(hear(&mut master, n, now), Ok(true), "{n}");
    }
    let due = hear(&mut master, 2_000, now).unwrap_err();
    assert!(due > now && due < now + Duration::from_millis(1));
    now = due;
    assert_eq!(master.publish(now), Ok(true));
    assert_eq!(master.publish(now), Ok(false));
}
