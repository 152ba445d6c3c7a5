//! What others have said to questions, for as long as they have said that it holds.
//!
//! - Names and addresses hold for the shortest time of the records that lead to them (RFC 1035 §3.2.1), and are
//!   told with what is left of it.
//! - That a name is not there, or has nothing of a type, holds as the zone's SOA record says (RFC 2308 §5);
//!   without one it is not kept.
//! - Failures are not kept, nor what was cut; and questions about signatures are always asked anew.
//!
//! Bounded: [`CACHED_MAX`] answers of [`ANSWER_MAX`] bytes at most; one that is new takes the place of one that
//! ends soonest.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

use super::answer::{Through, emit, limit, reply, text};

/// Answers that are kept for one network: what its endpoints talk to.
pub const CACHED_MAX: usize = 512;
/// Bytes of an answer that is kept: what goes in one datagram.
const ANSWER_MAX: usize = 1_232;
/// How long names and addresses are kept at most, whatever is said of them.
const LIFE_MAX: Duration = Duration::from_secs(3_600);
/// How long it is kept that something is not there: it may come (RFC 2308 §5 has one to three hours as the most).
const NEGATIVE_LIFE_MAX: Duration = Duration::from_secs(300);

/// What is kept for one network.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<(String, RecordType), Entry>,
}

#[derive(Debug)]
struct Entry {
    code: ResponseCode,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    since: Instant,
    until: Instant,
}

impl Cache {
    /// The reply to a query, if one is kept that still holds.
    #[must_use]
    pub fn find(&self, query: &[u8], through: Through, now: Instant) -> Option<Vec<u8>> {
        let message = Message::from_vec(query).ok()?;
        let entry = self.entries.get(&key(&message)?).filter(|entry| now < entry.until)?;
        let mut told = reply(&message.metadata, Some(&message), entry.code);
        told.metadata.recursion_available = true;
        let age = u32::try_from(now.saturating_duration_since(entry.since).as_secs()).unwrap_or(u32::MAX);
        let left = |record: &Record| {
            let mut record = record.clone();
            record.ttl = record.ttl.saturating_sub(age);
            record
        };
        told.answers = entry.answers.iter().map(left).collect();
        told.authorities = entry.authorities.iter().map(left).collect();
        emit(told, limit(&message, through))
    }

    /// Keeps what was said to a query, if it is to be kept.
    pub fn keep(&mut self, query: &[u8], said: &[u8], now: Instant) {
        let Some((key, entry)) = entry(query, said, now) else { return };
        if self.entries.len() >= CACHED_MAX && !self.entries.contains_key(&key) {
            self.entries.retain(|_, entry| now < entry.until);
            if self.entries.len() >= CACHED_MAX {
                let soonest = self.entries.iter().min_by_key(|(_, entry)| entry.until);
                let soonest = soonest.map(|(key, _)| key.clone());
                soonest.and_then(|key| self.entries.remove(&key));
            }
        }
        self.entries.insert(key, entry);
    }

    /// Answers that are kept, some of which may not hold any more.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn entry(query: &[u8], said: &[u8], now: Instant) -> Option<((String, RecordType), Entry)> {
    if said.len() > ANSWER_MAX {
        return None;
    }
    let key = key(&Message::from_vec(query).ok()?)?;
    let said = Message::from_vec(said).ok()?;
    let code = said.metadata.response_code;
    if said.metadata.truncation || !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return None;
    }
    let authorities: Vec<Record> =
        said.authorities.into_iter().filter(|record| matches!(record.data, RData::SOA(_))).collect();
    // An alias that leads to nothing is negative, too (RFC 2308 §2.2.1).
    let positive =
        said.answers.iter().any(|record| record.record_type() == key.1 || key.1 == RecordType::ANY);
    // RFC 2181 §8: a time whose highest bit is set is none.
    let time = |record: &Record| i32::try_from(record.ttl).map_or(0, |_| record.ttl);
    let shortest = said.answers.iter().map(time).min();
    let seconds = match (positive, shortest) {
        (true, shortest) => shortest?,
        (false, shortest) => {
            let RData::SOA(soa) = &authorities.first()?.data else { return None };
            soa.minimum.min(time(authorities.first()?)).min(shortest.unwrap_or(u32::MAX))
        }
    };
    let most = if positive { LIFE_MAX } else { NEGATIVE_LIFE_MAX };
    let life = Duration::from_secs(seconds.into()).min(most);
    let entry = Entry { code, answers: said.answers, authorities, since: now, until: now + life };
    (!life.is_zero()).then_some((key, entry))
}

