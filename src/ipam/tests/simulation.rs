//! Nodes that crash, are cut off and are removed, on a network that loses, delays and doubles: no address is
//! ever held by two members, and in the end none is lost. Everything follows from a seed, which each failure
//! names.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;

use super::*;

const NODES: u8 = 6;
const STEPS: u32 = 1500;
/// Schedules, if nobody says otherwise.
const SEEDS: u64 = 150;

#[derive(Clone, Debug)]
enum Body {
    Want(String, Want),
    Reply(String, Reply),
    Question(Question),
    Answer(Answer),
}

#[derive(Clone, Debug)]
struct Message {
    from: NodeId,
    to: NodeId,
    body: Body,
}

#[derive(Debug)]
struct Place {
    /// Nothing while it is down.
    pool: Option<Pool>,
    disk: Vec<u8>,
    /// Endpoints that have no address yet.
    wishes: BTreeMap<String, Acquire>,
    /// Endpoints that run.
    endpoints: BTreeSet<String>,
    island: u8,
}

impl Place {
    fn new(pool: Pool) -> Self {
        let disk = pool.save();
        Self { pool: Some(pool), disk, wishes: BTreeMap::new(), endpoints: BTreeSet::new(), island: 0 }
    }

    /// What it would begin with again.
    fn kept(&self, id: NodeId) -> Pool {
        Pool::load(id, space(27), &self.disk).unwrap()
    }

    fn crash(&mut self) {
        self.pool = None;
        self.wishes.clear();
        self.endpoints.clear();
    }
}

