//! Sets of ranges against sets of numbers, a pool against a list, and bytes that are no pool.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn range_sets_are_sets(steps in vec((any::<bool>(), 0_u128..64, 0_u128..8), 0..40)) {
        let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
        for (insert, first, more) in steps {
            let range = Range::new(first, first + more).unwrap();
            for number in range.first()..=range.last() {
                if insert { model.insert(number); } else { model.remove(&number); }
            }
            if insert { set.insert(range) } else { set.remove(range) }
            let listed: Vec<u128> = set.iter().flat_map(|run| run.first()..=run.last()).collect();
            prop_assert_eq!(&listed, &model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.count(), model.len() as u128);
            prop_assert!((0..72).all(|number| set.contains(number) == model.contains(&number)));
            let part = Range::new(first, first + 20).unwrap();
            prop_assert_eq!(set.count_within(part), model.range(first..=first + 20).count() as u128);
            // The fewest runs there can be: what is written is what is read.
            prop_assert_eq!(RangeSet::try_from(Vec::from(set.clone())), Ok(set.clone()));
        }
    }

    #[test]
    fn a_pool_is_a_list_of_leases(steps in vec((0_u8..6, 0_usize..12, 0_u32..18), 0..80)) {
        let space = Space::new(ip(0), 28, Some((ip(4), 30)), [(ip(1), "gateway"), (ip(6), "router")]).unwrap();
        let mut pool = Pool::found(node(1), space.clone());
        let mut model = Model::default();
        for (what, name, number) in steps {
            let holder = format!("endpoint {name}");
            match what {
                0 | 1 => prop_assert_eq!(pool.lease(&holder, None), model.lease(&holder)),
                2 => {
                    let outcome = pool.lease(&holder, Some(ip(number)));
                    prop_assert_eq!(matches!(outcome, Outcome::Leased(_)), model.request(&holder, number));
                }
                3 => prop_assert_eq!(pool.release(&holder), model.leases.remove(&holder).map(ip)),
                4 => {
                    let lost = pool.retain(|there| there < holder.as_str());
                    let gone = model.leases.split_off(&holder);
                    prop_assert_eq!(lost, gone.into_iter().map(|(holder, n)| (holder, ip(n))).collect::<Vec<_>>());
                }
                _ => pool = Pool::load(node(1), space.clone(), &pool.save()).unwrap(),
            }
            let leases: Vec<(String, IpAddr)> = pool.leases().map(|(holder, at)| (holder.into(), at)).collect();
            let expected = model.leases.iter().map(|(holder, &n)| (holder.clone(), ip(n))).collect::<Vec<_>>();
            prop_assert_eq!(leases, expected);
            let used = model.leases.values().filter(|n| (4..8).contains(*n)).count() as u128;
            prop_assert_eq!(pool.share(), Share { owned: 3, free: 3 - used, used });
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_another_pool(at in 0_usize..400, with in any::<u8>()) {
        let mut pool = Pool::found(node(1), space(24));
        for holder in ["web", "db", "cache"] {
            pool.lease(holder, None);
        }
        let want = Want { need: Need::Any, taken: 0 };
        pool.handle_want(node(2), &want).gift.unwrap();
        let mut bytes = pool.save();
        let at = at % bytes.len();
        prop_assert!(Pool::load(node(1), space(24), &bytes[..at]).is_err());
        bytes[at] = with;
        if let Ok(loaded) = Pool::load(node(1), space(24), &bytes) {
            prop_assert!(loaded.held().iter().all(|run| run.intersection(space(24).bounds()) == Some(run)));
            prop_assert!(loaded.share().used + loaded.share().free == loaded.share().owned);
        }
    }

    /// What a member that lies says.
    #[test]
    fn gifts_that_cannot_be_are_refused(number in 0_u64..4, taken in 0_u64..3, first: u128, more in 0_u128..512) {
        let mut pool = Pool::join(node(1), space(24));
        let last = first.saturating_add(more);
        let near = Range::new(0x0a00_0900 + first % 300, 0x0a00_0900 + first % 300 + more).unwrap();
        for range in [Range::new(first, last).unwrap(), near] {
            let before = pool.held().clone();
            let inside = range.intersection(space(24).bounds()) == Some(range);
            match pool.take(node(2), taken, Gift { number, range }) {
                Ok(()) => prop_assert!(inside && number == taken + 1 && pool.held().count() == range.count()),
                Err(_) => prop_assert_eq!(pool.held(), &before),
            }
        }
    }
}

fn ip(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0900 + number).into()
}

/// Next-fit over .4 to .7 without .6, by looking at one after the other.
#[derive(Default)]
struct Model {
    leases: BTreeMap<String, u32>,
    last: Option<u32>,
}

