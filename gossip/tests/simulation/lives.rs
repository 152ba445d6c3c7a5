//! Nodes that move, are removed, or come back with a clock that was set back.

use vswitchd_gossip::PeerStatus;

use crate::world::{ENDPOINTS, NETWORKS, World, addr, node};
use crate::{SECOND, STEP, seed};

const NODES: usize = 6;

fn cluster() -> World {
    let mut world = World::new(NODES, seed());
    (0..NODES).for_each(|at| world.start(at));
    world.run_until(STEP, 60 * SECOND, World::converged).expect("they join");
    world
}

fn status(world: &World, at: usize, of: usize) -> Option<PeerStatus> {
    let engine = world.places[at].engine.as_ref().unwrap();
    engine.peers().into_iter().find(|peer| peer.node == node(of))
}

/// Everybody else has `of`'s record as it is now.
fn is_heard(world: &World, of: usize, value: &[u8]) -> bool {
    world.live().all(|(_, engine)| engine.owned_value(node(of), ENDPOINTS, "news") == Some(value))
}

fn speak(world: &mut World, at: usize, value: &[u8]) {
    let value = Some(value.to_vec());
    world.act(at, |engine, _| engine.set_owned(ENDPOINTS, "news", value).unwrap());
}

#[test]
fn a_node_that_moves_is_followed_and_nobody_thinks_it_dead() {
    let mut world = cluster();
    speak(&mut world, 3, b"before");
    world.run_until(STEP, 10 * SECOND, |world| is_heard(world, 3, b"before")).expect("it is heard");
    world.relocate(3, 9);
    let followed = |world: &World| {
        (0..NODES).filter(|at| *at != 3).all(|at| status(world, at, 3).unwrap().addr == addr(3, 9))
    };
    world.run_until(STEP, 5 * SECOND, followed).expect("they follow");
    speak(&mut world, 3, b"after");
    world.run_until(STEP, 5 * SECOND, |world| is_heard(world, 3, b"after")).expect("it is heard there");
    world.run_for(60 * SECOND);
    assert!(world.converged());
    for place in &world.places {
        assert_eq!(place.deaths, []);
    }
    // Who restarts knows the new address from its disk or from the others.
    world.kill(5);
    world.start(5);
    world.run_until(STEP, 30 * SECOND, World::converged).expect("they converge");
    assert_eq!(status(&world, 5, 3).unwrap().addr, addr(3, 9));
}

#[test]
fn a_node_that_moves_while_the_network_loses_and_another_is_away_is_found_by_both() {
    let mut world = cluster();
    world.loss = 0.3;
    world.places[5].island = 1;
    world.run_for(60 * SECOND);
    world.relocate(3, 9);
    world.run_for(60 * SECOND);
    world.places[5].island = 0;
    world.run_until(STEP, 120 * SECOND, World::converged).expect("they find each other");
    for at in (0..NODES).filter(|at| *at != 3) {
        assert_eq!(status(&world, at, 3).unwrap().addr, addr(3, 9), "at {at}");
    }
}

#[test]
fn who_has_come_back_is_not_said_to_know_us_before_it_does() {
    let mut world = cluster();
    world.loss = 0.3;
    speak(&mut world, 0, b"news");
    world.run_until(STEP, 30 * SECOND, |world| is_heard(world, 0, b"news")).expect("it is heard");
    for back in 1..NODES {
        world.kill(back);
        world.places[0].known.clear();
        world.start(back);
        let life = world.places[back].life;
        let is_known = |world: &World| {
            let there = status(world, 0, back).unwrap();
            let is_known = there.alive && there.life == life && there.knows_us;
            let engine = world.places[back].engine.as_ref().unwrap();
            let knows = engine.owned_value(node(0), ENDPOINTS, "news") == Some(b"news");
            assert!(knows || !is_known, "{back}");
            assert_eq!(is_known, world.places[0].known.contains(&node(back)), "it is told: {back}");
            is_known
        };
        world.run_until(SECOND / 1000, 30 * SECOND, is_known).expect("it knows in the end");
    }
}

