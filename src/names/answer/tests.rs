use std::collections::BTreeSet;

use super::super::zone::{Host, NamedPort};
use super::*;

fn zone(internal: bool) -> Zone {
    let mut zone = Zone::new("front", internal);
    let port = NamedPort { service: "http".into(), protocol: Protocol::Tcp, port: 8080 };
    for (name, addresses) in [("web", ["10.0.9.2", "fd00::2"]), ("db", ["10.0.9.3", "10.0.9.4"])] {
        let addresses = addresses.map(|address| address.parse().unwrap()).to_vec();
        let (aliases, ports) = (vec!["any".into()], vec![port.clone()]);
        zone.add(&Host { name: name.into(), aliases, addresses, ports }).unwrap();
    }
    zone
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn outcome(zone: &Zone, query: &Message) -> Outcome {
    answer(zone, &query.to_vec().unwrap(), Through::Udp, &mut fastrand::Rng::with_seed(1))
}

fn told(zone: &Zone, query: &Message) -> Message {
    let Outcome::Reply(bytes) = outcome(zone, query) else { panic!("no reply to {query}") };
    let reply = Message::from_vec(&bytes).unwrap();
    assert_eq!((reply.metadata.id, &reply.queries), (4711, &query.queries));
    assert!(is_reply_to(&query.to_vec().unwrap(), &bytes));
    reply
}

fn data(reply: &Message) -> BTreeSet<String> {
    assert!(reply.answers.iter().all(|record| record.ttl == TTL));
    reply.answers.iter().map(|record| record.data.to_string()).collect()
}

fn all(name: &str, kind: RecordType) -> Vec<String> {
    let reply = told(&zone(false), &query(name, kind));
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.metadata.authoritative && !reply.metadata.truncation);
    data(&reply).into_iter().collect()
}

#[test]
fn names_have_their_addresses_by_family() {
    assert_eq!(all("web.", RecordType::A), ["10.0.9.2"]);
    assert_eq!(all("WEB.Front.", RecordType::AAAA), ["fd00::2"]);
    assert_eq!(all("any.", RecordType::A), ["10.0.9.2", "10.0.9.3", "10.0.9.4"]);
    assert_eq!(all("web.", RecordType::ANY), ["10.0.9.2", "fd00::2"]);
}

#[test]
fn a_known_name_without_such_data_is_no_error() {
    assert_eq!(all("db.", RecordType::AAAA), [""; 0]);
    assert_eq!(all("db.front.", RecordType::MX), [""; 0]);
}

#[test]
fn addresses_lead_back() {
    assert_eq!(all("2.9.0.10.in-addr.arpa.", RecordType::PTR), ["web.front."]);
    let v6 = format!("2.{}0.0.d.f.ip6.arpa.", "0.".repeat(27));
    assert_eq!(all(&v6, RecordType::PTR), ["web.front."]);
    assert_eq!(all("2.9.0.10.in-addr.arpa.", RecordType::A), [""; 0]);
    for other in ["9.0.10.in-addr.arpa.", "5.9.0.10.in-addr.arpa.", "x.9.0.10.in-addr.arpa."] {
        assert_eq!(outcome(&zone(false), &query(other, RecordType::PTR)), Outcome::Forward, "{other}");
    }
}

#[test]
fn services_are_found_by_name_and_number() {
    for name in ["_http._tcp.web.", "_8080._TCP.web.front."] {
        let reply = told(&zone(false), &query(name, RecordType::SRV));
        assert_eq!(data(&reply).into_iter().collect::<Vec<_>>(), ["0 0 8080 web.front."]);
        let there: BTreeSet<_> = reply.additionals.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(there.into_iter().collect::<Vec<_>>(), ["10.0.9.2", "fd00::2"]);
    }
    assert_eq!(all("_http._tcp.any.", RecordType::SRV), ["0 0 8080 db.front.", "0 0 8080 web.front."]);
    assert_eq!(all("_http._udp.web.", RecordType::SRV), [""; 0]);
    assert_eq!(outcome(&zone(false), &query("_http._tcp.example.", RecordType::SRV)), Outcome::Forward);
}

#[test]
fn what_is_unknown_is_forwarded_but_on_internal_networks() {
    let asked = query("example.org.", RecordType::A);
    assert_eq!(outcome(&zone(false), &asked), Outcome::Forward);
    let reply = told(&zone(true), &asked);
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert!(!reply.metadata.recursion_available);
    let mut undesired = asked;
    undesired.metadata.recursion_desired = false;
    assert_eq!(told(&zone(false), &undesired).metadata.response_code, ResponseCode::Refused);
}

