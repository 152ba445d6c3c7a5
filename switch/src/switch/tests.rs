use vswitchd_crypto::envelope::{HEADER_LEN, OVERHEAD, TAG_LEN};
use vswitchd_crypto::key::Key;

use super::*;
use crate::datapath::Datapath;
use crate::fdb::Forward;
use crate::io::{Capabilities, Frame, Received};
use crate::outbox::Outbox;
use crate::packet::Pool;
use crate::storm::StormLimit;
use crate::wire::virtio::Offload;
use crate::wire::vxlan;

fn vni() -> Vni {
    Vni::new(42).unwrap()
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 4789))
}

fn station(number: u16) -> MacAddr {
    let [high, low] = number.to_be_bytes();
    MacAddr([2, 0, 0, 0, high, low])
}

fn session(id: u32) -> SessionId {
    SessionId::new(id).unwrap()
}

fn key(id: u32) -> Key {
    Key::derive(b"test", &[&id.to_be_bytes()])
}

fn opener(id: u32) -> Arc<Opener> {
    Arc::new(Opener::new(&key(id), session(id)))
}

fn sealer(id: u32) -> Arc<Sealer> {
    Arc::new(Sealer::new(&key(id), session(id)))
}

/// A switch with a sealed network, of which it has a port, and a peer there.
fn sealed() -> (Switch, VtepId) {
    let switch = Switch::new(address(1), Limits::default());
    let storm = StormLimit::default();
    let spec = PortSpec {
        name: String::new(),
        vni: vni(),
        mtu: 1_420,
        capabilities: Capabilities::default(),
        storm,
    };
    let peer = switch.apply(|changes| {
        changes.seal_network(vni())?;
        changes.add_port(spec)?;
        changes.add_peer(vni(), address(2))
    });
    (switch, peer.unwrap())
}

/// Takes a datagram from the peer; gives whether it came to a delivery.
fn receive(switch: &Switch, datagram: &[u8]) -> bool {
    #[expect(clippy::disallowed_methods, reason = "an arbitrary moment")]
    let now = Instant::now();
    let (mut pool, mut out) = (Pool::new(4), Outbox::default());
    let mut buf = pool.take().unwrap();
    buf.fill(datagram);
    let mut batch = vec![Received { buf, from: address(2), segment: datagram.len() }];
    Datapath::new(switch.clone()).ingress(&mut batch, &mut pool, &mut out, now);
    !out.deliveries.is_empty()
}

/// A broadcast from a station at the peer, sealed by it.
fn from_peer(sealer: &Sealer) -> Vec<u8> {
    let frame = [&[0xff; 6][..], &station(1).0, &[0x88, 0xb5], &[0; 46]].concat();
    let mut datagram = [&[0; HEADER_LEN][..], &vxlan::emit(vni()), &frame, &[0; TAG_LEN]].concat();
    sealer.seal(&mut datagram).unwrap();
    datagram
}

#[test]
fn changes_made_together_are_published_together() {
    let (switch, peer) = sealed();
    let before = Arc::clone(&switch.tables());
    let added = switch.apply(|changes| {
        for number in 0..300_u16 {
            let [high, low] = number.to_be_bytes();
            let home = IpAddr::from([10, 0, high, low]);
            changes.announce(vni(), station(number), &[home], Place::Vtep(peer))?;
        }
        changes.set_sealer(peer, Some(sealer(1)))?;
        changes.add_opener(peer, opener(2))?;
        let meanwhile = switch.tables();
        assert!(Arc::ptr_eq(&meanwhile, &before), "nobody sees a part of it");
        changes.add_peer(vni(), address(3))
    });
    let tables = switch.tables();
    assert!((0..300).all(|number| tables.fdb.lookup(vni(), station(number)) == Forward::Remote(peer)));
    assert_eq!(tables.topology.neighbours.len(), 300);
    assert_eq!(tables.topology.networks[&vni()].peers, [peer, added.unwrap()]);
    let vtep = tables.topology.peers.peer(peer).unwrap();
    assert!(vtep.sealer.is_some() && tables.topology.peers.session(session(2)).is_some());

    switch.apply(|changes| (0..300).for_each(|number| assert!(changes.withdraw(vni(), station(number)))));
    let tables = switch.tables();
    assert!(tables.fdb.is_empty() && tables.topology.neighbours.is_empty());
}

