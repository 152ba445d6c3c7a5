//! What bytes of strangers and members become here, for fuzzing (`fuzz/targets`): their types are nobody's business
//! outside of this module.
//!
//! Each takes arbitrary bytes, and panics if something that must hold of them doesn't.

use std::collections::BTreeSet;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{links, records, wire};
use crate::gossip::codec;
use crate::service::update::must_replace;
use crate::service::{EndpointMode, PortMode, ServiceSpec, ServiceUpdate, UpdateOrder};

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

/// A frame of the mesh, on a link.
pub fn mesh(data: &[u8]) {
    crate::mesh::frame::fuzz(data);
}

/// What a member writes into gossip's tables.
pub fn record(data: &[u8]) {
    coded::<records::NodeRecord>(data);
    coded::<records::Presence>(data);
    coded::<records::EndpointRecord>(data);
    coded::<records::SharesRecord>(data);
    coded::<records::TaskRecord>(data);
    coded::<records::UnboundRecord>(data);
    coded::<records::MemberRecord>(data);
    coded::<records::Removed>(data);
    coded::<records::ClusterSettings>(data);
    coded::<records::NetworkRecord>(data);
    coded::<records::ServiceRecord>(data);
    coded::<records::TokenState>(data);
    coded::<records::RevokedSerial>(data);
}

/// A service and its changes, each as a line of JSON as the API takes it: refused, or something that makes sense in itself
/// comes of it, whatever came before.
pub fn service(data: &[u8]) {
    let mut lines = data.split(|&byte| byte == b'\n');
    let first = lines.next().and_then(|line| serde_json::from_slice::<ServiceSpec>(line).ok());
    let Some(mut spec) = first else { return };
    makes_sense(&spec);
    for line in lines {
        let Ok(update) = serde_json::from_slice::<ServiceUpdate>(line) else { continue };
        let Ok(after) = update.apply(&spec) else { continue };
        makes_sense(&after);
        assert!(!must_replace(&after, &after), "it does for itself");
        assert_eq!(must_replace(&spec, &after), must_replace(&after, &spec), "a way back is as far");
        spec = after;
    }
}

fn makes_sense(spec: &ServiceSpec) {
    assert_eq!(ServiceSpec::new(spec.clone().into_parts()).as_ref(), Ok(spec));
    let written = serde_json::to_vec(spec).expect("it has strings for keys");
    assert_eq!(serde_json::from_slice::<ServiceSpec>(&written).ok().as_ref(), Some(spec));
    assert_eq!(codec::decode::<ServiceSpec>(&codec::encode(spec)).as_ref(), Ok(spec));
    let mut networks = BTreeSet::new();
    assert!(spec.networks.iter().all(|network| networks.insert(&network.network)), "a network twice");
    let mut published = BTreeSet::new();
    for port in &spec.ports {
        assert!(
            port.published.is_none_or(|number| published.insert((number, port.protocol))),
            "{port} twice"
        );
        let (mesh, mode) = (port.mode == PortMode::Ingress, spec.endpoint_mode);
        assert!(!mesh || mode == EndpointMode::Vip, "{port} leads to no virtual address");
        assert!(mesh || spec.update.order == UpdateOrder::StopFirst, "{port} for two tasks at once");
    }
    assert!(
        spec.env.iter().all(|variable| variable.find('=').is_some_and(|at| at > 0)),
        "a variable without a name"
    );
    assert!(!spec.command.is_empty() || spec.env.is_empty(), "variables of no program");
    let week_ms = 7 * 24 * 3_600 * 1_000;
    assert!(
        [spec.stop_grace_ms, spec.update.delay_ms, spec.restart.delay_ms].iter().all(|&time| time <= week_ms)
    );
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