impl Model {
    fn is_free(&self, number: u32) -> bool {
        (1..15).contains(&number)
            && ![1, 6].contains(&number)
            && self.leases.values().all(|&used| used != number)
    }

    fn lease(&mut self, holder: &str) -> Outcome {
        if let Some(&number) = self.leases.get(holder) {
            return Outcome::Leased(ip(number));
        }
        let start = self.last.unwrap_or(7);
        let mut candidates = (1..=4).map(|step| 4 + (start - 4 + step) % 4);
        let Some(number) = candidates.find(|&number| self.is_free(number)) else {
            return Outcome::Ask(Need::Any);
        };
        self.last = Some(number);
        self.leases.insert(holder.into(), number);
        Outcome::Leased(ip(number))
    }

    fn request(&mut self, holder: &str, number: u32) -> bool {
        match self.leases.get(holder) {
            Some(&has) => has == number,
            None if self.is_free(number) => {
                self.leases.insert(holder.into(), number);
                true
            }
            None => false,
        }
    }
}

#[test]
fn subnets_and_what_is_no_address_of_them() {
    let new = |network: &str, prefix, range: Option<(&str, u8)>, gateway: &str| {
        let range = range.map(|(address, length)| (address.parse().unwrap(), length));
        let space =
            Space::new(network.parse().unwrap(), prefix, range, [(gateway.parse().unwrap(), "gateway")]);
        space.map(|space| space.capacity()).map_err(|error| error.to_string())
    };
    assert_eq!(new("10.0.9.0", 24, None, "10.0.9.1"), Ok(253));
    assert_eq!(new("10.0.9.0", 24, Some(("10.0.9.64", 26)), "10.0.9.1"), Ok(64));
    assert_eq!(new("10.0.9.0", 24, Some(("10.0.9.0", 25)), "10.0.9.254"), Ok(127));
    assert_eq!(new("10.0.9.0", 31, None, "10.0.9.0"), Ok(1));
    assert_eq!(new("10.0.9.0", 32, None, "10.0.9.0"), Ok(0));
    assert_eq!(new("fd00::", 64, None, "fd00::1"), Ok((1 << 64) - 2));
    assert_eq!(new("::", 0, None, "::1"), Ok(u128::MAX - 1));
    let refused = [
        (new("10.0.9.4", 24, None, "10.0.9.1"), "10.0.9.4/24 has host bits set: the subnet is 10.0.9.0/24"),
        (new("10.0.9.0", 33, None, "10.0.9.1"), "10.0.9.0/33: a prefix has at most 32 bits"),
        (
            new("10.0.9.0", 24, None, "10.0.8.1"),
            "gateway 10.0.8.1 is no address for an endpoint of 10.0.9.0/24",
        ),
        (
            new("10.0.9.0", 24, None, "10.0.9.255"),
            "gateway 10.0.9.255 is no address for an endpoint of 10.0.9.0/24",
        ),
        (
            new("10.0.9.0", 24, Some(("10.0.0.0", 16)), "10.0.9.1"),
            "range 10.0.0.0 is no address for an endpoint of 10.0.9.0/24",
        ),
        (
            new("10.0.9.0", 24, Some(("fd00::", 64)), "10.0.9.1"),
            "range fd00:: is no address for an endpoint of 10.0.9.0/24",
        ),
    ];
    for (outcome, expected) in refused {
        assert_eq!(outcome, Err(expected.to_owned()));
    }
}

#[test]
fn the_end_of_the_number_line_is_no_special_case() {
    let space =
        Space::new("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8".parse().unwrap(), 125, None, NONE).unwrap();
    let mut pool = Pool::found(node(1), space.clone());
    let mut other = Pool::join(node(2), space);
    for _ in 0..9 {
        let reply = pool.handle_want(node(2), &other.want(node(1), Need::Any));
        if let Ok(gift) = reply.gift {
            other.take(node(1), reply.taken, gift).unwrap();
        }
    }
    assert_eq!((pool.share().free, other.share().free), (0, 7));
    for number in 0..7 {
        assert!(matches!(other.lease(&format!("endpoint {number}"), None), Outcome::Leased(_)));
    }
    assert_eq!(other.lease("eighth", None), Outcome::Ask(Need::Any));
}

const NONE: [(IpAddr, &str); 0] = [];

#[test]
fn a_pool_of_another_node_or_subnet_is_not_loaded() {
    let bytes = Pool::found(node(1), space(24)).save();
    assert_eq!(Pool::load(node(2), space(24), &bytes).unwrap_err(), LoadError::Foreign);
    assert_eq!(Pool::load(node(1), space(25), &bytes).unwrap_err(), LoadError::Foreign);
}
