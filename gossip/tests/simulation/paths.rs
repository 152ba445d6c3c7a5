//! What nodes measure of the ways between them, against what the network does.

use std::time::Duration;

use crate::world::World;
use crate::{SECOND, STEP, seed};

const NODES: usize = 5;

fn cluster(latency: std::ops::Range<u64>) -> World {
    let mut world = World::new(NODES, seed());
    world.latency = latency;
    (0..NODES).for_each(|at| world.start(at));
    world.run_until(STEP, 60 * SECOND, World::converged).expect("they join");
    world
}

/// Lost and asked, of all ways together.
fn losses(world: &World) -> (u32, u32) {
    let peers = world.live().flat_map(|(_, engine)| engine.peers());
    peers.fold((0, 0), |(lost, asked), peer| (lost + peer.loss.lost, asked + peer.loss.asked))
}

#[test]
fn the_round_trip_is_that_of_the_network() {
    let mut world = cluster(20_000..20_001);
    world.run_for(60 * SECOND);
    for (at, engine) in world.live() {
        for peer in engine.peers() {
            assert_eq!(peer.rtt, Some(Duration::from_millis(40)), "{at} to {}", peer.node);
        }
    }
    // Slower by half: the figure follows within a few dozen samples.
    world.latency = 30_000..30_001;
    world.run_for(240 * SECOND);
    for peer in world.live().flat_map(|(_, engine)| engine.peers()) {
        let rtt = peer.rtt.unwrap();
        assert!(rtt > Duration::from_millis(59) && rtt <= Duration::from_millis(60), "{rtt:?}");
    }
}

#[test]
fn the_loss_is_that_of_the_network_there_and_back() {
    let mut world = cluster(200..800);
    world.run_for(60 * SECOND);
    let (lost, asked) = losses(&world);
    assert!(lost == 0 && asked > 100, "{lost} of {asked}");
    world.loss = 0.3;
    world.run_for(180 * SECOND);
    let (lost, asked) = losses(&world);
    assert_eq!(asked, 20 * 32, "the windows are full");
    // 640 trials at 1 - 0.7²: six standard deviations each way.
    assert!((250..403).contains(&lost), "{lost} of {asked}");
    world.loss = 0.0;
    world.run_for(180 * SECOND);
    assert_eq!(losses(&world).0, 0, "the windows forget");
}