#[test]
fn a_forgotten_node_is_not_dialled_and_nobody_brings_it_back() {
    let mut world = cluster();
    speak(&mut world, 4, b"soon gone");
    world.act(0, |engine, now| engine.set_cluster(now, NETWORKS, "n", Some(vec![1])).unwrap());
    world.run_for(10 * SECOND);
    // Another is with it, apart from those that remove it, and doesn't hear of that.
    let others = [0, 1, 2, 3];
    others.iter().for_each(|at| world.places[*at].island = 0b01);
    world.places[4].island = 0b10;
    world.places[5].island = 0b10;
    for at in others {
        world.act(at, |engine, now| engine.forget(now, node(4)));
    }
    let unknown = |world: &World, at| status(world, at, 4).is_none();
    assert!(others.iter().all(|at| unknown(&world, *at)));
    // Longer than SWIM remembers the dead; then the other reaches both, and speaks of a living one.
    world.run_for(400 * SECOND);
    world.places[5].island = 0b11;
    world.run_for(60 * SECOND);
    assert!(status(&world, 5, 4).is_some_and(|peer| peer.alive));
    assert!(status(&world, 5, 0).is_some_and(|peer| peer.alive));
    assert!(others.iter().all(|at| unknown(&world, *at)), "brought back by hearsay");
    world.kill(4);
    world.act(5, |engine, now| engine.forget(now, node(4)));
    world.astray.clear();
    world.run_for(600 * SECOND);
    assert_eq!(world.astray, std::collections::BTreeMap::new(), "it is still called");
    for (at, engine) in world.live() {
        assert!(unknown(&world, at), "at {at}");
        assert_eq!(engine.owned_value(node(4), ENDPOINTS, "news"), None);
    }
    // Nor do those that restart, from their disks.
    others.iter().for_each(|at| world.kill(*at));
    world.astray.clear();
    others.iter().for_each(|at| world.start(*at));
    world.run_for(60 * SECOND);
    assert!(others.iter().all(|at| unknown(&world, *at)));
    assert_eq!(world.astray.get(&addr(4, 0)), None);
}

/// Starts `at` again in a life that is earlier than its last one.
fn restart_in_the_past(world: &mut World, at: usize) {
    world.places[at].life -= 3;
    world.start(at);
    speak(world, at, b"of the new life");
}

fn heard_anew(world: &World) -> bool {
    world.converged() && is_heard(world, 3, b"of the new life")
}

#[test]
fn a_clock_set_back_is_made_up_for_whether_the_others_noticed_the_crash_or_not() {
    for dead_for in [SECOND / 10, 5 * SECOND, 900 * SECOND] {
        let mut world = cluster();
        world.places[3].life = 100;
        world.kill(3);
        world.start(3);
        speak(&mut world, 3, b"of the old life");
        world.run_until(STEP, 30 * SECOND, World::converged).expect("they converge");
        world.kill(3);
        world.run_for(dead_for);
        restart_in_the_past(&mut world, 3);
        let took = world.run_until(STEP, 40 * SECOND, heard_anew);
        assert!(took.is_some(), "dead for {dead_for:?}");
        println!("dead for {dead_for:?}: back after {took:?}");
        world.run_for(30 * SECOND);
        assert!(heard_anew(&world));
        assert!(status(&world, 0, 3).unwrap().life > 101);
        for (_, engine) in world.live() {
            assert_eq!(engine.records(ENDPOINTS).len(), NODES + 1, "nothing of the old life is left");
        }
    }
}

#[test]
fn who_left_and_returns_with_a_clock_set_back_is_let_in() {
    let mut world = cluster();
    world.places[3].life = 100;
    world.kill(3);
    world.start(3);
    world.run_until(STEP, 30 * SECOND, World::converged).expect("they converge");
    world.act(3, |engine, now| engine.leave(now));
    world.run_for(SECOND);
    world.kill(3);
    assert!(status(&world, 0, 3).is_some_and(|peer| peer.left));
    restart_in_the_past(&mut world, 3);
    let took = world.run_until(STEP, 40 * SECOND, heard_anew).expect("it is let in");
    println!("back after {took:?}");
}