#[test]
fn what_was_changed_before_an_error_stays_and_is_published() {
    let (switch, peer) = sealed();
    let outcome = switch.apply(|changes| {
        changes.announce(vni(), station(1), &[], Place::Vtep(peer))?;
        changes.announce(vni(), station(2), &[], Place::Vtep(VtepId(99)))
    });
    assert_eq!(outcome, Err(TableError::NoSuchPlace));
    assert_eq!(switch.tables().fdb.lookup(vni(), station(1)), Forward::Remote(peer));
    assert_eq!(switch.tables().fdb.lookup(vni(), station(2)), Forward::Flood);
}

#[test]
fn what_changes_no_address_does_not_copy_the_forwarding_table() {
    let (switch, peer) = sealed();
    switch.announce(vni(), station(1), &[], Place::Vtep(peer)).unwrap();
    let before = Arc::clone(&switch.tables().fdb);
    switch.set_sealer(peer, Some(sealer(1))).unwrap();
    switch.add_opener(peer, opener(2)).unwrap();
    assert!(!switch.withdraw(vni(), station(2)));
    assert!(Arc::ptr_eq(&switch.tables().fdb, &before));
}

#[test]
fn a_session_is_heard_once_it_has_opened_something_until_that_is_told() {
    let (switch, peer) = sealed();
    for id in [7, 8, 9] {
        switch.add_opener(peer, opener(id)).unwrap();
    }
    assert_eq!(switch.sessions_heard(), []);
    let theirs = [9, 7].map(sealer);
    for sealer in &theirs {
        assert!(receive(&switch, &from_peer(sealer)) && receive(&switch, &from_peer(sealer)));
    }
    assert_eq!(switch.sessions_heard(), [session(7), session(9)]);
    assert_eq!(switch.sessions_heard(), [], "told");

    let datagram = from_peer(&theirs[0]);
    let mut forged = datagram.clone();
    forged[HEADER_LEN] ^= 1;
    assert!(!receive(&switch, &forged));
    assert_eq!(switch.sessions_heard(), [], "anybody can send that");
    assert!(receive(&switch, &datagram));
    assert_eq!(switch.sessions_heard(), [session(9)]);
    assert!(!receive(&switch, &datagram));
    assert_eq!(switch.sessions_heard(), [], "and that, once it was sent");
}

#[test]
fn a_session_stays_heard_when_the_tables_are_published_anew() {
    let (switch, peer) = sealed();
    switch.add_opener(peer, opener(7)).unwrap();
    assert!(receive(&switch, &from_peer(&sealer(7))));
    switch.set_sealer(peer, Some(sealer(1))).unwrap();
    assert_eq!(switch.sessions_heard(), [session(7)]);
}

#[test]
fn a_sealer_says_how_much_it_has_sealed() {
    let (switch, peer) = sealed();
    assert_eq!(switch.sealer_used(peer), 0, "there is none");
    let ours = sealer(1);
    switch.set_sealer(peer, Some(Arc::clone(&ours))).unwrap();
    for _ in 0..3 {
        ours.seal(&mut [0; OVERHEAD]).unwrap();
    }
    assert_eq!((switch.sealer_used(peer), switch.sealer_used(VtepId(99))), (3, 0));
    switch.set_sealer(peer, Some(sealer(2))).unwrap();
    assert_eq!(switch.sealer_used(peer), 0, "a new one");
}