struct World {
    random: Rng,
    places: BTreeMap<NodeId, Place>,
    wire: Vec<Message>,
    removed: BTreeSet<NodeId>,
    /// In a hundred messages.
    lost: u8,
    /// In a hundred changes, how often a node crashes before it has saved.
    crashes: u8,
    count: u32,
    reclaimed: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let pool = |number| match number {
            3 => Pool::found(node(number), space(27)),
            _ => Pool::join(node(number), space(27)),
        };
        Self {
            random: Rng::with_seed(seed),
            places: (1..=NODES).map(|number| (node(number), Place::new(pool(number)))).collect(),
            wire: Vec::new(),
            removed: BTreeSet::new(),
            lost: 20,
            crashes: 2,
            count: 0,
            reclaimed: 0,
        }
    }

    fn any_node(&mut self) -> NodeId {
        node(self.random.u8(1..=NODES))
    }

    fn percent(&mut self, share: u8) -> bool {
        self.random.u8(..100) < share
    }

    /// Changes a node's pool, saves it, and only then sends and shows what came of it; or crashes before it was
    /// saved.
    fn change<T>(&mut self, id: NodeId, act: impl FnOnce(&mut Place) -> T) -> Option<T> {
        let crash = self.percent(self.crashes);
        let place = self.places.get_mut(&id).unwrap();
        place.pool.as_ref()?;
        let outcome = act(place);
        if crash {
            place.crash();
            return None;
        }
        place.disk = place.pool.as_ref().unwrap().save();
        Some(outcome)
    }

    fn send(&mut self, from: NodeId, to: NodeId, body: Body) {
        self.wire.push(Message { from, to, body });
    }

    /// Takes one of an endpoint's steps towards an address.
    fn pursue(&mut self, at: NodeId, holder: &str) {
        let others = self.places.iter().map(|(&id, place)| {
            let share = place.pool.as_ref().map(Pool::share).unwrap_or_default();
            (id, Other { share, alive: place.island == self.places[&at].island && place.pool.is_some() })
        });
        let others: BTreeMap<NodeId, Other> = others.collect();
        let step = self.change(at, |place| {
            let step = place.wishes.get_mut(holder)?.step(place.pool.as_mut()?, &others);
            Some(step)
        });
        match step.flatten() {
            Some(Step::Ask(donor, want)) => self.send(at, donor, Body::Want(holder.into(), want)),
            Some(Step::Leased(_)) => {
                let place = self.places.get_mut(&at).unwrap();
                place.wishes.remove(holder);
                place.endpoints.insert(holder.into());
            }
            Some(Step::Refused(_)) => drop(self.places.get_mut(&at).unwrap().wishes.remove(holder)),
            None => {}
        }
    }

    fn attach(&mut self, at: NodeId) {
        self.count += 1;
        let holder = format!("endpoint {}", self.count);
        let any = self.random.bool();
        let number = self.random.u8(..34);
        let wanted = (!any).then(|| format!("10.0.9.{number}").parse().unwrap());
        let place = self.places.get_mut(&at).unwrap();
        if place.pool.is_some() {
            place.wishes.insert(holder.clone(), Acquire::new(holder.clone(), wanted));
            self.pursue(at, &holder);
        }
    }

    fn detach(&mut self, at: NodeId) {
        let Some(holder) = self.places[&at].endpoints.first().cloned() else { return };
        self.change(at, |place| {
            place.endpoints.remove(&holder);
            place.pool.as_mut().unwrap().release(&holder)
        });
    }

    fn restart(&mut self, at: NodeId) {
        let place = &self.places[&at];
        if place.pool.is_none() {
            let mut pool = place.kept(at);
            let lost = pool.retain(|_| self.random.bool());
            let place = self.places.get_mut(&at).unwrap();
            place.endpoints = pool.leases().map(|(holder, _)| holder.into()).collect();
            assert!(lost.iter().all(|(holder, _)| !place.endpoints.contains(holder)));
            (place.disk, place.pool) = (pool.save(), Some(pool));
        }
    }

    /// A node hears of removals, or begins to look for what was held.
    fn look_around(&mut self, at: NodeId) {
        let some: BTreeSet<NodeId> = self.removed.iter().copied().filter(|_| self.random.bool()).collect();
        let members: BTreeSet<NodeId> = self.places.keys().copied().collect();
        let chance = self.random.u64(..);
        let questions = self.change(at, |place| {
            let pool = place.pool.as_mut().unwrap();
            pool.note_gone(&some);
            pool.begin_survey(&members, chance);
            pool.questions()
        });
        for (to, question) in questions.unwrap_or_default() {
            self.send(at, to, Body::Question(question));
        }
    }

    fn deliver(&mut self) {
        if self.wire.is_empty() {
            return;
        }
        let at = self.random.usize(..self.wire.len());
        let message =
            if self.percent(self.lost / 2) { self.wire[at].clone() } else { self.wire.swap_remove(at) };
        if self.percent(self.lost) || self.places[&message.from].island != self.places[&message.to].island {
            return;
        }
        let Message { from, to, body } = message;
        match body {
            Body::Want(holder, want) => {
                if let Some(reply) =
                    self.change(to, |place| place.pool.as_mut().unwrap().handle_want(from, &want))
                {
                    self.send(to, from, Body::Reply(holder, reply));
                }
            }
            Body::Reply(holder, reply) => {
                self.change(to, |place| {
                    // Also what comes too late for the endpoint that asked.
                    let mut late = Acquire::new("late", None);
                    let acquire = place.wishes.get_mut(&holder).unwrap_or(&mut late);
                    acquire.handle_reply(place.pool.as_mut().unwrap(), from, &reply);
                });
                self.pursue(to, &holder);
            }
            Body::Question(question) => {
                let answer =
                    self.change(to, |place| place.pool.as_mut().unwrap().handle_question(from, &question));
                if let Some(answer) = answer {
                    self.send(to, from, Body::Answer(answer));
                }
            }
            Body::Answer(answer) => {
                let found = self.change(to, |place| {
                    let pool = place.pool.as_mut().unwrap();
                    let before = pool.questions();
                    let found = pool.handle_answer(from, &answer);
                    // Who was asked already is not asked again for each answer of another.
                    let new = pool.questions().into_iter().filter(|question| !before.contains(question));
                    (found, new.collect::<Vec<_>>())
                });
                let Some((found, questions)) = found else { return };
                self.reclaimed += u32::from(found);
                for (asked, question) in questions {
                    self.send(to, asked, Body::Question(question));
                }
            }
        }
    }

    fn step(&mut self) {
        let at = self.any_node();
        match self.random.u8(..100) {
            0..20 => self.attach(at),
            20..32 => self.detach(at),
            32..80 => self.deliver(),
            80..86 => self.look_around(at),
            86..94 => self.restart(at),
            94..96 => self.places.get_mut(&at).unwrap().crash(),
            96 => self.places.get_mut(&at).unwrap().island = self.random.u8(..2),
            97 => self.places.values_mut().for_each(|place| place.island = 0),
            98 => {
                if let Some(holder) = self.places[&at].wishes.keys().next().cloned() {
                    self.give_up(at, &holder);
                }
            }
            _ if self.removed.len() < 3 && self.percent(20) => self.removed.extend([at]),
            _ => {}
        }
    }

    /// No answer comes.
    fn give_up(&mut self, at: NodeId, holder: &str) {
        let other = self.any_node();
        if let Some(acquire) = self.places.get_mut(&at).unwrap().wishes.get_mut(holder) {
            acquire.handle_silence(other);
        }
        self.pursue(at, holder);
    }

    /// Whether members hold nothing twice, now and if all begin again from disk; and that what runs has its lease.
    fn check(&self, seed: u64) {
        let mut all = [RangeSet::default(), RangeSet::default()];
        for (&id, place) in self.places.iter().filter(|(id, _)| !self.removed.contains(id)) {
            let kept = place.kept(id);
            for (all, pool) in all.iter_mut().zip([place.pool.as_ref().unwrap_or(&kept), &kept]) {
                for run in pool.held().iter() {
                    assert!(!all.touches(run), "seed {seed}: {id} holds what another holds: {run:?}");
                    all.insert(run);
                }
                let leases: BTreeSet<&str> = pool.leases().map(|(holder, _)| holder).collect();
                assert!(place.endpoints.iter().all(|holder| leases.contains(holder.as_str())), "seed {seed}");
                assert!(!pool.is_set_back(), "seed {seed}: {id} thinks that it was set back");
            }
        }
    }

    /// All are back and hear of all removals, and nothing is lost any more.
    fn heal(&mut self) {
        (self.lost, self.crashes) = (0, 0);
        let ids: Vec<NodeId> = self.places.keys().copied().collect();
        for &id in &ids {
            self.places.get_mut(&id).unwrap().island = 0;
            self.restart(id);
            let removed = self.removed.clone();
            self.change(id, |place| place.pool.as_mut().unwrap().note_gone(&removed));
        }
        let mut rounds = 0;
        while !self.wire.is_empty() || rounds < 20 {
            if self.wire.is_empty() {
                rounds += 1;
                let first = ids.iter().find(|id| !self.removed.contains(id)).unwrap();
                self.places.get_mut(first).unwrap().pool.as_mut().unwrap().end_survey();
                self.look_around(*first);
            }
            self.deliver();
        }
    }

    /// Uses every address there is.
    fn fill(&mut self, seed: u64) {
        let members: Vec<NodeId> =
            self.places.keys().copied().filter(|id| !self.removed.contains(id)).collect();
        let mut refused = 0;
        while refused < members.len() {
            refused = 0;
            for &at in &members {
                self.count += 1;
                let holder = format!("endpoint {}", self.count);
                let place = self.places.get_mut(&at).unwrap();
                place.wishes.insert(holder.clone(), Acquire::new(holder.clone(), None));
                self.pursue(at, &holder);
                while !self.wire.is_empty() {
                    self.deliver();
                }
                refused += usize::from(!self.places[&at].endpoints.contains(&holder));
            }
        }
        let used: usize = members.iter().map(|id| self.places[id].endpoints.len()).sum();
        assert_eq!(used as u128, space(27).capacity(), "seed {seed}: addresses were lost");
    }
}

