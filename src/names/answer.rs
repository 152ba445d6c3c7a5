//! From a query to what becomes of it.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::zone::{Entry, Protocol, Zone};

/// Seconds that an answer may be kept: addresses change hands, and clients are to notice.
const TTL: u32 = 1;
/// Bytes that every client takes over UDP (RFC 1035 §4.2.1).
const UDP_MIN: u16 = 512;
/// Bytes that we send over UDP, and offer to take: they fit the smallest IPv6 packet, so they are never fragmented
/// (RFC 9715 §3.1).
const UDP_MAX: u16 = 1_232;
/// Bytes of a header (RFC 1035 §4.1.1).
const HEADER_LEN: usize = 12;

/// How a query has come, and its reply is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// In one datagram, so that a reply has a bound: 512 bytes, or what the client names, up to 1232.
    Udp,
    /// In a stream, where a message has up to 65,535 bytes.
    Tcp,
}

/// What becomes of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This goes back.
    Reply(Vec<u8>),
    /// The zone does not know it, and others may be asked the same.
    Forward,
    /// No query: nothing goes back, so that two servers can't keep each other busy.
    Ignore,
}

/// Answers a query, or says that others may. The order of several addresses is `rng`'s.
#[must_use]
pub fn answer(zone: &Zone, query: &[u8], through: Through, rng: &mut fastrand::Rng) -> Outcome {
    let Ok(header) = Header::read(&mut BinDecoder::new(query)) else { return Outcome::Ignore };
    if header.metadata.message_type != MessageType::Query {
        return Outcome::Ignore;
    }
    let Ok(message) = Message::from_vec(query) else {
        return refuse(&header.metadata, None, ResponseCode::FormErr);
    };
    match decide(zone, &message, rng) {
        Decision::Forward => Outcome::Forward,
        Decision::Refuse(code) => refuse(&message.metadata, Some(&message), code),
        Decision::Say(answers, additionals) => {
            let mut reply = reply(&message.metadata, Some(&message), ResponseCode::NoError);
            reply.metadata.authoritative = true;
            reply.metadata.recursion_available = !zone.is_internal();
            reply.answers = answers;
            reply.additionals = additionals;
            emit(reply, limit(&message, through)).map_or(Outcome::Ignore, Outcome::Reply)
        }
    }
}

/// The reply that nobody could be asked (SERVFAIL); none if it is no query.
#[must_use]
pub fn fail(query: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_vec(query).ok()?;
    let reply = reply(&message.metadata, Some(&message), ResponseCode::ServFail);
    reply.to_vec().ok()
}

/// Whether a reply says that something is wrong, or not there (RFC 1035 §4.1.1): the lower half of the header's fourth
/// byte is not zero.
#[must_use]
pub fn is_error(reply: &[u8]) -> bool {
    reply.get(3).is_some_and(|byte| byte & 0xf != 0)
}

/// Whether `bytes` reply to `query`: same id, same question. Not whether what they say is true.
#[must_use]
pub fn is_reply_to(query: &[u8], bytes: &[u8]) -> bool {
    let (Some(asked), Some(told)) = (question(query), question(bytes)) else { return false };
    let same = |asked: &Query, told: &Query| {
        (asked.query_type, asked.query_class) == (told.query_type, told.query_class)
            && asked.name == told.name
    };
    told.0.message_type == MessageType::Response && asked.0.id == told.0.id && same(&asked.1, &told.1)
}

/// Cuts another server's reply to what the client of `query` takes: whole if it fits, else its question alone, marked as
/// cut. `None` if it can't be understood, or `query` can't.
#[must_use]
pub fn fit(query: &[u8], bytes: Vec<u8>, through: Through) -> Option<Vec<u8>> {
    let limit = limit(&Message::from_vec(query).ok()?, through);
    if bytes.len() <= limit {
        return Some(bytes);
    }
    let (metadata, question) = question(&bytes)?;
    let mut cut = Message::new(metadata.id, MessageType::Response, metadata.op_code);
    cut.metadata = metadata;
    cut.metadata.truncation = true;
    cut.queries.push(question);
    cut.to_vec().ok()
}

fn question(bytes: &[u8]) -> Option<(Metadata, Query)> {
    let mut decoder = BinDecoder::new(bytes);
    let header = Header::read(&mut decoder).ok()?;
    let queries = Message::read_queries(&mut decoder, usize::from(header.counts.queries == 1)).ok()?;
    Some((header.metadata, queries.into_iter().next()?))
}

enum Decision {
    Forward,
    Refuse(ResponseCode),
    /// Answers, then what belongs to them. No answers: the name has none of that type.
    Say(Vec<Record>, Vec<Record>),
}

fn decide(zone: &Zone, message: &Message, rng: &mut fastrand::Rng) -> Decision {
    if message.metadata.op_code != OpCode::Query {
        return Decision::Refuse(ResponseCode::NotImp);
    }
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Decision::Refuse(ResponseCode::BADVERS);
    }
    let [query] = message.queries.as_slice() else { return Decision::Refuse(ResponseCode::FormErr) };
    if !matches!(query.query_class, DNSClass::IN | DNSClass::ANY) {
        return Decision::Refuse(ResponseCode::Refused);
    }
    match look_up(zone, query, rng) {
        Some((answers, additionals)) => Decision::Say(answers, additionals),
        None if zone.is_internal() => Decision::Refuse(ResponseCode::NXDomain),
        // RFC 1035 §4.1.1: who does not desire recursion gets what we know ourselves.
        None if !message.metadata.recursion_desired => Decision::Refuse(ResponseCode::Refused),
        None => Decision::Forward,
    }
}

