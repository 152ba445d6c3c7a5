//! How messages leave: once or twice, in datagrams or in bulk.

use std::net::SocketAddr;
use std::time::Instant;

use crate::codec;
use crate::engine::Engine;
use crate::id::NodeId;
use crate::message::{BulkTransmit, CONTENT_LIMIT, KIND_MESSAGE, Message, Transmit};
use crate::swim::REPEAT_AFTER;

/// More than these to one node go in bulk, where they can't overrun its socket's buffer.
const DATAGRAMS_AT_ONCE: usize = 16;

impl Engine {
    pub(crate) fn transmit_twice(&mut self, now: Instant, transmit: Transmit) {
        self.delayed.push_back((now + REPEAT_AFTER, transmit.clone()));
        self.out.transmits.push(transmit);
    }

    pub(crate) fn say_once(&mut self, to: SocketAddr, message: &Message) {
        self.out.transmits.push(Transmit { to, kind: KIND_MESSAGE, bytes: codec::encode(message) });
    }

    pub(crate) fn say_twice(&mut self, now: Instant, to: SocketAddr, message: &Message) {
        self.transmit_twice(now, Transmit { to, kind: KIND_MESSAGE, bytes: codec::encode(message) });
    }

    /// Sends to a known node: by datagrams if each fits one and they are few, else in bulk.
    pub(crate) fn say(&mut self, node: NodeId, messages: &[Message]) {
        let Some(to) = self.neighbours.get(&node).map(|neighbour| neighbour.peer.addr) else { return };
        let encoded: Vec<Vec<u8>> = messages.iter().map(codec::encode).collect();
        if messages.len() > DATAGRAMS_AT_ONCE || encoded.iter().any(|bytes| bytes.len() > CONTENT_LIMIT) {
            let bytes = codec::encode(&messages);
            self.out.bulks.push(BulkTransmit { node, to, bytes });
        } else {
            let transmits = encoded.into_iter().map(|bytes| Transmit { to, kind: KIND_MESSAGE, bytes });
            self.out.transmits.extend(transmits);
        }
    }
}
