//! What members say to each other about addresses, as one who lies might: no pool comes to hold what can't be.

use std::net::IpAddr;

use vswitchd::gossip::NodeId;
use vswitchd::gossip::codec;
use vswitchd::ipam::{Acquire, Answer, Need, Outcome, Pool, Question, RangeSet, Reply, Space, Want};

const ME: NodeId = NodeId([1; 16]);
const OTHER: NodeId = NodeId([2; 16]);

/// Messages one after the other, each a length byte and so many bytes, to a pool that has given and leased some. It
/// never holds what is outside of its subnet, its counts add up, no lease is lost, and what is saved is what is loaded.
pub fn addresses(data: &[u8]) {
    let network = IpAddr::from([10, 0, 9, 0]);
    let space = Space::new(network, 24, None, [(IpAddr::from([10, 0, 9, 1]), "gateway")]).expect("a subnet");
    let mut pool = Pool::found(ME, space.clone());
    let Outcome::Leased(leased) = pool.lease("web", None) else { panic!("all is free") };
    pool.handle_want(OTHER, &Want { need: Need::Any, taken: 0 }).gift.expect("all is free");
    let mut acquire = Acquire::new("db", None);
    let mut rest = data;
    while let Some((&length, behind)) = rest.split_first() {
        let (message, behind) = behind.split_at(usize::from(length).min(behind.len()));
        rest = behind;
        hear(&mut pool, &mut acquire, message);
        check(&pool, &space);
        assert_eq!(pool.leases().next(), Some(("web", leased)), "a lease was lost");
    }
    if let Ok(loaded) = Pool::load(ME, space.clone(), data) {
        check(&loaded, &space);
    }
}

/// Every message that it could be.
fn hear(pool: &mut Pool, acquire: &mut Acquire, message: &[u8]) {
    if let Ok(want) = codec::decode::<Want>(message) {
        let before = pool.held().count();
        let reply = pool.handle_want(OTHER, &want);
        let given = reply.gift.map_or(0, |gift| gift.range.count());
        assert!(pool.held().count() + given >= before, "it lost what it did not give");
    }
    if let Ok(reply) = codec::decode::<Reply>(message) {
        acquire.handle_reply(pool, OTHER, &reply);
    }
    if let Ok(question) = codec::decode::<Question>(message) {
        pool.note_gone(&question.gone);
        pool.handle_question(OTHER, &question);
    }
    if let Ok(answer) = codec::decode::<Answer>(message) {
        pool.begin_survey(&[ME, OTHER].into(), 0);
        pool.handle_answer(OTHER, &answer);
    }
}

fn check(pool: &Pool, space: &Space) {
    let mut outside: RangeSet = pool.held().clone();
    outside.remove(space.bounds());
    assert!(outside.is_empty(), "it holds what no endpoint can have");
    let share = pool.share();
    assert_eq!(share.owned, share.free + share.used);
    assert!(share.owned <= space.capacity());
    let saved = pool.save();
    let again = Pool::load(ME, space.clone(), &saved).expect("it was just saved");
    assert_eq!(again.save(), saved, "what is saved is loaded as something else");
}