/// `None`: the zone does not know the name.
fn look_up(zone: &Zone, query: &Query, rng: &mut fastrand::Rng) -> Option<(Vec<Record>, Vec<Record>)> {
    let name = text(&query.name)?;
    let kind = query.query_type;
    if let Some(entry) = zone.find(&name) {
        return Some((addresses(&query.name, entry, kind, rng), Vec::new()));
    }
    if let Some(address) = reversed(&query.name) {
        let host = zone.back(address)?;
        let target = full_name(zone, host);
        let target = target.filter(|_| wants(kind, RecordType::PTR));
        let back = target.map(|target| record(&query.name, RData::PTR(PTR(target))));
        return Some((back.into_iter().collect(), Vec::new()));
    }
    services(zone, &query.name, &name, kind, rng)
}

fn wants(asked: RecordType, there: RecordType) -> bool {
    asked == there || asked == RecordType::ANY
}

/// In random order, so that clients that take the first spread.
fn addresses(name: &Name, entry: &Entry, kind: RecordType, rng: &mut fastrand::Rng) -> Vec<Record> {
    let data = |address: &IpAddr| match *address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    let data = entry.addresses.iter().map(data).filter(|data| wants(kind, data.record_type()));
    let mut records: Vec<_> = data.map(|data| record(name, data)).collect();
    rng.shuffle(&mut records);
    records
}

/// RFC 2782: `_service._protocol.name`, with the addresses of what it leads to.
fn services(
    zone: &Zone,
    owner: &Name,
    name: &str,
    kind: RecordType,
    rng: &mut fastrand::Rng,
) -> Option<(Vec<Record>, Vec<Record>)> {
    let (service, rest) = name.strip_prefix('_')?.split_once("._")?;
    let (protocol, host) = rest.split_once('.')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let entry = zone.find(host)?;
    let fits = |named: &str, port: u16| named.eq_ignore_ascii_case(service) || service.parse() == Ok(port);
    let ports =
        entry.ports.iter().filter(|(port, _)| port.protocol == protocol && fits(&port.service, port.port));
    let (mut answers, mut additionals) = (Vec::new(), Vec::new());
    for (port, host) in ports.filter(|_| wants(kind, RecordType::SRV)) {
        let Some(target) = full_name(zone, host) else { continue };
        answers.push(record(owner, RData::SRV(SRV::new(0, 0, port.port, target.clone()))));
        let there = zone.find(&host.to_ascii_lowercase());
        additionals
            .extend(there.into_iter().flat_map(|entry| addresses(&target, entry, RecordType::ANY, rng)));
    }
    rng.shuffle(&mut answers);
    Some((answers, additionals))
}

/// A name as zones have it: lower case, no dot at the end. `None` if a label has a dot of its own, or isn't text.
pub(super) fn text(name: &Name) -> Option<String> {
    let labels: Option<Vec<_>> = name.iter().map(|label| std::str::from_utf8(label).ok()).collect();
    let labels = labels.filter(|labels| labels.iter().all(|label| !label.contains('.')))?;
    Some(labels.join(".").to_ascii_lowercase())
}

/// The name of a host outside of its network. `None` if it is too long for DNS.
fn full_name(zone: &Zone, host: &str) -> Option<Name> {
    let labels = host.split('.').chain(zone.network().split('.')).map(str::as_bytes);
    Name::from_labels(labels).ok()
}

/// The address that a name under `in-addr.arpa` or `ip6.arpa` stands for, if it is whole.
fn reversed(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

pub(super) fn reply(asked: &Metadata, message: Option<&Message>, code: ResponseCode) -> Message {
    let mut reply = Message::response(asked.id, asked.op_code);
    reply.metadata = Metadata::response_from_request(asked);
    reply.metadata.response_code = code;
    let Some(message) = message else { return reply };
    // Of several questions, which nobody asks, the reply has none.
    reply.queries.extend(message.queries.first().filter(|_| message.queries.len() == 1).cloned());
    if let Some(asked) = &message.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX).set_dnssec_ok(asked.flags().dnssec_ok);
        edns.set_rcode_high(code.high());
        reply.set_edns(edns);
    }
    reply
}

fn refuse(asked: &Metadata, message: Option<&Message>, code: ResponseCode) -> Outcome {
    reply(asked, message, code).to_vec().map_or(Outcome::Ignore, Outcome::Reply)
}

pub(super) fn limit(query: &Message, through: Through) -> usize {
    usize::from(match through {
        Through::Tcp => u16::MAX,
        Through::Udp => query.edns.as_ref().map_or(UDP_MIN, Edns::max_payload).clamp(UDP_MIN, UDP_MAX),
    })
}

/// Leaves out the additional records, which nobody was promised, then answers until it fits. `None`: not even the
/// question does.
pub(super) fn emit(mut reply: Message, limit: usize) -> Option<Vec<u8>> {
    let mut bytes = reply.to_vec().ok()?;
    if bytes.len() > limit {
        reply.additionals.clear();
        bytes = reply.to_vec().ok()?;
    }
    while bytes.len() > limit {
        // Their share of what is too much, by the average: a few rounds for any number.
        let body = bytes.len().saturating_sub(HEADER_LEN).max(1);
        let excess = (bytes.len() - limit) * reply.answers.len() / body;
        let keep = reply.answers.len().checked_sub(excess.max(1))?;
        reply.answers.truncate(keep);
        reply.metadata.truncation = true;
        bytes = reply.to_vec().ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