/// Under which a query's answer is kept. `None`: it is none that others have the same answer to.
fn key(message: &Message) -> Option<(String, RecordType)> {
    let signed = message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
    let metadata = &message.metadata;
    if metadata.op_code != OpCode::Query
        || !metadata.recursion_desired
        || metadata.checking_disabled
        || signed
    {
        return None;
    }
    let [Query { name, query_type, query_class: DNSClass::IN, .. }] = message.queries.as_slice() else {
        return None;
    };
    Some((text(name)?, *query_type))
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, MessageType};
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, CNAME, SOA};

    use super::*;

    fn message(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn query(name: &str) -> Vec<u8> {
        message(name, RecordType::A).to_vec().unwrap()
    }

    fn record(name: &str, ttl: u32, data: RData) -> Record {
        Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, data)
    }

    fn address(name: &str, ttl: u32) -> Record {
        record(name, ttl, RData::A(A([192, 0, 2, 1].into())))
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        let name = || Name::from_ascii("example.").unwrap();
        record("example.", ttl, RData::SOA(SOA::new(name(), name(), 1, 2, 3, 4, minimum)))
    }

    fn said(code: ResponseCode, answers: &[Record], authorities: &[Record]) -> Vec<u8> {
        let mut reply = message("www.example.", RecordType::A).into_response();
        reply.metadata.response_code = code;
        reply.answers.extend_from_slice(answers);
        reply.authorities.extend_from_slice(authorities);
        reply.to_vec().unwrap()
    }

    /// For how many seconds that is kept.
    fn kept(said: &[u8]) -> u64 {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let query = query("www.example.");
        cache.keep(&query, said, now);
        let holds = |seconds: u64| {
            let later = now + Duration::from_secs(seconds) - Duration::from_nanos(1);
            cache.find(&query, Through::Udp, later).is_some()
        };
        (1..=10_000).take_while(|&seconds| holds(seconds)).count() as u64
    }

    #[test]
    fn what_is_said_holds_as_long_as_it_says() {
        let alias = record("www.example.", 40, RData::CNAME(CNAME(Name::from_ascii("a.example.").unwrap())));
        let no = ResponseCode::NXDomain;
        let yes = ResponseCode::NoError;
        for (code, answers, authorities, seconds) in [
            (yes, vec![address("www.example.", 60)], vec![], 60),
            (yes, vec![alias.clone(), address("a.example.", 60)], vec![], 40),
            (yes, vec![address("www.example.", 0)], vec![], 0),
            (yes, vec![address("www.example.", 7_200)], vec![], 3_600),
            (no, vec![], vec![soa(100, 50)], 50),
            (no, vec![], vec![soa(30, 50)], 30),
            (no, vec![], vec![soa(9_000, 9_000)], 300),
            (no, vec![], vec![], 0),
            (yes, vec![], vec![soa(20, 50)], 20),
            (yes, vec![alias.clone()], vec![soa(100, 100)], 40),
            (yes, vec![alias], vec![], 0),
            (ResponseCode::ServFail, vec![], vec![soa(100, 100)], 0),
        ] {
            assert_eq!(
                kept(&said(code, &answers, &authorities)),
                seconds,
                "{code} {answers:?} {authorities:?}"
            );
        }
        let mut cut = message("www.example.", RecordType::A).into_response();
        cut.metadata.truncation = true;
        cut.answers.push(address("www.example.", 60));
        assert_eq!(kept(&cut.to_vec().unwrap()), 0);
    }

    #[test]
    fn it_is_told_again_with_what_is_left_of_its_time() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let yes = said(ResponseCode::NoError, &[address("www.example.", 60)], &[]);
        cache.keep(&query("www.example."), &yes, now);
        let mut again = message("WWW.example.", RecordType::A);
        again.metadata.id = 99;
        let bytes = again.to_vec().unwrap();
        let told = cache.find(&bytes, Through::Tcp, now + Duration::from_secs(25)).unwrap();
        assert!(super::super::is_reply_to(&bytes, &told));
        let told = Message::from_vec(&told).unwrap();
        assert_eq!((told.metadata.id, told.answers.len(), told.answers[0].ttl), (99, 1, 35));
        assert!(told.metadata.recursion_available && !told.metadata.authoritative);
        let other = message("www.example.", RecordType::AAAA).to_vec().unwrap();
        assert_eq!(cache.find(&other, Through::Udp, now), None);
    }

    #[test]
    fn questions_about_signatures_are_always_asked() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let mut edns = Edns::new();
        edns.set_dnssec_ok(true);
        let mut signed = message("www.example.", RecordType::A);
        signed.set_edns(edns);
        let mut unchecked = message("www.example.", RecordType::A);
        unchecked.metadata.checking_disabled = true;
        let yes = said(ResponseCode::NoError, &[address("www.example.", 60)], &[]);
        for query in [signed, unchecked] {
            cache.keep(&query.to_vec().unwrap(), &yes, now);
        }
        assert!(cache.is_empty());
    }

    #[test]
    fn it_stays_within_its_bounds() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let yes = |ttl| said(ResponseCode::NoError, &[address("www.example.", ttl)], &[]);
        for n in 0..2 * CACHED_MAX {
            cache.keep(&query(&format!("n{n}.example.")), &yes(60 + u32::try_from(n).unwrap()), now);
        }
        assert_eq!(cache.len(), CACHED_MAX);
        // Those that would have ended first have gone.
        assert!(cache.find(&query("n0.example."), Through::Udp, now).is_none());
        assert!(
            cache.find(&query(&format!("n{}.example.", 2 * CACHED_MAX - 1)), Through::Udp, now).is_some()
        );
        let many = vec![address("www.example.", 60); 200];
        cache.keep(&query("many.example."), &said(ResponseCode::NoError, &many, &[]), now);
        assert!(cache.find(&query("many.example."), Through::Tcp, now).is_none());
        for junk in [&b""[..], b"junk", &[0xff; 40]] {
            cache.keep(junk, junk, now);
            assert_eq!(cache.find(junk, Through::Udp, now), None);
        }
    }
}
