//! Nobody to answer, tasks that go, flows that end.

use std::time::Duration;

use vswitchd_switch::balance::{IdleLimits, ServiceSpec};
use vswitchd_switch::drops::DropReason;
use vswitchd_switch::wire::virtio::{Checksum, Offload};

use crate::frames::{ACK, FAMILIES, FIN, Family, Numbers, RST, SYN, V4, Way, ip, mac, with_hops};
use crate::world::{At, Out, VIP, World, said, service, vni};

const PORTS: [u16; 2] = [4_000, 80];
const BACK: [u16; 2] = [80, 4_000];

fn numbers(flags: u8, sequence: u32, acknowledgment: u32) -> Numbers {
    Numbers { flags, sequence, acknowledgment }
}

fn reset(family: Family, numbers: Numbers) -> Out {
    vec![(At::Port(1), Way(family, VIP, 1).tcp(BACK, numbers, b""))]
}

#[test]
fn without_a_task_clients_are_refused_at_once() {
    for family in FAMILIES {
        let (mut world, to) = (World::new(&[]), Way(family, 1, VIP));
        let got = world.send(1, &to.tcp(PORTS, numbers(SYN, 100, 0), b""));
        assert_eq!(said(got), reset(family, numbers(RST | ACK, 0, 101)));
        let got = world.send(1, &to.tcp(PORTS, numbers(ACK | FIN, 100, 7_000), b"data"));
        assert_eq!(said(got), reset(family, numbers(RST, 7_000, 0)));
        assert_eq!(world.send(1, &to.tcp(PORTS, numbers(RST, 100, 0), b"")), []);
        let udp = to.udp(PORTS, b"question");
        assert_eq!(said(world.send(1, &udp)), [(At::Port(1), Way(family, VIP, 1).no_port(&udp))]);
        let echo = to.echo(false, 1);
        assert_eq!(said(world.send(1, &echo)), [(At::Port(1), Way(family, VIP, 1).no_host(&echo))]);
        assert_eq!(world.dropped(), [(DropReason::NotBalanced, 1), (DropReason::NoTask, 4)]);
        assert_eq!(world.switch.report().flows.flows, 0);
    }
}

#[test]
fn messages_are_limited_and_resets_are_not() {
    let mut world = World::new(&[]);
    let mut told = |frame: &dyn Fn(u16) -> Vec<u8>| {
        (0..200).map(|port| world.send(1, &frame(port)).len()).sum::<usize>()
    };
    assert_eq!(told(&|port| Way(V4, 1, VIP).udp([port, 80], b"")), 50);
    assert_eq!(told(&|port| Way(V4, 1, VIP).tcp([port, 80], numbers(SYN, 1, 0), b"")), 200);
}

#[test]
fn clients_of_a_task_that_goes_are_reset_without_asking() {
    for family in FAMILIES {
        let (mut world, to) = (World::new(&[3]), Way(family, 1, VIP));
        // One that waits for an answer, after it has acknowledged 5,000; and one whose SYN nobody has answered yet.
        world.send(1, &to.tcp(PORTS, numbers(SYN, 100, 0), b""));
        world.receive(&Way(family, 3, 1).tcp(BACK, numbers(SYN | ACK, 4_999, 101), b""));
        world.send(1, &to.tcp(PORTS, numbers(ACK, 101, 5_000), b"request"));
        world.send(2, &Way(family, 2, VIP).tcp(PORTS, numbers(SYN, 700, 0), b""));
        world.send(1, &to.udp(PORTS, b"question"));
        world.serve(service(VIP, &[4]));
        let mut got = said(world.turn());
        got.sort();
        // What was sent the switch has not kept: it quotes an empty datagram of its own.
        let empty = with_hops(to.bare_udp(PORTS, b""), 64);
        let mut want = vec![
            (At::Port(1), Way(family, VIP, 1).tcp(BACK, numbers(RST, 5_000, 0), b"")),
            (At::Port(2), Way(family, VIP, 2).tcp(BACK, numbers(RST | ACK, 0, 701), b"")),
            (At::Port(1), Way(family, VIP, 1).no_port(&empty)),
        ];
        want.sort();
        assert_eq!(got, want);
        let counts = world.switch.report().flows;
        assert_eq!((counts.flows, counts.reset), (0, 3));
        assert_eq!(world.turn(), [], "once");
    }
}

#[test]
fn a_client_that_is_faster_is_reset_by_its_own_numbers() {
    let (mut world, to) = (World::new(&[3]), Way(V4, 1, VIP));
    world.send(1, &to.tcp(PORTS, numbers(SYN, 100, 0), b""));
    world.serve(service(VIP, &[4]));
    // Before the first worker has had its turn.
    let got = world.send(1, &to.tcp(PORTS, numbers(ACK, 101, 6_000), b"request"));
    assert_eq!(said(got), reset(V4, numbers(RST, 6_000, 0)));
    // A new connection with the same port goes to another task at once.
    let syn = numbers(SYN, 900, 0);
    assert_eq!(world.send(1, &to.tcp(PORTS, syn, b"")), [(At::Peer, Way(V4, 1, 4).tcp(PORTS, syn, b""))]);
    assert_eq!(world.turn(), [], "the old flow is the new one's");
    assert_eq!(world.dropped(), [(DropReason::TaskGone, 1)]);
}