#[test]
fn a_peer_out_of_its_last_network_has_no_keys_and_comes_back_without() {
    let (switch, peer) = sealed();
    let other = Vni::new(43).unwrap();
    assert_eq!(switch.add_peer(other, address(2)), Ok(peer));
    switch.set_sealer(peer, Some(sealer(1))).unwrap();
    switch.add_opener(peer, opener(7)).unwrap();
    let theirs = sealer(7);
    switch.remove_peer(other, peer);
    assert!(receive(&switch, &from_peer(&theirs)), "it is in one still");

    switch.remove_peer(vni(), peer);
    assert!(!receive(&switch, &from_peer(&theirs)));
    assert_eq!(switch.drops().count(DropReason::UnknownSession), 1);
    assert_eq!(switch.set_sealer(peer, Some(sealer(2))), Err(TableError::NoSuchPeer));
    let again = switch.add_peer(vni(), address(2)).unwrap();
    assert_ne!(again, peer);
    assert!(switch.tables().topology.peers.peer(again).is_some_and(|vtep| vtep.sealer.is_none()));
    assert!(!receive(&switch, &from_peer(&theirs)), "the number leads nowhere");
    assert_eq!(switch.add_opener(again, opener(7)), Ok(()), "and is free");
}

#[test]
fn what_is_kept_here_is_for_this_node_only() {
    let switch = Switch::new(address(1), Limits::default());
    let spec = || PortSpec {
        name: String::new(),
        vni: vni(),
        mtu: 1_450,
        capabilities: Capabilities::default(),
        storm: StormLimit::default(),
    };
    let [one, gateway] = [(); 2].map(|()| switch.add_port(spec()).unwrap());
    switch.add_peer(vni(), address(2)).unwrap();
    assert!(switch.apply(|changes| changes.keep_here(gateway)));
    #[expect(clippy::disallowed_methods, reason = "an arbitrary moment")]
    let now = Instant::now();
    let (mut pool, mut datapath) = (Pool::new(8), Datapath::new(switch.clone()));
    let mut reached = |from: Option<PortId>, frame: &[u8]| {
        let mut out = Outbox::default();
        let mut buf = pool.take().unwrap();
        match from {
            Some(port) => {
                buf.fill(frame);
                let mut batch = vec![Frame { buf, offload: Offload::default() }];
                datapath.egress(port, &mut batch, &mut pool, &mut out, now);
            }
            None => {
                buf.fill(&[&vxlan::emit(vni())[..], frame].concat());
                let segment = buf.data().len();
                let mut batch = vec![Received { buf, from: address(2), segment }];
                datapath.ingress(&mut batch, &mut pool, &mut out, now);
            }
        }
        let ports: Vec<_> = out.deliveries.iter().map(|delivery| delivery.port).collect();
        (ports, out.transmits.len())
    };
    let frame = |to: &[u8], from| [to, &station(from).0, &[0x88, 0xb5], &[0; 46]].concat();
    let all = &[0xff; 6];
    assert_eq!(reached(Some(one), &frame(all, 1)), (vec![gateway], 1));
    assert_eq!(reached(Some(gateway), &frame(all, 2)), (vec![one], 0));
    assert_eq!(reached(None, &frame(all, 3)), (vec![one], 0));
    // Nor does it hear what is for it alone, if a peer says that; what it says itself goes anywhere.
    switch.announce(vni(), station(2), &[], Place::Port(gateway)).unwrap();
    assert_eq!(reached(None, &frame(&station(2).0, 3)), (vec![], 0));
    assert_eq!(switch.report().drops, [(DropReason::NotForPeers, 1)]);
    assert_eq!(reached(Some(one), &frame(&station(2).0, 1)), (vec![gateway], 0));
    assert_eq!(reached(Some(gateway), &frame(&station(3).0, 2)), (vec![], 1));
    assert!(!switch.apply(|changes| changes.keep_here(PortId(99))));
}
