//! The other side: a question to a resolver, and what its reply says.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};

use super::answer::is_reply_to;
use crate::switch::wire::flow::IpVersion;

/// A query for the addresses of `name`: A records or AAAA records. `None` if that is no name.
#[must_use]
pub fn question(id: u16, name: &str, version: IpVersion) -> Option<Vec<u8>> {
    let kind = match version {
        IpVersion::V4 => RecordType::A,
        IpVersion::V6 => RecordType::AAAA,
    };
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).ok()?, kind));
    message.to_vec().ok()
}

/// The addresses in the reply to such a query: none if it says that there are none, or that something is wrong. `None` if
/// it is no whole reply to this query.
#[must_use]
pub fn told(query: &[u8], reply: &[u8]) -> Option<Vec<IpAddr>> {
    if !is_reply_to(query, reply) {
        return None;
    }
    let message = Message::from_vec(reply).ok().filter(|message| !message.metadata.truncation)?;
    let address = |data: &RData| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    Some(message.answers.iter().filter_map(|record| address(&record.data)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Host, Outcome, Through, Zone, answer};

    const OWN: [&str; 2] = ["10.0.9.2", "fd00::2"];

    fn reply(query: &[u8]) -> Vec<u8> {
        let mut zone = Zone::new("front", true);
        let addresses = OWN.map(|own| own.parse().unwrap()).into();
        zone.add(&Host { name: "web".into(), addresses, ..Host::default() }).unwrap();
        match answer(&zone, query, Through::Udp, &mut fastrand::Rng::with_seed(1)) {
            Outcome::Reply(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_zone_answers_is_told() {
        for (version, own) in [IpVersion::V4, IpVersion::V6].into_iter().zip(OWN) {
            let query = question(7, "web", version).unwrap();
            assert_eq!(told(&query, &reply(&query)), Some(vec![own.parse().unwrap()]));
            let unknown = question(8, "nobody", version).unwrap();
            assert_eq!(told(&unknown, &reply(&unknown)), Some(Vec::new()));
            assert_eq!(told(&query, &reply(&unknown)), None, "of another question");
            assert_eq!(told(&query, &query), None, "a question is no reply");
        }
        assert_eq!(question(1, &"x".repeat(64), IpVersion::V4), None);
    }

    #[test]
    fn no_part_of_a_reply_is_one() {
        let query = question(7, "web", IpVersion::V4).unwrap();
        let whole = reply(&query);
        for len in 0..whole.len() {
            assert_eq!(told(&query, &whole[..len]), None, "{len} bytes");
        }
    }
}
