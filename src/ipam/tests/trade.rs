//! Pools that ask each other directly, each saved and loaded again after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::*;

/// A cluster in which everybody answers at once.
struct Cluster {
    pools: BTreeMap<NodeId, Pool>,
    dead: BTreeSet<NodeId>,
}

impl Cluster {
    fn new(nodes: u8, space: &Space) -> Self {
        let pool = |number| match number {
            1 => Pool::found(node(1), space.clone()),
            _ => Pool::join(node(number), space.clone()),
        };
        Self {
            pools: (1..=nodes).map(|number| (node(number), pool(number))).collect(),
            dead: BTreeSet::new(),
        }
    }

    fn attach(&mut self, at: NodeId, holder: &str, wanted: Option<&str>) -> Result<IpAddr, Refusal> {
        let wanted = wanted.map(|address| address.parse().unwrap());
        let mut acquire = Acquire::new(holder, wanted);
        let others = self
            .pools
            .iter()
            .map(|(&node, pool)| (node, Other { share: pool.share(), alive: !self.dead.contains(&node) }));
        let others: BTreeMap<NodeId, Other> = others.collect();
        loop {
            let pool = self.pools.get_mut(&at).unwrap();
            match acquire.step(pool, &others) {
                Step::Leased(address) => return Ok(address),
                Step::Refused(refusal) => return Err(refusal),
                Step::Ask(donor, want) => {
                    let reply = self.pools.get_mut(&donor).unwrap().handle_want(at, &want);
                    acquire.handle_reply(self.pools.get_mut(&at).unwrap(), donor, &reply);
                }
            }
        }
    }

    fn release(&mut self, at: NodeId, holder: &str) {
        self.pools.get_mut(&at).unwrap().release(holder).unwrap();
    }

    fn restart(&mut self, at: NodeId) {
        let pool = self.pools.get_mut(&at).unwrap();
        *pool = Pool::load(at, pool.space().clone(), &pool.save()).unwrap();
    }

    /// Removes a node; the others look for what it held until nobody has a question.
    fn remove(&mut self, gone: NodeId) -> bool {
        self.pools.remove(&gone);
        for pool in self.pools.values_mut() {
            pool.note_gone(&BTreeSet::from([gone]));
        }
        let members: BTreeSet<NodeId> = self.pools.keys().copied().collect();
        let first = *members.first().unwrap();
        self.pools.get_mut(&first).unwrap().begin_survey(&members, 7);
        while let Some((asked, question)) = self.pools[&first].questions().pop() {
            if self.dead.contains(&asked) {
                return false;
            }
            let answer = self.pools.get_mut(&asked).unwrap().handle_question(first, &question);
            self.pools.get_mut(&first).unwrap().handle_answer(asked, &answer);
        }
        true
    }
}

#[test]
fn ten_thousand_endpoints_in_a_16_over_ten_nodes() {
    let space = Space::new("10.7.0.0".parse().unwrap(), 16, None, [("10.7.0.1".parse().unwrap(), "gateway")]);
    let mut cluster = Cluster::new(10, &space.unwrap());
    let mut seen = BTreeSet::new();
    for number in 0..10_000_usize {
        let at = node(u8::try_from(number % 10).unwrap() + 1);
        let address = cluster.attach(at, &format!("endpoint {number}"), None).unwrap();
        assert!(seen.insert(address), "{address} twice");
    }
    let runs: usize = cluster.pools.values().map(|pool| pool.held().runs()).sum();
    assert!(runs <= 40, "{runs} runs: gifts are no longer halves");
    let used: u128 = cluster.pools.values().map(|pool| pool.share().used).sum();
    assert_eq!(used, 10_000);
}

