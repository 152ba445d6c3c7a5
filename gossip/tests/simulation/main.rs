//! Clusters of 3, 50 and 300 nodes through joining, loss, partition and crashes, in virtual time.
//!
//! `VSWITCHD_TEST_SEED=…` repeats a run; each prints its seed. The large ones are ignored by default:
//! `cargo test --release -p vswitchd-gossip --test simulation -- --ignored --nocapture`.

#![expect(clippy::unwrap_used, reason = "what can't fail in the simulation is a failed test")]
#![expect(clippy::cast_possible_truncation, reason = "simulated sizes and times are small")]

mod lives;
mod paths;
mod room;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use vswitchd_gossip::CONTENT_LIMIT;
use world::{ENDPOINTS, NETWORKS, World, node};

const SECOND: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(50);

fn seed() -> u64 {
    let seed = match std::env::var("VSWITCHD_TEST_SEED") {
        Ok(text) => text.parse().expect("VSWITCHD_TEST_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("VSWITCHD_TEST_SEED={seed}");
    seed
}

/// How long each phase is, and how large the cluster.
struct Plan {
    nodes: usize,
    lossy: Duration,
    apart: Duration,
}

struct Trial {
    world: World,
    plan: Plan,
    /// Cluster records that a live node acknowledged.
    acknowledged: BTreeMap<String, Vec<u8>>,
    written: u64,
}

impl Trial {
    fn new(plan: Plan, seed: u64) -> Self {
        let world = World::new(plan.nodes, seed);
        Self { world, plan, acknowledged: BTreeMap::new(), written: 0 }
    }

    /// Writes a cluster record and an owned one at a node.
    fn write(&mut self, at: usize) {
        self.written += 1;
        let (key, value) = (format!("net{}", self.written), self.written.to_be_bytes().to_vec());
        let stored = value.clone();
        self.world.act(at, |engine, now| engine.set_cluster(now, NETWORKS, &key, Some(stored)).unwrap());
        self.world.act(at, |engine, _| engine.set_owned(ENDPOINTS, "last", Some(value.clone())).unwrap());
        self.acknowledged.insert(key, value);
    }

    fn converge(&mut self, phase: &str, at_most: Duration) -> Duration {
        let Some(took) = self.world.run_until(STEP, at_most, World::converged) else {
            let views = self.world.live().map(|(at, engine)| {
                (at, engine.peers().iter().filter(|peer| peer.alive).count(), engine.digest() % 1000)
            });
            let views: Vec<_> = views.collect();
            panic!("{phase}: not converged in {at_most:?}: (node, live peers, digest) {views:?}");
        };
        took
    }

    /// Prints a line of the table. `bound`: most bytes that any node may have sent a second; short phases are bursts.
    fn row(&mut self, phase: &str, converged: Duration, bound: usize) {
        let (mean, busiest) = self.world.traffic();
        let nodes = self.plan.nodes;
        let row = format!("| {nodes} | {phase} | {:.2} | {mean} | {busiest} |", converged.as_secs_f64());
        println!("{row}");
        assert!(busiest < bound as u64, "{phase}: a node sends {busiest} bytes a second");
        assert!(self.world.largest <= CONTENT_LIMIT, "a datagram of {} bytes", self.world.largest);
    }

    /// When everybody has something to tell everybody, within a second or two; some of it is repeated at any size.
    fn burst(&self) -> usize {
        15_000 + 5_000 * self.plan.nodes
    }

    /// Nothing that a live node acknowledged is missing anywhere, and every live node's own records are known.
    fn check_records(&self) {
        for (at, engine) in self.world.live() {
            for (key, value) in &self.acknowledged {
                assert_eq!(engine.cluster_value(NETWORKS, key), Some(&value[..]), "{key} at {at}");
            }
            for (owner, other) in self.world.live() {
                for key in ["node", "last"] {
                    let own = other.owned_value(node(owner), ENDPOINTS, key);
                    assert_eq!(
                        engine.owned_value(node(owner), ENDPOINTS, key),
                        own,
                        "{key} of {owner} at {at}"
                    );
                }
            }
        }
    }

    /// Within a minute each has asked all others, none of whom is further away than two of the longest ways.
    fn check_paths(&self) {
        for (at, engine) in self.world.live() {
            for peer in engine.peers() {
                let rtt = peer.rtt.unwrap_or_else(|| panic!("{at} has no figure of {}", peer.node));
                assert!((400..1600).contains(&rtt.as_micros()), "{at} to {}: {rtt:?}", peer.node);
                assert_eq!(peer.loss.lost, 0, "{at} to {}", peer.node);
            }
        }
    }

    fn forget_deaths(&mut self) {
        self.world.places.iter_mut().for_each(|place| place.deaths.clear());
    }

    fn join(&mut self) {
        (0..self.plan.nodes).for_each(|at| self.world.start(at));
        let took = self.converge("join", 60 * SECOND);
        self.row("join", took, self.burst());
        (0..5).for_each(|n| self.write(n % self.plan.nodes));
        let took = self.converge("change", 20 * SECOND);
        self.row("change", took, self.burst());
        self.world.run_for(60 * SECOND);
        self.row("idle, 1 min", Duration::ZERO, 10_000);
        self.check_paths();
        self.check_records();
    }

    fn lose(&mut self) {
        self.forget_deaths();
        self.world.loss = 0.3;
        let end = self.world.elapsed() + self.plan.lossy;
        while self.world.elapsed() < end {
            let at = self.world.random().usize(..self.plan.nodes);
            self.write(at);
            self.world.run_for(10 * SECOND);
        }
        let took = self.converge("30 % loss", 60 * SECOND);
        for (at, place) in self.world.places.iter().enumerate() {
            assert_eq!(place.deaths, [], "false deaths seen by {at}");
        }
        self.row(&format!("30 % loss, {} min", self.plan.lossy.as_secs() / 60), took, 60_000);
        self.world.loss = 0.0;
        self.check_records();
    }

    fn part(&mut self) {
        for (at, place) in self.world.places.iter_mut().enumerate() {
            place.island = (at % 2) as u8;
        }
        let end = self.world.elapsed() + self.plan.apart;
        while self.world.elapsed() < end {
            let at = self.world.random().usize(..self.plan.nodes);
            self.write(at);
            self.world.run_for(self.plan.apart / 10);
        }
        self.row(&format!("apart, {} min", self.plan.apart.as_secs() / 60), Duration::ZERO, 60_000);
        self.world.places.iter_mut().for_each(|place| place.island = 0);
        let took = self.converge("merge", 120 * SECOND);
        self.row("merge", took, self.burst());
        self.check_records();
    }

    /// A third of the nodes dies at once, thrice; then all of them restart.
    fn crash(&mut self) {
        for wave in 0..3 {
            self.forget_deaths();
            let dead: Vec<usize> = (0..self.plan.nodes).filter(|at| at % 3 == wave).collect();
            dead.iter().for_each(|at| self.world.kill(*at));
            let survivor = (wave + 1) % 3;
            self.write(survivor);
            let noticed = self.converge("crash", 60 * SECOND);
            self.row(&format!("crash wave {}", wave + 1), noticed, self.burst());
            dead.iter().for_each(|at| self.world.start(*at));
            let back = self.converge("restart", 60 * SECOND);
            self.row(&format!("restart wave {}", wave + 1), back, self.burst());
            self.check_records();
        }
    }

    fn run(mut self) {
        println!(
            "| nodes | phase | converged after, s | bytes/s and node | busiest node |\n|---|---|---|---|---|"
        );
        self.join();
        self.lose();
        self.part();
        self.crash();
    }
}

#[test]
fn three_nodes() {
    Trial::new(Plan { nodes: 3, lossy: 600 * SECOND, apart: 3600 * SECOND }, seed()).run();
}

#[test]
fn fifty_nodes() {
    Trial::new(Plan { nodes: 50, lossy: 60 * SECOND, apart: 120 * SECOND }, seed()).run();
}

#[test]
#[ignore = "minutes of work; see the file's head"]
fn fifty_nodes_for_long() {
    Trial::new(Plan { nodes: 50, lossy: 600 * SECOND, apart: 3600 * SECOND }, seed()).run();
}

#[test]
#[ignore = "minutes of work; see the file's head"]
fn three_hundred_nodes() {
    Trial::new(Plan { nodes: 300, lossy: 600 * SECOND, apart: 3600 * SECOND }, seed()).run();
}
