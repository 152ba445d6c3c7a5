//! More cluster records than fit: written on both sides of a partition, then merged.

use vswitchd_gossip::cluster::BYTES_LIMIT;
use vswitchd_gossip::{SetError, VALUE_LIMIT};

use crate::world::{NETWORKS, World};
use crate::{SECOND, STEP, seed};

/// Each side alone stays within the limit, both together don't.
const EACH: usize = BYTES_LIMIT * 2 / 3 / VALUE_LIMIT;

fn key(at: usize, n: usize) -> String {
    format!("{at}-{n}")
}

fn refused(world: &World) -> Vec<u64> {
    world.live().map(|(_, engine)| engine.refused()).collect()
}

#[test]
fn what_has_no_room_is_refused_at_little_cost_and_fits_when_there_is_room() {
    let mut world = World::new(2, seed());
    (0..2).for_each(|at| world.start(at));
    world.run_until(STEP, 60 * SECOND, World::converged).expect("they join");
    world.places[1].island = 1;
    world.run_for(10 * SECOND);
    for (at, n) in (0..2).flat_map(|at| (0..EACH).map(move |n| (at, n))) {
        let value = Some(vec![1; VALUE_LIMIT - 100]);
        world.act(at, |engine, now| engine.set_cluster(now, NETWORKS, &key(at, n), value)).unwrap();
    }
    world.places[1].island = 0;
    world.run_for(60 * SECOND);
    let (full, before) = (refused(&world), world.elapsed());
    assert!(full.iter().all(|refused| *refused > 0), "{full:?}");
    let value = Some(vec![1; VALUE_LIMIT - 100]);
    let one_more = world.act(0, |engine, now| engine.set_cluster(now, NETWORKS, "more", value));
    assert_eq!(one_more, Err(SetError::Full));
    // It costs little to go on with less than the other has.
    world.traffic();
    world.run_for(3600 * SECOND);
    let (_, busiest) = world.traffic();
    println!(
        "both full, from {before:?} on: {busiest} bytes/s, refused {full:?}, then {:?}",
        refused(&world)
    );
    assert!(busiest < 20_000, "{busiest} bytes/s");
    // Small news still come through, and what is on disk can be read.
    world.act(0, |engine, now| engine.set_cluster(now, NETWORKS, "small", Some(vec![1]))).unwrap();
    let has_small =
        |world: &World| world.live().all(|(_, engine)| engine.cluster_value(NETWORKS, "small").is_some());
    world.run_until(STEP, 10 * SECOND, has_small).expect("it fits");
    (0..2).for_each(|at| world.kill(at));
    (0..2).for_each(|at| world.start(at));
    assert!(has_small(&world));
    for (at, engine) in world.live() {
        assert!((0..EACH).all(|n| engine.cluster_value(NETWORKS, &key(at, n)).is_some()), "of {at}");
    }
    // Room is made on one side: everybody has it, and the same.
    for n in 0..EACH * 3 / 4 {
        world.act(0, |engine, now| engine.set_cluster(now, NETWORKS, &key(0, n), None)).unwrap();
    }
    world.run_until(STEP, 1000 * SECOND, World::converged).expect("all is there");
    for (_, engine) in world.live() {
        assert!((0..EACH).all(|n| engine.cluster_value(NETWORKS, &key(1, n)).is_some()));
    }
}
