//! What the tests of several modules start from.

use std::time::{Duration, SystemTime};

use ring::rand::SystemRandom;

use crate::ca::{Ca, Certificate};
use crate::identity::{ClusterId, NodeId, PrivateKey, Role};

#[expect(clippy::disallowed_methods, reason = "a test has to take randomness from somewhere")]
pub(crate) fn random() -> SystemRandom {
    SystemRandom::new()
}

/// Some day in 2026; nothing depends on which.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000)
}

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn ca() -> Ca {
    Ca::make(ClusterId::random(&random()).unwrap(), now(), &random()).unwrap()
}

/// A node of a cluster, as it is after joining.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) key: PrivateKey,
    pub(crate) certificate: Certificate,
}

pub(crate) fn node(ca: &Ca, role: Role, now: SystemTime) -> Node {
    let (id, key) = (NodeId::random(&random()).unwrap(), PrivateKey::generate(&random()).unwrap());
    let certificate = ca.issue(&key.request(), id, role, now, &random()).unwrap();
    Node { id, key, certificate }
}