#[test]
fn a_service_that_goes_resets_its_flows() {
    let (mut world, to) = (World::new(&[3]), Way(V4, 1, VIP));
    world.send(1, &to.tcp(PORTS, numbers(ACK, 101, 6_000), b""));
    assert!(world.switch.remove_service(vni(), mac(VIP)));
    assert_eq!(said(world.turn()), reset(V4, numbers(RST, 6_000, 0)));
    assert!(world.switch.tables().topology.neighbours.keys().all(|(_, address)| *address != ip(V4, VIP)));
}

#[test]
fn what_has_ended_is_forgotten_soon_and_what_rests_is_not() {
    let (mut world, to) = (World::new(&[3]), Way(V4, 1, VIP));
    let open = |world: &mut World, port: u16| {
        world.send(1, &to.tcp([port, 80], numbers(SYN, 100, 0), b""));
        world.receive(&Way(V4, 3, 1).tcp([80, port], numbers(SYN | ACK, 1, 101), b""));
        world.send(1, &to.tcp([port, 80], numbers(ACK, 101, 2), b""));
    };
    (1..=4).for_each(|port| open(&mut world, port));
    // 1 rests; 2 ends both ways; 3 is reset; 4 ends one way; 5 is never answered.
    world.send(1, &to.tcp([2, 80], numbers(FIN | ACK, 101, 2), b""));
    world.receive(&Way(V4, 3, 1).tcp([80, 2], numbers(FIN | ACK, 2, 102), b""));
    world.receive(&Way(V4, 3, 1).tcp([80, 3], numbers(RST, 2, 0), b""));
    world.send(1, &to.tcp([4, 80], numbers(FIN | ACK, 101, 2), b""));
    world.send(1, &to.tcp([5, 80], numbers(SYN, 1, 0), b""));
    let flows = |world: &World| world.switch.report().flows.flows;
    assert_eq!(flows(&world), 5);
    // All flows are looked at in sixteen seconds.
    for (seconds, left) in [(9, 5), (17, 4), (33, 4), (17, 3), (43, 3), (17, 2), (3_400, 2), (90, 1)] {
        assert_eq!(world.wait(seconds), [], "nobody is told");
        assert_eq!(flows(&world), left, "{seconds} s later");
    }
    let rest = to.tcp([1, 80], numbers(ACK, 101, 2), b"");
    assert_eq!(world.send(1, &rest), [(At::Peer, Way(V4, 1, 3).tcp([1, 80], numbers(ACK, 101, 2), b""))]);
    world.wait(24 * 3_600 + 17);
    assert_eq!((flows(&world), world.switch.report().flows.expired), (0, 5));
}

#[test]
fn a_client_that_has_gone_leaves_nothing() {
    let (mut world, to) = (World::new(&[3]), Way(V4, 1, VIP));
    world.send(1, &to.tcp(PORTS, numbers(SYN, 100, 0), b""));
    world.receive(&Way(V4, 3, 1).tcp(BACK, numbers(SYN | ACK, 1, 101), b""));
    world.send(1, &to.tcp(PORTS, numbers(ACK, 101, 2), b""));
    assert!(world.switch.withdraw(vni(), mac(1)));
    for (seconds, left) in [(3_590, 1), (30, 0)] {
        world.wait(seconds);
        assert_eq!(world.switch.report().flows.flows, left);
    }
}

#[test]
fn the_limits_are_the_services() {
    let mut world = World::new(&[3]);
    let idle = IdleLimits { tcp: Duration::from_secs(30), udp: Duration::from_secs(10) };
    world.serve(ServiceSpec { idle, ..service(VIP, &[3]) });
    world.send(1, &Way(V4, 1, VIP).udp(PORTS, b""));
    world.receive(&Way(V4, 3, 1).udp(BACK, b""));
    world.wait(9);
    assert_eq!(world.switch.report().flows.flows, 1);
    // The answer comes late, but in time; and again.
    world.receive(&Way(V4, 3, 1).udp(BACK, b""));
    world.wait(9);
    assert_eq!(world.switch.report().flows.flows, 1);
    world.wait(17);
    assert_eq!(world.switch.report().flows.flows, 0);
    let late = Way(V4, 3, 1).udp(BACK, b"");
    assert_eq!(world.receive(&late), [(At::Port(1), late.clone())], "no flow of the service any more");
}

#[test]
fn a_port_is_used_again_for_another_connection() {
    let (mut world, to) = (World::new(&[3]), Way(V4, 1, VIP));
    world.send(1, &to.tcp(PORTS, numbers(SYN, 100, 0), b""));
    world.receive(&Way(V4, 3, 1).tcp(BACK, numbers(RST | ACK, 0, 101), b""));
    world.serve(service(VIP, &[4]));
    let syn = numbers(SYN, 200, 0);
    assert_eq!(world.send(1, &to.tcp(PORTS, syn, b"")), [(At::Peer, Way(V4, 1, 4).tcp(PORTS, syn, b""))]);
    let answer = Way(V4, 4, 1).tcp(BACK, numbers(SYN | ACK, 1, 201), b"");
    assert_eq!(world.receive(&answer).len(), 1);
    assert_eq!(world.switch.report().flows.flows, 1);
}

#[test]
fn unfinished_frames_are_refused_like_finished_ones() {
    let (mut world, to) = (World::new(&[]), Way(V4, 1, VIP));
    let mut frame = to.tcp(PORTS, numbers(ACK, 1, 9), &[0; 5_000]);
    to.unfinish(&mut frame, 16);
    let checksum = Checksum::Partial { start: 34, offset: 16 };
    let got = world.send_with(1, &frame, Offload { checksum, gso: None });
    assert_eq!(said(got), reset(V4, numbers(RST, 9, 0)));
}