#[test]
fn a_24_is_used_to_the_last_address_and_says_so() {
    let mut cluster = Cluster::new(5, &space(24));
    for number in 0..253_u32 {
        let at = node(u8::try_from(number % 5).unwrap() + 1);
        cluster.attach(at, &format!("endpoint {number}"), None).unwrap();
        cluster.restart(at);
    }
    for number in 1..=5 {
        let refusal = cluster.attach(node(number), "one too many", None).unwrap_err();
        assert_eq!(refusal.to_string(), "10.0.9.0/24: 253 of 253 used");
    }
    let (first, last) = (node(252 % 5 + 1), "endpoint 252");
    cluster.release(first, last);
    let again = cluster.attach(node(1), "again", None).unwrap();
    assert!(cluster.attach(node(2), "one too many", None).is_err());
    cluster.release(node(1), "again");
    assert_eq!(cluster.attach(node(4), "elsewhere", None), Ok(again));
}

#[test]
fn what_is_kept_is_nobodys_until_it_is_kept_no_more() {
    let mut cluster = Cluster::new(2, &space(29));
    let web = cluster.attach(node(1), "web", None).unwrap();
    let (virtual_one, elsewhere) = ("10.0.9.3".parse().unwrap(), "10.0.8.3".parse().unwrap());
    let keep = |cluster: &mut Cluster, kept: &[IpAddr]| {
        cluster
            .pools
            .values_mut()
            .for_each(|pool| pool.keep(kept.iter().map(|&address| (address, "service s"))));
    };
    keep(&mut cluster, &[web, virtual_one, elsewhere]);
    for number in [1, 2] {
        let refused = cluster.attach(node(number), "db", Some("10.0.9.3")).unwrap_err();
        assert_eq!(refused.to_string(), "10.0.9.3 is reserved: service s");
    }
    // Of .2 to .6 three are left.
    let rest: BTreeSet<IpAddr> =
        (0..3).map(|number| cluster.attach(node(2), &number.to_string(), None).unwrap()).collect();
    assert!(!rest.contains(&virtual_one) && !rest.contains(&web), "{rest:?}");
    assert_eq!(
        cluster.attach(node(1), "db", None).unwrap_err().to_string(),
        "10.0.9.0/29: 3 of 3 used, besides the gateway's and 2 virtual addresses"
    );
    cluster.release(node(1), "web");
    assert!(cluster.attach(node(1), "db", None).is_err(), "released, but kept");
    keep(&mut cluster, &[virtual_one]);
    assert_eq!(cluster.attach(node(2), "db", None), Ok(web));
}

#[test]
fn a_requested_address_comes_from_wherever_it_is() {
    let mut cluster = Cluster::new(3, &space(24));
    let fifty = "10.0.9.50".parse().unwrap();
    assert_eq!(cluster.attach(node(2), "web", Some("10.0.9.50")), Ok(fifty));
    assert_eq!(cluster.attach(node(2), "web", None), Ok(fifty));
    let taken = Refusal::Taken { address: fifty, holder: "web".into(), node: node(2) };
    assert_eq!(cluster.attach(node(3), "db", Some("10.0.9.50")), Err(taken.clone()));
    assert_eq!(cluster.attach(node(2), "db", Some("10.0.9.50")), Err(taken));
    let refused = [
        ("10.0.9.1", "10.0.9.1 is reserved: gateway"),
        ("10.0.9.255", "10.0.9.255 is no address for an endpoint of 10.0.9.0/24"),
        ("fd00::5", "fd00::5 is no address for an endpoint of 10.0.9.0/24"),
    ];
    for (address, expected) in refused {
        assert_eq!(cluster.attach(node(3), "db", Some(address)).unwrap_err().to_string(), expected);
    }
    let other = cluster.attach(node(2), "web", Some("10.0.9.51")).unwrap_err();
    assert_eq!(other.to_string(), "web has 10.0.9.50 already");
    cluster.release(node(2), "web");
    assert_eq!(cluster.attach(node(3), "db", Some("10.0.9.50")), Ok(fifty));
}

#[test]
fn a_freed_address_rests() {
    let mut cluster = Cluster::new(1, &space(28));
    let first = cluster.attach(node(1), "web", None).unwrap();
    for number in 0..12 {
        cluster.release(node(1), "web");
        cluster.restart(node(1));
        let next = cluster.attach(node(1), "web", None).unwrap();
        assert_ne!(next, first, "after {number} others");
    }
    cluster.release(node(1), "web");
    assert_eq!(cluster.attach(node(1), "web", None), Ok(first));
}