/// What schedules have come to.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    reclaimed: u64,
    attached: u64,
}

fn run(seed: u64) -> Tally {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
        world.check(seed);
    }
    world.heal();
    world.check(seed);
    world.fill(seed);
    world.check(seed);
    let attached = world.places.values().map(|place| place.endpoints.len() as u64).sum();
    Tally { reclaimed: world.reclaimed.into(), attached }
}

/// How many schedules: `VSWITCHD_TEST_SEEDS`, or as many as take a debug build some ten seconds on two cores. Before a
/// release it is 400.
fn seeds() -> u64 {
    std::env::var("VSWITCHD_TEST_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("a number of schedules"))
}

#[test]
fn no_address_is_held_twice_and_none_is_lost() {
    let seeds = seeds();
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let every = |first: u64| (first..seeds).step_by(usize::try_from(threads).unwrap()).map(run).collect();
        let threads: Vec<_> =
            (0..threads).map(|first| scope.spawn(move || -> Vec<Tally> { every(first) })).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let reclaimed: u64 = tallies.iter().map(|tally| tally.reclaimed).sum();
    let attached: u64 = tallies.iter().map(|tally| tally.attached).sum();
    // The schedules do what they are for.
    let enough = reclaimed * 100 > 30 * seeds && attached > 5 * seeds;
    assert!(enough, "{seeds} schedules: {reclaimed} reclaimed, {attached} attached in the end");
}
