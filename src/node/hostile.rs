//! What bytes of strangers and members become here, for fuzzing (`fuzz/targets`): their types are nobody's business
//! outside of this module.
//!
//! Each takes arbitrary bytes, and panics if something that must hold of them doesn't.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{links, records, wire};
use crate::gossip::codec;

/// What is said on TCP 2377, length included, by either end: refused, or read again as the same when written.
pub fn join(data: &[u8]) {
    framed::<wire::Request>(data);
    framed::<wire::Answer>(data);
}

/// What members say to each other on TCP 7946, behind the length.
pub fn link(data: &[u8]) {
    coded::<links::Request>(data);
    coded::<links::Answer>(data);
    coded::<links::Confirm>(data);
}

/// What a member writes into gossip's tables.
pub fn record(data: &[u8]) {
    coded::<records::NodeRecord>(data);
    coded::<records::Presence>(data);
    coded::<records::EndpointRecord>(data);
    coded::<records::SharesRecord>(data);
    coded::<records::MemberRecord>(data);
    coded::<records::Removed>(data);
    coded::<records::ClusterSettings>(data);
    coded::<records::NetworkRecord>(data);
    coded::<records::TokenState>(data);
    coded::<records::RevokedSerial>(data);
}

fn framed<T: Serialize + DeserializeOwned>(data: &[u8]) {
    let mut rest = data;
    let Ok(message) = at_once(wire::receive::<T>(&mut rest)) else { return };
    assert!(data.len() - rest.len() <= 4 + wire::MESSAGE_MAX, "it took more than it may");
    // Fields that were left out are written, so one of almost the limit may be too long then.
    let mut written = Vec::new();
    if at_once(wire::send(&mut written, &message)).is_ok() {
        let again = at_once(wire::receive::<T>(&mut written.as_slice())).expect("we have written it");
        let mut rewritten = Vec::new();
        at_once(wire::send(&mut rewritten, &again)).expect("it is as long as before");
        assert_eq!(rewritten, written, "what is written is read as something else");
    }
}

fn coded<T: Serialize + DeserializeOwned>(data: &[u8]) {
    let Ok(value) = codec::decode::<T>(data) else { return };
    let written = codec::encode(&value);
    let again = codec::decode::<T>(&written).expect("we have written it");
    assert_eq!(codec::encode(&again), written, "what is written is read as something else");
}

/// The outcome of a future that has nothing to wait for.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("bytes in memory are always there"),
    }
}