#[test]
fn answers_come_in_every_order() {
    let (zone, asked) = (zone(false), query("any.", RecordType::A).to_vec().unwrap());
    let mut rng = fastrand::Rng::with_seed(7);
    let mut orders = BTreeSet::new();
    for _ in 0..100 {
        let Outcome::Reply(bytes) = answer(&zone, &asked, Through::Udp, &mut rng) else { panic!("no reply") };
        let records = Message::from_vec(&bytes).unwrap().answers;
        orders.insert(records.iter().map(|record| record.data.to_string()).collect::<Vec<_>>());
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn long_answers_are_cut_to_whole_records_and_marked() {
    let mut zone = Zone::new("front", false);
    let addresses = (0..200).map(|n| [10, 0, 9, n].into()).collect();
    zone.add(&Host { name: "many".into(), addresses, ..Host::default() }).unwrap();
    let mut asked = query("many.", RecordType::A);
    let mut lens = Vec::new();
    for payload in [None, Some(100), Some(800), Some(1_232), Some(65_535)] {
        if let Some(payload) = payload {
            asked.edns.get_or_insert_with(Edns::new).set_max_payload(payload);
        }
        let Outcome::Reply(bytes) = outcome(&zone, &asked) else { panic!("no reply") };
        let reply = Message::from_vec(&bytes).unwrap();
        assert!(reply.metadata.truncation);
        assert!(bytes.len() <= 1_232 && bytes.len() > 400, "{}", bytes.len());
        assert_eq!(reply.edns.is_some(), payload.is_some());
        lens.push(bytes.len());
    }
    assert!(lens[0] <= 512 && lens[1] <= 512 && lens[2] <= 800 && lens[3] > 1_100, "{lens:?}");
    let whole = answer(&zone, &asked.to_vec().unwrap(), Through::Tcp, &mut fastrand::Rng::with_seed(1));
    let Outcome::Reply(bytes) = whole else { panic!("no reply") };
    let reply = Message::from_vec(&bytes).unwrap();
    assert_eq!((reply.metadata.truncation, reply.answers.len()), (false, 200));
}

#[test]
fn strange_questions_are_refused_by_their_reason() {
    let code = |message: &Message| told(&zone(false), message).metadata.response_code;
    let mut asked = query("web.", RecordType::A);
    asked.metadata.op_code = OpCode::Status;
    assert_eq!(code(&asked), ResponseCode::NotImp);
    let mut asked = query("web.", RecordType::A);
    asked.queries[0].query_class = DNSClass::CH;
    assert_eq!(code(&asked), ResponseCode::Refused);
    let mut asked = query("web.", RecordType::A);
    asked.edns.get_or_insert_with(Edns::new).set_version(1);
    // Two meanings of one number (RFC 6895 §2.3).
    assert_eq!(u16::from(code(&asked)), u16::from(ResponseCode::BADVERS));
    let mut asked = query("web.", RecordType::A);
    asked.add_query(Query::query(Name::from_ascii("db.").unwrap(), RecordType::A));
    let Outcome::Reply(bytes) = outcome(&zone(false), &asked) else { panic!("no reply") };
    assert_eq!(Message::from_vec(&bytes).unwrap().metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn whatever_is_cut_off_or_no_query_gets_no_answer_from_the_zone() {
    let (zone, mut rng) = (zone(false), fastrand::Rng::with_seed(1));
    let mut asked = query("web.front.", RecordType::A);
    asked.edns = Some(Edns::new());
    let whole = asked.to_vec().unwrap();
    for len in 0..whole.len() {
        match answer(&zone, &whole[..len], Through::Udp, &mut rng) {
            Outcome::Ignore => assert!(len < HEADER_LEN, "{len}"),
            Outcome::Reply(bytes) => {
                let reply = Message::from_vec(&bytes).unwrap();
                assert_eq!(reply.metadata.response_code, ResponseCode::FormErr, "{len}");
                assert_eq!(reply.metadata.id, 4711);
            }
            Outcome::Forward => panic!("{len}"),
        }
    }
    let Outcome::Reply(reply) = answer(&zone, &whole, Through::Udp, &mut rng) else { panic!("no reply") };
    assert_eq!(answer(&zone, &reply, Through::Udp, &mut rng), Outcome::Ignore);
}

#[test]
fn replies_of_others_are_matched_and_cut() {
    let mut asked = query("example.org.", RecordType::TXT);
    let bytes = asked.to_vec().unwrap();
    let mut upstream = Message::response(4711, OpCode::Query);
    upstream.queries = asked.queries.clone();
    assert!(is_reply_to(&bytes, &upstream.to_vec().unwrap()));
    assert!(!is_reply_to(&bytes, &bytes), "a query");
    for wrong in [query("example.net.", RecordType::TXT), query("example.org.", RecordType::A)] {
        upstream.queries = wrong.queries;
        assert!(!is_reply_to(&bytes, &upstream.to_vec().unwrap()));
    }
    upstream.queries = asked.queries.clone();
    upstream.metadata.id = 4712;
    assert!(!is_reply_to(&bytes, &upstream.to_vec().unwrap()));

    let name = Name::from_ascii("example.org.").unwrap();
    upstream.answers = (0..100).map(|n| record(&name, RData::A(A([192, 0, 2, n].into())))).collect();
    let long = upstream.to_vec().unwrap();
    let cut = Message::from_vec(&fit(&bytes, long.clone(), Through::Udp).unwrap()).unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty() && cut.queries == asked.queries);
    assert_eq!(fit(&bytes, long.clone(), Through::Tcp), Some(long));

    asked.edns = Some(Edns::new());
    let failed = Message::from_vec(&fail(&asked.to_vec().unwrap()).unwrap()).unwrap();
    assert_eq!((failed.metadata.response_code, failed.metadata.id), (ResponseCode::ServFail, 4711));
    assert!(failed.edns.is_some());
}