#[test]
fn the_dead_are_not_waited_for_and_keep_what_they_have() {
    let mut cluster = Cluster::new(3, &space(29));
    cluster.attach(node(2), "web", None).unwrap();
    cluster.dead.insert(node(1));
    for number in 0..2 {
        cluster.attach(node(3), &format!("endpoint {number}"), None).unwrap();
    }
    let refusal = cluster.attach(node(3), "db", None).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "10.0.9.0/29: no free address within reach, 3 of 5 used; 2 free on 1 nodes out of reach"
    );
    let requested = cluster.attach(node(3), "db", Some("10.0.9.2")).unwrap_err();
    assert_eq!(requested.to_string(), "10.0.9.2 belongs to none of the nodes within reach (1 are not)");
    cluster.dead.clear();
    cluster.restart(node(1));
    cluster.attach(node(3), "db", None).unwrap();
}

#[test]
fn what_a_removed_node_held_is_found_once_everybody_has_answered() {
    let mut cluster = Cluster::new(4, &space(28));
    for number in 2..=4 {
        cluster.attach(node(number), "web", None).unwrap();
    }
    let sum = |cluster: &Cluster| cluster.pools.values().map(|pool| pool.held().count()).sum::<u128>();
    let kept = sum(&cluster) - cluster.pools[&node(1)].held().count();
    assert!(kept < 14);
    cluster.dead.insert(node(3));
    assert!(!cluster.remove(node(1)), "one who may hold something has not answered");
    assert_eq!(sum(&cluster), kept);
    cluster.pools.get_mut(&node(2)).unwrap().end_survey();
    cluster.dead.clear();
    assert!(cluster.remove(node(1)));
    assert_eq!(sum(&cluster), 14);
    assert!(cluster.pools.values().all(|pool| pool.questions().is_empty()));
}

#[test]
fn removals_that_are_long_over_do_not_keep_others_from_being_settled() {
    let mut cluster = Cluster::new(4, &space(28));
    for number in 2..=4 {
        cluster.attach(node(number), "web", None).unwrap();
    }
    assert!(cluster.remove(node(3)));
    // Of a node that came later, and never heard of that removal.
    cluster.pools.insert(node(5), Pool::join(node(5), space(28)));
    let removed = BTreeSet::from([node(1)]);
    cluster.pools.remove(&node(1));
    let mut all: Vec<&mut Pool> = cluster.pools.values_mut().collect();
    for pool in &mut all {
        assert!(pool.follow_removals(&removed));
        assert!(!pool.follow_removals(&removed));
    }
    assert!(cluster.remove(node(1)));
    assert_eq!(cluster.pools.values().map(|pool| pool.held().count()).sum::<u128>(), 14);
}

#[test]
fn a_disk_that_was_set_back_is_noticed() {
    let mut cluster = Cluster::new(2, &space(28));
    let old = cluster.pools[&node(2)].save();
    for number in 0..8 {
        cluster.attach(node(2), &format!("endpoint {number}"), None).unwrap();
    }
    // The one that was given addresses.
    cluster.pools.insert(node(2), Pool::load(node(2), space(28), &old).unwrap());
    cluster.attach(node(2), "again", None).unwrap_err();
    assert!(cluster.pools[&node(2)].is_set_back() && !cluster.pools[&node(1)].is_set_back());
    assert_eq!(cluster.attach(node(2), "again", None), Err(Refusal::SetBack));
    // The one that gave them.
    let mut giver = Pool::found(node(1), space(28));
    let want = Want { need: Need::Any, taken: 3 };
    assert_eq!(giver.handle_want(node(2), &want).gift, Err(Unwilling::Unfit));
    assert!(giver.is_set_back());
    assert_eq!(giver.lease("web", None), Outcome::Refused(Refusal::SetBack));
    assert!(Pool::load(node(1), space(28), &giver.save()).unwrap().is_set_back());
}
